"""What tests of stages share: what a refusal must tell, and what is told of progress."""

import contextlib

import pytest

from stages.shared.stage import StageError


@contextlib.contextmanager
def refused(*told):
    """The block raises a StageError whose message tells each of these: paths, names, numbers; in any wording."""
    with pytest.raises(StageError) as found:
        yield found
    missing = [str(each) for each in told if str(each) not in found.value.message]
    assert not missing, (missing, found.value.message)


def progress_of(module, monkeypatch):
    """A list that fills with what a stage's module says of its progress: (what, total), then each step."""
    told = []

    class Told:
        def __init__(self, what, total):
            told.append((what, total))

        def advance(self, count=1):
            told.append(count)

    monkeypatch.setattr(module, "Progress", Told)
    return told
