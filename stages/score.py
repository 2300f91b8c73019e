"""Decode the network's outputs and score them by two protocols.

published   what the reference's scripts do, defects included, so that its published figures can be compared:
            (N - 1) // B whole batches of the N utterances, and Greedy hypotheses that start with a space, so that
            each costs one character edit more.
complete    every utterance, clean strings: the figures to quote.

WER is the phone error rate: edits over phones, separated by spaces. CER: edits over the characters of the phones
joined by single spaces. Both are pooled: the edits of all utterances over the length of all references.
"""

import collections
import json
import os

import numpy as np

from stages import _arpa, _bins, _decode, _edits
from stages._labels import read_lines
from stages._stage import Progress, StageError, atomic_file, parser, run, write_json

FRAMES = 195
PUBLISHED, COMPLETE = "published", "complete"


def main(arguments):
    options = _options(arguments)
    manifest = _bins.read_manifest(options.batches, options.bs)
    if not manifest["utterances"]:
        raise StageError(
            "{} lists no utterance: nothing to score".format(os.path.join(options.batches, "manifest.json"))
        )
    units = read_lines(os.path.join(options.corpus, "units"))
    labels = _labels(os.path.join(options.corpus, manifest["split"], "phn_text"))
    decoder = _decoder(options, units)
    scores = list(_score_all(options, manifest, labels, decoder, len(units) + _decode.FIRST_UNIT))

    num_published = (len(scores) - 1) // options.bs * options.bs
    for position, score in enumerate(scores):
        score["in_published"] = position < num_published
    protocols = {
        PUBLISHED: _summary([s for s in scores if s["in_published"]], PUBLISHED),
        COMPLETE: _summary(scores, COMPLETE),
    }
    result = {
        "batch_size": options.bs,
        "split": manifest["split"],
        "decode": decoder.description(),
        "protocols": protocols,
        "excluded": manifest["excluded"],
    }
    write_json(os.path.join(options.out, "score.json"), result)
    with atomic_file(os.path.join(options.out, "utterances.jsonl"), "w") as stream:
        for score in scores:
            kept = {key: value for key, value in score.items() if not key.startswith("_")}
            stream.write(json.dumps(kept, sort_keys=True, ensure_ascii=False) + "\n")


def _options(arguments):
    options = parser(__doc__)
    options.add_argument("--outputs", required=True, metavar="DIR", help="result folder of the stage infer")
    options.add_argument("--batches", required=True, metavar="DIR", help="result folder of the stage batches")
    options.add_argument("--corpus", required=True, metavar="DIR", help="result folder of the stage corpus")
    options.add_argument("--lm", metavar="DIR", help="result folder of the stage lm, or an ARPA file (Beam only)")
    options.add_argument("--bs", type=int, required=True, metavar="B", help="batch size of the outputs")
    options.add_argument("--decode", choices=["Greedy", "Beam"], default="Greedy")
    options.add_argument("--beam-width", type=int, default=10, help="labellings kept a frame (%(default)s)")
    options.add_argument("--lm-alpha", type=float, default=0.1, help="weight of the language model (%(default)s)")
    parsed = options.parse_args(arguments)
    if parsed.decode == "Beam" and not parsed.lm:
        options.error("--decode Beam needs --lm")
    if parsed.bs < 1 or parsed.beam_width < 1:
        options.error("--bs and --beam-width are 1 or more")
    return parsed


class _Greedy:
    """Greedy strings; in the published protocol every phone has a space before it."""

    def __init__(self, units):
        self._names = _decode.symbols(units)

    def phones(self, logprobs, _utterance):
        return [self._names[k] for k in _decode.greedy(logprobs)]

    def published_text(self, phones):
        return "".join(" " + phone for phone in phones)

    def description(self):
        return {"type": "Greedy"}


class _Beam:
    """Beam search; counts what the reference could not have decoded."""

    def __init__(self, units, model, width, alpha):
        self._names = _decode.symbols(units)
        self._next, self._end = model.tables(units, alpha)
        self._missing = model.missing(units)
        self._width, self._alpha = width, alpha
        self._empty, self._underflowed = [], []

    def phones(self, logprobs, utterance):
        result = _decode.beam(logprobs, self._next, self._end, self._width)
        if result.empty_survived:
            self._empty.append(utterance)
        if result.underflowed:
            self._underflowed.append(utterance)
        return [self._names[k] for k in result.labels]

    def published_text(self, phones):
        return " ".join(phones)

    def description(self):
        return {
            "type": "Beam",
            "beam_width": self._width,
            "lm_alpha": self._alpha,
            "reference_would_fail": {
                "empty_labelling_survived": {
                    "utterances": self._empty,
                    "handled": "it ends with the model's probability of </s> after <s>, and counts as length 1",
                },
                "probability_underflowed_to_zero": {
                    "utterances": self._underflowed,
                    "handled": "its logarithm is taken as {:.0f}".format(_decode.LOG_ZERO),
                },
                "symbols_missing_in_language_model": {
                    "symbols": self._missing,
                    "handled": "taken as <unk>, or as the rarest word of a model without <unk>",
                },
            },
        }


def _decoder(options, units):
    if options.decode == "Greedy":
        return _Greedy(units)
    path = os.path.join(options.lm, "lm_phone_bg.arpa") if os.path.isdir(options.lm) else options.lm
    return _Beam(units, _arpa.read(path), options.beam_width, options.lm_alpha)


def _score_all(options, manifest, labels, decoder, classes):
    """Yield the score of each utterance, in the manifest's order, holding one batch at a time."""
    utterances = manifest["utterances"]
    progress = Progress("score " + manifest["split"], len(utterances))
    loaded, outputs, path = None, None, None
    for entry in utterances:
        if entry["batch"] != loaded:
            loaded = entry["batch"]
            folder = "result" if loaded < manifest["num_batches"] else "tail"
            path = os.path.join(options.outputs, folder, "inputs_{}_0.npy".format(loaded))
            outputs = _outputs(path, options.bs, classes)
        logprobs = outputs[: entry["output_frames"], entry["row"]]
        if np.isnan(logprobs).any() or (logprobs == np.inf).any():
            raise StageError(
                "{}: the outputs of {} hold NaN or infinity".format(path, entry["id"]),
                "The model overflowed, often by conversion to fp16: see the stage compare for where it deviates.",
            )
        if entry["id"] not in labels:
            raise StageError("utterance {} has outputs but no line in phn_text".format(entry["id"]))
        yield _score(entry["id"], labels[entry["id"]], decoder.phones(logprobs, entry["id"]), decoder)
        progress.advance()


def _score(utterance, reference, hypothesis, decoder):
    """One line of utterances.jsonl; keys that start with _ are for pooling only."""
    substitutions, insertions, deletions, confusions = _edits.alignment(reference, hypothesis)
    wer_edits = substitutions + insertions + deletions
    text = " ".join(reference)
    hypotheses = {PUBLISHED: decoder.published_text(hypothesis), COMPLETE: " ".join(hypothesis)}
    score = {
        protocol: {"hypothesis": spoken, "cer_edits": _edits.characters(text, spoken), "wer_edits": wer_edits}
        for protocol, spoken in hypotheses.items()
    }
    score.update(
        {
            "id": utterance,
            "reference": text,
            "phones": len(reference),
            "wer_counts": {"substitutions": substitutions, "insertions": insertions, "deletions": deletions},
            "_confusions": confusions,
        }
    )
    return score


def _summary(scores, protocol):
    """Pool the utterances' scores; rates are null where no utterance is scored."""
    phones = [s["phones"] for s in scores]
    characters = [len(s["reference"]) for s in scores]
    cer_edits = [s[protocol]["cer_edits"] for s in scores]
    wer_edits = [s[protocol]["wer_edits"] for s in scores]
    cer = _edits.percent(sum(cer_edits), sum(characters))
    wer = _edits.percent(sum(wer_edits), sum(phones))
    confusions = sum((s["_confusions"] for s in scores), collections.Counter())
    return {
        "utterances": len(scores),
        "phones": sum(phones),
        "characters": sum(characters),
        "cer_percent": cer,
        "wer_percent": wer,
        "cer_printed": None if cer is None else "{:.4f}".format(cer),
        "wer_printed": None if wer is None else "{:.4f}".format(wer),
        "edits": {"cer": sum(cer_edits), "wer": sum(wer_edits)},
        "wer_counts": {
            kind: sum(s["wer_counts"][kind] for s in scores) for kind in ("substitutions", "insertions", "deletions")
        },
        "interval_95": {
            "cer_percent": _edits.interval_95(cer_edits, characters),
            "wer_percent": _edits.interval_95(wer_edits, phones),
            "method": _edits.INTERVAL_METHOD,
        },
        "confusions": [
            {"reference": reference, "hypothesis": hypothesis, "count": count}
            for (reference, hypothesis), count in sorted(confusions.items(), key=lambda item: (-item[1], item[0]))
        ],
    }


def _outputs(path, batch_size, classes):
    """One batch's outputs, (195, batch_size, classes) floating point."""
    try:
        outputs = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StageError("cannot read the outputs {}: {}".format(path, error), "Run the stage infer again.")
    expected = (FRAMES, batch_size, classes)
    if outputs.shape != expected or outputs.dtype.kind != "f":
        raise StageError(
            "{} holds {} {}, not floating point {}".format(path, outputs.dtype, outputs.shape, expected),
            "The outputs must come from these batches, and the model must have as many classes as units + 2.",
        )
    return outputs


def _labels(path):
    """Utterance id -> list of phones."""
    return {fields[0]: fields[1:] for fields in (line.split() for line in read_lines(path))}


if __name__ == "__main__":
    run(main)
