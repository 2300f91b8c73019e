"""How a stage's end is told: its own words, the machine's troubles by their name, and what comes first."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from _graph_cases import Bench

from repro.base.errors import StageFailed
from repro.container.job import Outcome
from repro.graph.failure import failure_of
from repro.graph.log import Said


def said(*lines: str, error: str = "", hints: tuple[str, ...] = ()) -> Said:
    found = Said(error=error, hints=list(hints))
    found.tail.extend(lines)
    return found


def failure(outcome: Outcome, said_: Said) -> StageFailed:
    return failure_of("stage x", 60.0, 8 * 10**9, outcome, said_, "/logs/x.log")


def ended(code: int, *, timed_out: bool = False, out_of_memory: bool = False) -> Outcome:
    return Outcome(code, timed_out, 1.0, {}, out_of_memory)


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.ENOSPC, "full"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only"), (errno.EIO, "disk"),
     (errno.EACCES, "permission"), (errno.EMFILE, "files"), (errno.ENOMEM, "memory")],
)  # fmt: skip
def test_an_error_of_the_machine_is_no_defect_of_the_stage(number: int, word: str):
    lines = ("Traceback (most recent call last):", f"OSError: {OSError(number, os.strerror(number))}")
    error = failure(ended(1), said(*lines))
    assert word in error.message and "defect" not in error.hint and error.hint
    assert error.detail == f"{lines[-1]}\nthe whole log: /logs/x.log"  # and no traceback


def test_a_refused_input_keeps_its_own_words_and_hints():
    error = failure(ended(3), said("error: no", error="no", hints=("mend it",)))
    assert (error.message, error.hint) == ("stage x: no", "mend it")


def test_a_full_disk_that_the_stage_names_itself_gets_the_hint_of_a_full_disk():
    error = failure(ended(3), said(error="cannot write features: No space left on device"))
    assert "cannot write features" in error.message and "free space" in error.hint


def test_what_has_no_name_is_a_defect_with_its_exit_code_and_log():
    error = failure(ended(1), said("ZeroDivisionError"))
    assert "exit code 1" in error.message and "ZeroDivisionError" in error.detail and "report" in error.hint


def test_time_goes_before_memory_and_memory_before_what_was_said():
    line = said("error: no", error="no")
    assert "longer than its limit of 60 s" in failure(ended(137, timed_out=True, out_of_memory=True), line).message
    assert "killed, most likely for memory (limit 8.0 GB)" in failure(ended(137, out_of_memory=True), line).message
    assert failure(ended(137), line).message == "stage x: no"
    assert "for memory" in failure(ended(137), said()).message


def test_a_timeout_counts_whatever_the_exit_code_says(tmp_path: Path, monkeypatch):
    bench = Bench(tmp_path, lambda job, out, obs, on_line: 0)
    monkeypatch.setattr(bench.engine, "run", lambda job, on_line: Outcome(0, True, 9.0, {}))
    with pytest.raises(StageFailed, match="longer than its limit"):
        bench.runner().run(bench.nodes())
    assert list(bench.store().entries()) == []


def test_the_first_of_two_failures_is_told(tmp_path: Path):
    def refuse(job, out, obs, on_line):
        on_line("stderr", f"error: {job.name}")
        return 3

    bench = Bench(tmp_path, refuse)
    with pytest.raises(StageFailed, match="stage first: first"):
        bench.runner().run(bench.nodes())
    assert bench.engine.ran == ["first"]


def test_a_log_that_cannot_be_kept_does_not_hide_the_failure(tmp_path: Path):
    bench = Bench(tmp_path, lambda job, out, obs, on_line: 1)
    (bench.root / "artifacts").mkdir()
    (bench.root / "artifacts" / "logs").write_text("a file where the folder should be")
    with pytest.raises(StageFailed, match="exit code 1") as caught:
        bench.runner().run(bench.nodes())
    assert "could not be kept" in caught.value.detail
