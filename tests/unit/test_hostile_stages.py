"""Whatever a stage leaves or prints does no harm: the error has a name, all is cleared away, the next command works.

In real containers a larger campaign does the same: tests/integration/test_hostile_campaign.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from _graph_cases import Bench, SilentWatcher

from repro.base.confined import TreeLimits
from repro.base.errors import BundleError, NotPlain, StageFailed, VerificationFailed
from repro.graph.cache import StatCache
from repro.graph.leavings import take_in
from repro.graph.log import StageLog
from tests.hostile_stages import HOSTILE, PRELUDE


def behaving(program: str, victim: Path):
    """A stage of the tiny graph that runs `program`; its lines are split as the engines do."""

    def behave(job, out: Path, obs: Path, on_line) -> int:
        env = {**os.environ, "OUT": str(out), "OBS": str(obs), "VICTIM": str(victim)}
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + program], env=env, capture_output=True, timeout=60, check=False
        )
        for stream in ("stdout", "stderr"):
            for line in getattr(done, stream).decode("utf-8", "surrogateescape").split("\n")[:-1]:
                on_line(stream, line)
        return done.returncode

    return behave


class Watching(SilentWatcher):
    def __init__(self) -> None:
        self.shown: list[str] = []

    def progress(self, key: str, done: int, total: int, what: str) -> None:
        self.shown.append(f"{key} {what} {done}/{total}")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_stage_is_contained_named_and_cleared_away(name: str, tmp_path: Path):
    program, refused = HOSTILE[name]
    victim = tmp_path / "victim"
    victim.write_text("the user's own")
    (tmp_path / "checkout").mkdir()
    bench = Bench(tmp_path / "checkout", behaving(program, victim))
    bench.watcher = watching = Watching()
    nodes = {"first": bench.nodes()["first"]}
    error = ""
    try:
        bench.runner().run(nodes)
    except (VerificationFailed, StageFailed) as caught:
        error = caught.diagnostics()
        assert "first" in caught.message and caught.hint + caught.detail
    assert re.search(refused, error) if refused else not error, error
    assert all(line.isprintable() for line in [*watching.shown, *error.splitlines()])
    assert victim.read_text() == "the user's own"
    artifacts = bench.root / "artifacts"
    assert list((artifacts / "tmp").iterdir()) == []
    assert list(bench.store().entries()) == [] or not error
    for log in (artifacts / "logs").glob("*.log"):
        assert all(line.replace("\t", "").isprintable() for line in log.read_text("utf-8").splitlines())
    bench.engine.behave = behaving("", victim)
    (bench.data / "wave").write_bytes(b"another")
    assert not bench.runner().run(nodes)["first"].cached


def left(tmp_path: Path) -> Path:
    for part in ("out", "obs"):
        (tmp_path / "result" / part).mkdir(parents=True)
    (tmp_path / "result" / "out" / "a").write_bytes(b"one")
    return tmp_path / "result"


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch):
    result = left(tmp_path)
    real = os.fchmod

    def change(descriptor: int, mode: int) -> None:
        real(descriptor, mode)
        if mode == 0o444:
            os.utime(result / "out" / "a", ns=(1, 1))

    monkeypatch.setattr(os, "fchmod", change)
    with pytest.raises(NotPlain, match="still at work"):
        take_in("first", result, (), TreeLimits(), StatCache(None))


def test_a_file_that_is_swapped_for_a_link_after_the_listing_is_refused(tmp_path: Path, monkeypatch):
    result = left(tmp_path)
    (tmp_path / "secret").write_text("the host's own")
    real = os.fchmod

    def swap(descriptor: int, mode: int) -> None:
        real(descriptor, mode)
        (result / "out" / "a").unlink(missing_ok=True)
        (result / "out" / "a").symlink_to(tmp_path / "secret")

    monkeypatch.setattr(os, "fchmod", swap)
    with pytest.raises(NotPlain, match=r"first.*out/.*a is"):
        take_in("first", result, (), TreeLimits(), StatCache(None))


def test_the_limit_that_a_stage_declares_is_the_one_that_counts(tmp_path: Path):
    result = left(tmp_path)
    (result / "out" / "b").write_bytes(b"12345")
    with pytest.raises(NotPlain, match="more than 1 files"):
        take_in("first", result, (), TreeLimits(entries=1), StatCache(None))
    with pytest.raises(NotPlain, match="more than 7 bytes"):
        take_in("first", result, (), TreeLimits(total_bytes=7), StatCache(None))
    assert set(take_in("first", result, (), TreeLimits(entries=2), StatCache(None)).outputs) == {"a", "b"}


def test_a_log_is_made_anew_and_never_through_a_link(tmp_path: Path):
    (tmp_path / "victim").write_text("the user's own")
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        StageLog(tmp_path / "log", lambda done, total, what: None)
    assert (tmp_path / "victim").read_text() == "the user's own"


def test_a_log_is_bounded_in_bytes_whatever_its_characters_take(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("repro.graph.log._MOST_BYTES", 1000)
    with StageLog(tmp_path / "log", lambda done, total, what: None) as log:
        for _ in range(100):
            log.line("stdout", "\U0001f600" * 50)
    assert (tmp_path / "log").stat().st_size < 1100
    assert (tmp_path / "log").read_text("utf-8").endswith("cut here: 16 MiB]\n")


def test_a_reader_that_hangs_is_not_waited_for(tmp_path: Path):
    """A FIFO is never opened for reading in a way that waits for a writer."""
    result = left(tmp_path)
    os.mkfifo(result / "obs" / "commands.json")
    errors: list[BaseException] = []

    def take() -> None:
        try:
            take_in("first", result, (), TreeLimits(), StatCache(None))
        except BundleError as error:
            errors.append(error)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive() and isinstance(errors[0], NotPlain)
