"""Phone and word labels: TIMIT's .PHN and .WRD files, the folding of phones, and lists of `ID SYMBOL...` lines."""

from __future__ import annotations

from typing import Iterator, Mapping, Sequence

from stages.shared.stage import StageError

DROPPED = ""


def each_line(path: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, blank ones left out; StageError where it cannot be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    yield line.strip()
    except (OSError, ValueError) as error:
        raise StageError("cannot read {}: {}".format(path, error)) from error


def read_lines(path: str) -> list[str]:
    """As `each_line`, of a small file, as a list."""
    return list(each_line(path))


def each_entry(path: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (id, [symbols]) of a file of `ID SYMBOL...` lines, in its order."""
    for line in each_line(path):
        words = line.split()
        yield words[0], words[1:]


def read_speakers(path: str) -> frozenset[str]:
    """Speaker names of a list, upper case. Blank lines are nothing (in the reference, one matches every speaker)."""
    speakers = [line.upper() for line in read_lines(path)]
    if len(set(speakers)) != len(speakers) or any(len(line.split()) != 1 for line in speakers):
        raise StageError("{}: it must hold one speaker per line, each once".format(path))
    return frozenset(speakers)


def read_phone_map(path: str) -> dict[str, str]:
    """The folding 60 -> 39 of a tab-separated `60 48 39` map: {phone: phone of 39, or DROPPED where it has none}."""
    folding = {}
    for line in read_lines(path):
        fields = line.split("\t")
        if len(fields) not in (1, 3) or fields[0] in folding:
            raise StageError("{}: not a line `60 TAB 48 TAB 39`, or a phone twice: {!r}".format(path, line))
        folding[fields[0]] = fields[2] if len(fields) == 3 else DROPPED
    return folding


def third_column(data: bytes, name: str) -> list[str]:
    """The labels of a .PHN or .WRD file (`START END LABEL` lines, in samples); StageError naming the file."""
    try:
        labels = []
        for line in data.decode("utf-8").splitlines():
            if line.strip():
                start, end, label = line.split()
                if int(start) < 0 or int(end) < 0:
                    raise ValueError("a negative time")
                labels.append(label)
        return labels
    except ValueError:
        raise StageError("{}: not lines of `START END LABEL`".format(name), "Copy it again.") from None


def fold(phones: Sequence[str], folding: Mapping[str, str], name: str) -> list[str]:
    """Phones of 60 folded to 39, those without a target left out; StageError for an unknown one."""
    unknown = sorted({phone for phone in phones if phone not in folding})
    if unknown:
        raise StageError("{}: unknown phone {}".format(name, ", ".join(map(repr, unknown))), "TIMIT's 61 are known.")
    folded = [folding[phone] for phone in phones]
    return [phone for phone in folded if phone != DROPPED]


def read_table(path: str) -> list[tuple[str, list[str]]]:
    """As `each_entry`, as a list; StageError where an id stands twice."""
    table = list(each_entry(path))
    if len({utterance for utterance, _ in table}) != len(table):
        raise StageError("{}: an utterance stands there twice".format(path))
    return table
