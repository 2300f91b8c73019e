"""One hostile stage, in every engine: it gets nowhere, ends by timeout, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import uuid
from pathlib import Path

import pytest

from repro.container.job import Job, Limits, Mount
from tests.integration import _trial

pytestmark = pytest.mark.integration
HOSTILE = Path(__file__).parent / "hostile"
MEMORY_BYTES = 256 << 20
PIDS = 64


@pytest.fixture(params=sorted(_trial.MAKERS))
def engine(request, trial_image):
    return _trial.engine(request.param)


@pytest.fixture
def attack(engine, tmp_path):
    """Runs one attempt of the hostile stage; gives its outcome and what it reported."""
    out, inputs = tmp_path / "out", tmp_path / "in"
    out.mkdir()
    inputs.mkdir()
    (inputs / "x").write_text("input")
    mark = uuid.uuid4().hex

    def run(*arguments, timeout_s=60.0):
        lines = []
        job = Job(
            image=_trial.image(),
            argv=(_trial.PYTHON, "-I", "/run/hostile/hostile.py", *arguments),
            mounts=(
                Mount(HOSTILE, "/run/hostile"),
                Mount(inputs, "/run/in"),
                Mount(out, "/run/out", writable=True),
            ),
            env={"HOSTILE_MARK": mark},
            limits=Limits(timeout_s=timeout_s, memory_bytes=MEMORY_BYTES, pids=PIDS),
            name="hostile",
        )
        outcome = engine.run(job, lambda stream, line: lines.append((stream, line)))
        reports = {}
        for stream, line in lines:
            if stream == "stdout":
                report = json.loads(line)
                reports[report["attempt"]] = report
        return outcome, reports, lines

    run.out, run.inputs, run.mark = out, inputs, mark
    yield run
    assert survivors(mark) == []
    assert (inputs / "x").read_text() == "input"


def survivors(mark):
    """Host processes that carry the mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append((folder.name, (folder / "cmdline").read_bytes()))
            except OSError:
                continue
    return found


def succeeded(reports):
    return {name: report["detail"] for name, report in reports.items() if report["succeeded"]}


def test_no_socket_reaches_the_host_or_the_world(attack):
    name = "hostile-" + uuid.uuid4().hex
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        outcome, reports, lines = attack("reach_out", str(tcp.getsockname()[1]), name)
    assert outcome.exit_code == 0, lines
    assert len(reports) == 5
    assert succeeded(reports) == {}
    assert outcome.limits["network"] == "enforced"


def test_nothing_outside_the_output_can_be_written(attack):
    outcome, reports, lines = attack("write_around", "/run/in")
    assert outcome.exit_code == 0, lines
    assert len(reports) == 10
    assert succeeded(reports) == {}


def test_no_privilege_is_gained_and_set_uid_bits_do_not_survive(attack):
    outcome, reports, lines = attack("gain", "/run/out")
    assert outcome.exit_code == 0, lines
    assert len(reports) == 11
    gained = set(succeeded(reports))
    if outcome.limits["user_namespaces"] != "enforced":
        assert outcome.limits["user_namespaces"].startswith("not enforced: ")
        gained.discard("user namespace")
    assert gained == set()
    written = attack.out / "suid"
    assert stat.S_IMODE(written.stat().st_mode) == 0o755
    assert (written.stat().st_uid, written.stat().st_gid) == (os.getuid(), os.getgid())
    assert ("stderr", "note: took the set-user-ID or set-group-ID bit off suid") in lines


def test_the_hosts_files_processes_and_environment_are_out_of_sight(attack, tmp_path, monkeypatch):
    monkeypatch.setenv("HOST_SECRET", "shown to nobody")
    secret = tmp_path / "secret"
    secret.write_text("the host's own")
    outcome, reports, lines = attack("look_around", str(secret))
    assert outcome.exit_code == 0, lines
    assert succeeded(reports) == {}


def test_a_daemon_ends_with_its_job_and_the_init_leaves_no_zombie(attack):
    outcome, reports, lines = attack("leave_behind")
    assert outcome.exit_code == 0, lines
    assert outcome.wall_s < 60
    assert succeeded(reports) == {}
    assert survivors(attack.mark) == []


def test_a_fork_bomb_that_ignores_signals_ends_by_timeout_while_other_work_goes_on(engine, attack):
    done = []

    def other_work():
        job = Job(image=_trial.image(), argv=("/bin/sh", "-c", "sleep 1; id -u"), name="other work")
        done.append(engine.run(job, lambda stream, line: done.append((stream, line))))

    thread = threading.Thread(target=other_work)
    thread.start()
    outcome, reports, _ = attack("stay", "300", timeout_s=3.0)
    thread.join()
    assert outcome.timed_out
    assert outcome.exit_code == 137
    assert outcome.wall_s < 20
    assert survivors(attack.mark) == []
    assert ("stdout", str(os.getuid())) in done
    assert done[-1].exit_code == 0
    if outcome.limits["pids"] == "enforced":
        assert not reports["forks"]["succeeded"]
        assert int(reports["forks"]["detail"].split()[-1]) < PIDS
    else:
        assert outcome.limits["pids"].startswith("not enforced: ")


def test_memory_beyond_the_limit_ends_the_job_alone(engine, attack):
    if getattr(engine, "_parents", None) is not None and "not enforced" in engine.facts()["memory"]:
        pytest.skip("no control group here: " + engine.facts()["memory"])
    outcome, _, _ = attack("swallow")
    assert outcome.exit_code == 137
    assert not outcome.timed_out
    if engine.name != "podman":  # its events do not tell
        assert outcome.out_of_memory


def test_a_flood_of_output_without_line_ends_arrives_in_bounded_pieces(engine):
    sizes = []
    code = "import sys\nfor _ in range(64): sys.stdout.write('x' * 65536)"
    job = Job(image=_trial.image(), argv=(_trial.PYTHON, "-I", "-c", code))
    outcome = engine.run(job, lambda _stream, line: sizes.append(len(line)))
    assert outcome.exit_code == 0
    assert sum(sizes) == 64 * 65536
    assert max(sizes) <= 65536


def test_what_ran_before_leaves_no_trace_for_what_runs_next(engine):
    lines = []
    for script in ("echo x > /tmp/trace; echo x > /run/trace; echo x > /dev/shm/trace", "cat /tmp/trace /run/trace"):
        job = Job(image=_trial.image(), argv=("/bin/sh", "-c", script))
        engine.run(job, lambda _stream, line: lines.append(line))
    assert "x" not in lines
