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

from repro.base.architecture import here
from repro.container.job import Job, Limits, Mount
from repro.engines import seccomp
from tests.integration import _trial

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
    outcome, reports, lines = attack("write_around", "/run/in", "/run/out")
    assert outcome.exit_code == 0, lines
    assert len(reports) == 15
    assert succeeded(reports) == {}


def test_no_privilege_is_gained_and_set_uid_bits_do_not_survive(attack):
    outcome, reports, lines = attack("gain", "/run/out")
    assert outcome.exit_code == 0, lines
    assert len(reports) == 11
    gained = set(succeeded(reports))
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


def test_each_denied_system_call_ends_with_an_error(attack, engine):
    if engine.name == "docker":
        pytest.skip("Docker has a profile of its own")
    calls = {name: seccomp.number(name, here()) for name in seccomp.DENIED}
    calls = {name: call for name, call in calls.items() if call is not None}
    outcome, reports, lines = attack("call_kernel", json.dumps({**calls, "clone3": 435, "newer": 500}))
    assert outcome.exit_code == 0, lines
    answers = {name: report["detail"] for name, report in reports.items()}
    if engine.name == "podman":  # a profile names calls, and an older libseccomp does not know the newest names
        answers = {name: answer for name, answer in answers.items() if name != "newer" and calls.get(name, 435) < 450}
        calls = {name: call for name, call in calls.items() if call < 450}
        assert answers == {**dict.fromkeys(calls, "EPERM"), "clone3": "ENOSYS"}
    else:
        assert answers == {**dict.fromkeys(calls, "EPERM"), "clone3": "ENOSYS", "newer": "ENOSYS"}
    assert (outcome.limits["system_calls"], outcome.limits["kernel_keys"]) == ("enforced", "enforced")


def test_no_engine_lets_a_job_reach_kernel_keys_bpf_or_mounts(attack):
    names = ("add_key", "request_key", "keyctl", "bpf", "perf_event_open", "mount", "kexec_load", "setns", "reboot")
    calls = {name: seccomp.number(name, here()) for name in names}
    outcome, reports, lines = attack("call_kernel", json.dumps(calls))
    assert outcome.exit_code == 0, lines
    assert {name: report["detail"] for name, report in reports.items()} == dict.fromkeys(names, "EPERM")
    assert outcome.limits["kernel_keys"] == "enforced"
    assert outcome.limits["system_calls"] == "enforced"


def test_sockets_of_other_machines_and_kernel_services_are_denied(attack, engine):
    if engine.name == "docker":
        pytest.skip("Docker has a profile of its own")
    outcome, reports, lines = attack("sockets")
    assert outcome.exit_code == 0, lines
    assert len(reports) == 45
    open_to = {int(name) for name, report in reports.items() if report["detail"] != "EPERM"}
    assert open_to <= {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    assert reports[str(int(socket.AF_UNIX))]["succeeded"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86")
def test_the_calls_of_another_abi_are_denied_in_the_sandbox(attack, engine):
    if engine.name != "sandbox":
        pytest.skip("the engine has a profile of its own")
    outcome, reports, lines = attack("foreign_abi")
    assert outcome.exit_code == 0, lines
    assert {name: report["detail"] for name, report in reports.items()} == {"i386": "EPERM", "x32": "EPERM"}


def test_no_command_line_in_the_container_shows_a_path_of_the_host(attack):
    outcome, reports, lines = attack("command_lines")
    assert outcome.exit_code == 0, lines
    assert "1" in reports
    host = (str(_trial.place()), str(attack.out.parent), str(HOSTILE.parents[2]))
    assert [report for report in reports.values() if any(path in report["detail"] for path in host)] == []


def test_only_the_outputs_and_the_jobs_own_places_are_writable_and_none_is_honoured_for_privileges(attack, engine):
    outcome, reports, lines = attack("places")
    assert outcome.exit_code == 0, lines
    writable = {name[6:] for name, report in reports.items() if name.startswith("write ") and report["succeeded"]}
    may = {"/tmp", "/run", "/dev/shm"} if os.getuid() == 0 else {"/tmp", "/dev/shm"}
    assert writable - {"/dev" if engine.name != "sandbox" else ""} <= may | {"/run"}
    options = {name[6:]: set(report["detail"].split(",")) for name, report in reports.items() if name[:6] == "mount "}
    for place in ("/tmp", "/run", "/dev/shm"):
        assert {"nosuid", "nodev"} <= options[place], place
    for place in ("/run/in", "/run/hostile"):
        assert "ro" in options[place]
    assert "rw" in options["/run/out"]
    assert "ro" in options["/"]


def test_a_daemon_ends_with_its_job_and_the_init_leaves_no_zombie(attack):
    outcome, reports, lines = attack("leave_behind")
    assert outcome.exit_code == 0, lines
    assert outcome.wall_s < 500, "its daemons sleep for 600 s"
    assert succeeded(reports) == {}
    assert survivors(attack.mark) == []


def test_a_fork_bomb_that_ignores_signals_ends_by_timeout_while_other_work_goes_on(engine, attack):
    done = []

    def other_work():
        job = Job(image=_trial.image(), argv=("/bin/sh", "-c", "sleep 1; id -u"), name="other work")
        done.append(engine.run(job, lambda stream, line: done.append((stream, line))))

    thread = threading.Thread(target=other_work)
    thread.start()
    outcome, reports, _ = attack("stay", "300", timeout_s=15.0)
    thread.join()
    assert outcome.timed_out
    assert outcome.exit_code == 137
    assert outcome.wall_s < 200, "it would stay for 300 s"
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
    before = set(os.listdir())
    outcome, _, _ = attack("swallow")
    assert outcome.exit_code == 137
    assert set(os.listdir()) <= before | {".pytest_cache"}, "something was left in the caller's folder"
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
