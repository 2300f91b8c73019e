"""Results of the corpus and features stages, small enough to train on in a test."""

import struct

import numpy as np

from stages.demo import data as training_data

PHONES = [f"p{index}" for index in range(39)]


class Tree:
    """The results of the corpus and features stages, and a corpus with phone times, for utterances of one split."""

    def __init__(self, root, split="train"):
        self.corpus, self.features, self.data = (root / name for name in ("corpus", "features", "data"))
        self._split = split
        for folder in (self.corpus / split, self.features / split, self.data):
            folder.mkdir(parents=True)
        (self.corpus / "units").write_text("".join(phone + "\n" for phone in PHONES), encoding="ascii")

    def write(self, utterances, columns=81):
        """utterances: {id: (frames, phones)}."""
        random = np.random.RandomState(3)
        with open(self.features / self._split / "fbank.ark", "wb") as stream:
            for name, (frames, _) in utterances.items():
                header = struct.pack("<2s3sbibi", b"\0B", b"FM ", 4, frames, 4, columns)  # the exporter has no kaldiio
                values = random.uniform(-1, 1, (frames, columns)).astype("<f4")
                stream.write(name.encode() + b" " + header + values.tobytes())
        lines, rows = [], []
        for name, (frames, phones) in utterances.items():
            lines.append(" ".join([name, *phones]) + "\n")
            rows.append(f"{name}\t{name}.WAV\tsphere\t16000\t{160 * frames + 240}\n")
            ends = [160 * frames * (index + 1) // len(phones) for index in range(len(phones))]
            times = "".join(f"0 {end} {phone}\n" for end, phone in zip(ends, phones))
            (self.data / (name + ".PHN")).write_text(times, encoding="ascii")
        (self.corpus / self._split / "phn_text").write_text("".join(lines), encoding="ascii")
        (self.corpus / self._split / "audio.tsv").write_text("".join(rows), encoding="ascii")
        return self

    def read(self, with_times=True):
        classes = training_data.read_units(str(self.corpus))
        data = str(self.data) if with_times else None
        return training_data.read_split(str(self.corpus), str(self.features), self._split, classes, data)
