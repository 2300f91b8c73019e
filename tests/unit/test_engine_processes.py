"""Engines' own processes, with a small program in the place of bubblewrap and of Podman: what each is started with,
what is read of it, how it ends, and what is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from _engine_cases import IMAGE, FakeDaemon, FakeEndpoint, api_error
from docker.errors import DockerException

from repro.base.architecture import here
from repro.base.errors import CouldNotRun, EngineUnavailable
from repro.base.files import sha256_bytes
from repro.container.job import Job, Limits
from repro.engines import endpoint, podman, running, sandbox, seccomp
from repro.engines.closed import CLOSED
from repro.engines.endpoint import Endpoint, check_files
from repro.engines.following import Killer, Watch
from repro.engines.running import Running, file_with, pipe, read_child_pid
from repro.engines.sandbox import SandboxEngine
from repro.engines.spawner import on_a_lifeline, spawn
from repro.machine import cgroups

NATIVE = dataclasses.replace(IMAGE, architecture=here().name)


def gone(pid: int) -> bool:
    """Whether a process has ended, within a few seconds; one that nobody waited for counts as ended."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


# starting


def test_a_child_has_the_environment_folder_streams_and_descriptors_that_it_is_given_and_no_others(tmp_path):
    reading, writing = os.pipe()
    (tmp_path / "given").write_text("content")
    with open(tmp_path / "given") as given:
        script = "read -r word; echo $word; pwd; env; cat <&3; echo no >&2; ls /proc/self/fd; ps -o sid= -p $$"
        process = spawn(
            ["/bin/bash", "-c", f"exec 3</proc/self/fd/{given.fileno()}; {script}"], pass_fds=(given.fileno(),),
            env={"ONE": "1", "PATH": os.defpath}, stdin=reading, folder=tmp_path,
        )  # fmt: skip
        os.close(reading)
        os.write(writing, b"hello\n")
        os.close(writing)
        out, err = process.communicate()
    lines = out.decode().splitlines()
    assert lines[:2] == ["hello", str(tmp_path)] and err == b"no\n" and "content" in out.decode()
    names = {line.partition("=")[0] for line in lines if "=" in line}
    assert "ONE" in names and not names & {"HOME", "LANG", "USER"}
    assert lines[-1].strip() == str(process.pid), "a session of its own"
    plain = spawn(["/bin/sh", "-c", "cat; pwd; env"])
    out, _ = plain.communicate()
    assert out.decode().splitlines()[0] == os.getcwd() and "ONE" not in out.decode()
    with pytest.raises(FileNotFoundError):
        spawn(["/no/such/program"])


def test_a_program_on_a_lifeline_ends_with_its_children_when_the_pipe_is_closed():
    reading, writing = os.pipe()
    process = spawn(on_a_lifeline(["/bin/sh", "-c", "sleep 60 & echo $!; exec sleep 60"]), stdin=reading)
    os.close(reading)
    child = int(process.stdout.readline())
    assert process.poll() is None
    os.close(writing)
    assert process.wait(10) == -signal.SIGKILL and gone(child)
    process.communicate()


# a started sandbox


@contextlib.contextmanager
def started(script: str):
    """A shell's script as `Running` sees it."""
    with contextlib.ExitStack() as stack:
        reading, writing = pipe(stack)
        process = spawn(on_a_lifeline(["/bin/sh", "-c", script]), env={"PATH": os.defpath}, stdin=reading.number)
        reading.close()
        found = Running(process, writing)
        stack.callback(found.kill)
        yield found, process


def test_output_is_handed_on_line_by_line_and_the_end_is_the_program_s_own():
    said = []
    with started("echo one; echo two >&2; printf three; exec >&- 2>&-; exit 7") as (found, process):
        found.watch(process.pid)
        assert found.pump(time.monotonic() + 60, lambda *line: said.append(line)) is False
        assert found.finish() == 7 and found.finish() == 7, "a second time as the first"
    assert sorted(said) == [("stderr", "two"), ("stdout", "one"), ("stdout", "three")]
    assert process.stdout.closed and process.stderr.closed
    with started("kill -TERM $$") as (found, _):
        assert found.pump(time.monotonic() + 60, lambda *_: None) is False
        assert found.finish() == 128 + signal.SIGTERM


@pytest.mark.parametrize("script", ["echo $$; sleep 60 & sleep 60", "echo $$; exec >&- 2>&-; sleep 60"])
def test_a_program_over_its_time_is_killed_with_all_its_children(script):
    said = []
    with started(script) as (found, process):
        assert found.pump(time.monotonic() + 0.3, lambda *line: said.append(line)) is True
        assert process.poll() is None, "whoever finishes it kills it"
        assert found.finish() == 128 + signal.SIGKILL
    assert set(said) <= {("stdout", str(process.pid))} and gone(process.pid)


def test_an_end_that_does_not_come_is_told_and_nothing_stays_open(monkeypatch):
    monkeypatch.setattr(running, "_END_TIMEOUT_S", 0.05)
    with subprocess.Popen(["/bin/sleep", "60"]) as other, started("sleep 60") as (found, _):
        before = len(os.listdir("/proc/self/fd"))
        found.watch(other.pid)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        with pytest.raises(CouldNotRun, match="the sandbox's processes did not end within 0 s of being killed"):
            found.kill()
        assert len(os.listdir("/proc/self/fd")) == before - 3, "two streams, the lifeline and the watched process"
        found.kill()
        other.kill()


def test_descriptors_lie_above_the_shell_s_are_inherited_by_name_alone_and_closed_once():
    before = sorted(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        reading, writing = pipe(stack)
        data = file_with(b"content", stack)
        numbers = (reading.number, writing.number, data)
        assert min(numbers) >= 10 and not any(os.get_inheritable(number) for number in numbers)
        os.write(writing.number, b"x")
        assert os.read(reading.number, 2) == b"x" and os.read(data, 99) == b"content"
        reading.close()
        os.dup2(data, reading.number)  # another thread's by now
        reading.close()
        os.fstat(reading.number)
        os.close(reading.number)
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("chunks", "ends", "expected"),
    [
        ((b'{\n    "child-pid": 12\n}\n',), False, 12),
        ((b'{"child-', b'pid": 345}'), False, 345),
        ((b'{"child-pid": 6}',), True, 6),
        ((b'{"child-pid',), True, None),
        ((), True, None),
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_the_init_s_number_is_read_whole_or_there_is_none_though_another_process_holds_the_pipe(
    chunks, ends, expected, held
):
    """The shell on the lifeline holds it: a bubblewrap that ended at once was waited for forever."""
    reading, writing = os.pipe()
    os.write(writing, chunks[0] if chunks else b"")
    polled = []

    def poll():
        polled.append(1)
        if len(polled) == 2:
            os.write(writing, b"".join(chunks[1:]))
            if not held:
                os.close(writing)
        return 1 if ends and len(polled) > 2 else None

    assert read_child_pid(reading, SimpleNamespace(poll=poll)) == expected
    os.close(reading)
    if held or len(polled) < 2:
        os.close(writing)


# the sandbox, with a program in bubblewrap's place

BWRAP = """#!{python} -SE
import json, os, sys
words = sys.argv[1:]
seen = {{"argv": words, "env": dict(os.environ), "folder": os.getcwd()}}
if words[-1] == "--version":
    json.dump(seen, open("version.json", "w"))
    print("bubblewrap 0.8.0")
    sys.exit({code})
at = words.index("--args")
options = os.read(int(words[at + 1]), 1 << 20).decode().split("\\0")
seen["options"] = options
json.dump(seen, open("run.json", "w"))
if {code}:
    print("bwrap: no", file=sys.stderr)
    sys.exit({code})
info, gate = (int(options[options.index(name) + 1]) for name in ("--info-fd", "--block-fd"))
child = os.fork()
if not child:
    os.close(info)
    os.read(gate, 1)
    command = words[words.index("--") + 1 :]
    os.execv(command[0], command)
os.write(info, json.dumps({{"child-pid": child}}).encode())
os.close(info)
_, status = os.waitpid(child, 0)
sys.exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
"""


@pytest.fixture
def layer(tmp_path: Path):
    def make(code: int = 0) -> Path:
        tools = tmp_path / "tools"
        libraries = tools / "usr/lib" / here().triplet
        libraries.mkdir(parents=True, exist_ok=True)
        (tools / "usr/bin").mkdir(exist_ok=True)
        (tools / "usr/bin/bwrap").write_text("")
        (libraries / here().loader).write_text(BWRAP.format(python=sys.executable, code=code))
        (libraries / here().loader).chmod(0o755)
        return tools

    return make


@pytest.fixture
def engine(layer, tmp_path: Path, monkeypatch):
    """An engine whose jobs run as they are: no folder of the container is made on this machine."""
    monkeypatch.setattr(cgroups, "find_parents", lambda: cgroups.Unlimited("no group is delegated"))
    (tmp_path / "root").mkdir()
    made = SandboxEngine(layer, lambda image: tmp_path / "root")

    def command(job, *, watched):
        assert watched is False
        return list(job.argv)

    monkeypatch.setattr(sandbox, "command", command)
    return made


def job(script: str, **more) -> Job:
    return Job(NATIVE, ("/bin/sh", "-c", script), name="the job", **more)


def test_a_job_is_started_closed_by_its_options_and_told_by_its_lines_and_code(engine, layer, tmp_path):
    said = []
    outcome = engine.run(job("echo out; echo err >&2; exit 5"), lambda *line: said.append(line))
    assert (outcome.exit_code, outcome.timed_out, outcome.out_of_memory) == (5, False, False)
    assert sorted(said) == [("stderr", "err"), ("stdout", "out")] and 0 < outcome.wall_s < 60
    none = "not enforced: no group is delegated"
    assert outcome.limits == {
        **CLOSED, **sandbox._system_call_limits(), "timeout": "enforced", "user_namespaces": "enforced",
        "memory": none, "pids": none,
    }  # fmt: skip
    seen = json.loads((tmp_path / "tools/run.json").read_text())
    folders = f"usr/lib/{here().triplet}:lib/{here().triplet}"
    assert seen["argv"][:4] == ["--library-path", folders, "usr/bin/bwrap", "--args"]
    assert seen["argv"][5:] == ["--", "/bin/sh", "-c", "echo out; echo err >&2; exit 5"]
    assert seen["folder"] == str(tmp_path / "tools") and not {"HOME", "PATH"} & set(seen["env"])
    with contextlib.ExitStack() as stack:
        expected, _ = sandbox._options(job(""), tmp_path / "root", stack)
    names = [word for word in seen["options"] if word.startswith("--")]
    assert names == [word for word in expected if word.startswith("--")] + ["--block-fd", "--info-fd"]
    assert str(tmp_path / "root") in seen["options"] and seen["options"][-1] == ""


def test_a_job_over_its_time_is_ended_and_one_without_a_sandbox_is_no_outcome(engine, layer, tmp_path):
    before = sorted(os.listdir("/proc/self/fd"))
    outcome = engine.run(job("exec sleep 60", limits=Limits(timeout_s=1.0)), lambda *_: None)
    assert (outcome.exit_code, outcome.timed_out) == (137, True)
    engine._tools = lambda: layer(3)
    said = []
    with pytest.raises(EngineUnavailable, match=r"^the job: bubblewrap could not build the sandbox"):
        engine.run(job("true"), lambda *line: said.append(line))
    assert said == [("stderr", "bwrap: no")] and sorted(os.listdir("/proc/self/fd")) == before


def test_the_sandbox_s_first_processes_are_limited_and_the_group_is_asked_and_removed(engine, monkeypatch):
    told = []

    class Group:
        def add(self, pid):
            told.append(("add", Path(f"/proc/{pid}").exists()))

        def ran_out_of_memory(self):
            told.append("asked")
            return True

        def remove(self):
            told.append("removed")

    engine._parents = cgroups.Parents(2, {})
    limits = Limits(memory_bytes=5, pids=6)
    created = []
    monkeypatch.setattr(cgroups.Group, "create", lambda parents, given: created.append((parents, given)) or Group())
    outcome = engine.run(job("true", limits=limits), lambda *_: None)
    assert created == [(engine._parents, limits)] and told == [("add", True), ("add", True), "asked", "removed"]
    assert outcome.out_of_memory and outcome.limits["memory"] == outcome.limits["pids"] == "enforced"

    def refused(*_):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(Group, "add", refused)
    outcome = engine.run(job("true", limits=limits), lambda *_: None)
    moved = "not enforced: a process could not be moved into its control group: [Errno 13] Permission denied"
    assert (outcome.limits["memory"], outcome.limits["pids"]) == (moved, moved)
    assert outcome.limits["timeout"] == "enforced"
    monkeypatch.setattr(cgroups.Group, "create", refused)
    outcome = engine.run(job("true", limits=limits), lambda *_: None)
    none = "not enforced: the kernel refused a control group: [Errno 13] Permission denied"
    assert (outcome.limits["memory"], outcome.limits["pids"]) == (none, none) and not outcome.out_of_memory
    assert outcome.limits["network"] == outcome.limits["timeout"] == "enforced"


def test_what_a_sandbox_is_worth_here_is_tried_and_told(engine, layer, tmp_path, monkeypatch):
    found = engine.probe()
    digest = f"sha256:{sha256_bytes(seccomp.program(here()))}"
    none = "not enforced: no group is delegated"
    assert (found.name, found.usable) == ("sandbox", True) and found.facts == {
        "version": "bubblewrap 0.8.0", "system_calls": "enforced", "kernel_keys": "enforced",
        "system_call_filter": digest, "memory": none, "pids": none,
    }  # fmt: skip
    assert engine.facts() == {**found.facts, "kernel": os.uname().release}
    seen = json.loads((tmp_path / "tools/version.json").read_text())
    words = " ".join(seen["argv"])
    assert words.startswith(f"--library-path usr/lib/{here().triplet}:lib/{here().triplet} usr/bin/bwrap --unshare-all")
    assert f"--tmpfs / --ro-bind {tmp_path}/tools /tools --proc /proc --dev /dev /tools/usr/lib/" in words
    assert f"--uid {os.getuid()} --gid {os.getgid()} --seccomp " in words and seen["folder"] == f"{tmp_path}/tools"
    engine._parents = cgroups.Parents(1, {})
    assert engine.probe().facts["cgroup_version"] == "1" and engine.probe().facts["memory"] == "enforced"


def test_each_way_in_which_a_sandbox_cannot_be_tried_has_its_reason(engine, layer, tmp_path, monkeypatch):
    engine._tools = lambda: layer(3)
    monkeypatch.setattr(sandbox, "explain_refusal", lambda text, read: (f"why: {text.strip()}", read("kernel/ostype")))
    found = engine.probe()
    assert (found.usable, found.reason, found.hint) == (False, "why: bubblewrap 0.8.0", "Linux")
    loader = layer() / "usr/lib" / here().triplet / here().loader
    engine._tools = lambda: tmp_path / "tools"
    loader.write_text("no program")
    found = engine.probe()
    assert found.reason.startswith("bubblewrap could not be started: [Errno 8]") and found.hint.startswith("use `--eng")
    loader.chmod(0o644)
    found = engine.probe()
    assert found.reason.startswith("programs in the artifacts folder may not be run: [Errno 13]")
    assert found.hint.startswith("is it on a file system mounted noexec? or use")
    loader.write_text("#!/bin/sh\nexec sleep 60\n")
    loader.chmod(0o755)
    monkeypatch.setattr(sandbox, "_PROBE_TIMEOUT_S", 0.1)
    assert "timed out after 0.1 seconds" in engine.probe().reason


def test_groups_that_dead_sandboxes_left_are_removed_at_the_start(monkeypatch):
    removed, parents = [], cgroups.Parents(2, {})
    monkeypatch.setattr(cgroups, "find_parents", lambda: parents)
    monkeypatch.setattr(cgroups, "remove_stale", removed.append)
    SandboxEngine(lambda: Path(), lambda image: Path())
    assert removed == [parents]


# podman's own service


@pytest.fixture
def program(tmp_path: Path, monkeypatch):
    """Write a shell's script in podman's place; its folder is the PATH that is given."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(podman, "on_hybrid_host", lambda: False)
    monkeypatch.setattr(podman, "usual_sockets", lambda environ: [tmp_path / "none.sock"])
    (tmp_path / "bin").mkdir()
    environ = {"PATH": f"{tmp_path}/bin:{os.defpath}", "MARK": "1"}

    def write(script: str) -> dict[str, str]:
        (tmp_path / "bin" / "podman").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "podman").chmod(0o755)
        return environ

    return write


def test_podman_s_service_listens_in_a_folder_of_its_own_and_is_ended_with_it(program, tmp_path, monkeypatch):
    environ = program('echo "$MARK $*" > said; touch podman.sock; exec sleep 60')
    own = tmp_path / f"lstm-ctc-podman-{os.getuid()}"
    (own / ".tmp.service.dead").mkdir(parents=True)
    own.chmod(0o700)
    before = sorted(os.listdir("/proc/self/fd"))
    made = podman.PodmanEngine(iter, tmp_path, environ)
    service = made._service
    folder = Path(service.url[len("unix://") :]).parent
    assert folder.parent == own and folder.name.startswith(".tmp.service.") and sorted(own.iterdir()) == [folder]
    assert made._endpoint == Endpoint(service.url, "Podman")
    assert (folder / "said").read_text() == f"1 system service --time=0 {service.url}\n"
    pid = service._process.pid
    made.close()
    made.close()
    assert list(own.iterdir()) == [] and gone(pid)
    for stream in (service._process.stdout, service._process.stderr):
        stream.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    monkeypatch.setattr(podman, "on_hybrid_host", lambda: True)
    monkeypatch.setattr(podman, "find", lambda name, *_: tmp_path / "bin" / "podman")
    made = podman.PodmanEngine(iter, tmp_path, environ)
    said = Path(made._service.url[len("unix://") :]).parent / "said"
    assert said.read_text().startswith("1 --runtime runc system service")
    made.close()


def test_a_service_that_asks_for_more_time_than_it_has_is_killed(program, tmp_path, monkeypatch):
    monkeypatch.setattr(podman, "_STOP_TIMEOUT_S", 0.1)
    environ = program("trap '' TERM; touch podman.sock; while :; do sleep 0.05; done")
    made = podman.PodmanEngine(iter, tmp_path, environ)
    made.close()
    assert made._service._process.returncode == -signal.SIGKILL


def test_a_service_that_does_not_start_is_told_with_its_last_lines(program, tmp_path, monkeypatch):
    environ = program("for n in 1 2 3 4 5 6 7 8 9 a b c; do echo $n >&2; done; exit 1")
    with pytest.raises(EngineUnavailable) as caught:
        podman.PodmanEngine(iter, tmp_path, environ)
    assert caught.value.message.startswith("`podman system service` did not start: ")
    assert caught.value.hint == "install Podman 4 or later, or use `--engine sandbox`"
    environ = program("exec sleep 60")
    monkeypatch.setattr(podman, "_START_TIMEOUT_S", 0.1)
    with pytest.raises(EngineUnavailable, match="did not start: it said nothing"):
        podman.PodmanEngine(iter, tmp_path, environ)
    assert list((tmp_path / f"lstm-ctc-podman-{os.getuid()}").iterdir()) == []


def test_what_a_service_says_is_kept_to_its_last_ten_lines():
    service = object.__new__(podman.Service)
    service._said = []
    service._drain(io.BytesIO(b"".join(b"%d\n" % n for n in range(12))))
    assert service._said == [b"%d\n" % n for n in range(2, 12)]


@pytest.mark.parametrize(
    ("crun", "hybrid", "installed", "taken"),
    [(True, True, True, False), (True, True, False, True), (True, False, True, True), (False, True, True, True)],
)
def test_a_socket_that_answers_is_taken_unless_ours_would_serve_better(
    program, tmp_path, monkeypatch, crun, hybrid, installed, taken
):
    environ = program("touch podman.sock; exec sleep 60")
    if not installed:
        (tmp_path / "bin/podman").unlink()
        environ = {"PATH": f"{tmp_path}/bin"}
    monkeypatch.setattr(podman, "on_hybrid_host", lambda: hybrid)
    asked = []

    def connect(self, timeout_s):
        asked.append((self.url, timeout_s))
        return SimpleNamespace(info=lambda: {"DefaultRuntime": "/usr/bin/crun" if crun else "runc"}, close=lambda: None)

    monkeypatch.setattr(Endpoint, "connect", connect)
    made = podman.PodmanEngine(iter, tmp_path, environ)
    assert asked == [(f"unix://{tmp_path}/none.sock", 10)]
    assert (made._endpoint == Endpoint(f"unix://{tmp_path}/none.sock", "Podman")) == taken == (made._service is None)
    made.close()


def test_an_address_that_was_given_goes_before_and_what_is_lacking_is_told(program, tmp_path, monkeypatch):
    environ = program("exit 1")
    given = podman.PodmanEngine(iter, tmp_path, {**environ, "CONTAINER_HOST": "unix:///given"})
    assert (given._endpoint, given.name) == (Endpoint("unix:///given", "Podman"), "podman")
    with pytest.raises(EngineUnavailable, match="Podman is not installed, and no socket of it answers"):
        podman.PodmanEngine(iter, tmp_path, {"PATH": str(tmp_path)})
    monkeypatch.setattr(podman.os, "getuid", lambda: 1000)
    monkeypatch.setattr(podman, "_user_name", lambda: "ada")
    asked = []
    monkeypatch.setattr(podman, "lacks_subordinate_ids", lambda *given: asked.append(given) or "subgid")
    with pytest.raises(EngineUnavailable, match="ada has none in /etc/subgid") as caught:
        podman.PodmanEngine(iter, tmp_path, environ)
    assert asked == [(Path("/etc"), 1000, "ada")] and caught.value.hint.endswith("ada; or use `--engine sandbox`")


def test_where_podman_listens_and_who_asks(monkeypatch):
    monkeypatch.setattr(podman.os, "getuid", lambda: 0)
    assert podman.usual_sockets({"XDG_RUNTIME_DIR": "/x"}) == [Path("/run/podman/podman.sock")]
    assert podman.podman_habits().extra_host_config == {}
    monkeypatch.setattr(podman.os, "getuid", lambda: 4_000_000_000)
    assert podman.usual_sockets({"XDG_RUNTIME_DIR": "/x"}) == [Path("/x/podman/podman.sock")]
    assert podman.usual_sockets({}) == [Path("/run/user/4000000000/podman/podman.sock")]
    assert podman._user_name() == "4000000000"
    monkeypatch.setattr(podman.resource, "getrlimit", lambda what: (5, podman.resource.RLIM_INFINITY))
    habits = podman.podman_habits()
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    assert (habits.name, habits.title, habits.takes_our_profile) == ("podman", "Podman", True)
    assert habits.extra_host_config == {"UsernsMode": "keep-id"}
    assert [dict(limit) for limit in habits.extra_ulimits] == [{"Name": "nproc", "Soft": 5, "Hard": most}]


# behind an API


def followed(*events) -> Watch:
    watch = Watch(FakeEndpoint(FakeDaemon()), "marker-of-a-job")
    for event in events:
        watch._take(event)
    return watch


@pytest.mark.parametrize(
    ("events", "code", "last", "out_of_memory"),
    [
        ([{"Action": "die", "Actor": {"Attributes": {"exitCode": "3"}}}, {"Action": "destroy"}], 3, True, False),
        ([{"status": "died", "Actor": {"Attributes": {"containerExitCode": 4}}}, {"status": "remove"}], 4, True, False),
        ([{"Action": "oom"}, {"Action": "die", "Actor": None}], 0, False, True),
        ([{"Action": "die", "Actor": {"Attributes": None}}, {}], 0, False, False),
        ([{"Action": "start"}], None, False, False),
    ],
)
def test_events_are_read_in_docker_s_words_and_in_podman_s(events, code, last, out_of_memory):
    watch = followed(*events[:-1])
    assert watch._take(events[-1]) is last
    assert (watch._exit_code, watch.out_of_memory, watch._created) == (code, out_of_memory, False)


def test_a_stream_of_events_is_live_before_the_start_and_its_break_is_told(monkeypatch):
    daemon = FakeDaemon()
    with Watch(FakeEndpoint(daemon), "marker-of-a-job") as watch:
        daemon.events.put({"Action": "create"})
        watch.wait_until_created()
        daemon.events.put({"Action": "die", "Actor": {"Attributes": {"exitCode": "9"}}})
        daemon.events.put({"Action": "destroy"})
        assert watch.exit_code(time.monotonic()) == 9
    with Watch(FakeEndpoint(daemon), "marker-of-a-job") as watch:
        daemon.events.put(3)  # no event at all
        with pytest.raises(CouldNotRun) as caught:
            watch.wait_until_created()
        assert caught.value.message == (
            "the engine's event stream does not tell of a container that was made 'int' object has no attribute 'get'"
        )
        with pytest.raises(CouldNotRun, match="did not say how the container ended 'int' object"):
            watch.exit_code(time.monotonic())
    with Watch(FakeEndpoint(daemon), "marker-of-a-job") as watch:
        daemon.events.put(None)
        with pytest.raises(CouldNotRun, match=r"of a container that was made$"):
            watch.wait_until_created()
    monkeypatch.setattr("repro.engines.following._CREATED_TIMEOUT_S", 0.05)
    monkeypatch.setattr("repro.engines.following._END_TIMEOUT_S", 0.05)
    with Watch(FakeEndpoint(daemon), "marker-of-a-job") as watch:
        for wait in (watch.wait_until_created, lambda: watch.exit_code(time.monotonic() - 99)):
            with pytest.raises(CouldNotRun):
                wait()


@pytest.mark.parametrize(
    ("error", "fired", "hung_up"),
    [(None, True, False), (api_error(404), False, False), (api_error(409), False, False), (api_error(500), True, True),
     (DockerException("x"), True, True), (EngineUnavailable("x"), True, True)],
)  # fmt: skip
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_job_whose_time_is_up_is_killed_or_else_hung_up_on(error, fired, hung_up, wrapped):
    ours, theirs = socket.socketpair()
    killed, closed = [], []

    def kill(container):
        killed.append(container)
        if error is not None:
            raise error

    connect = lambda timeout_s: SimpleNamespace(kill=kill, close=lambda: closed.append(timeout_s))  # noqa: E731
    killer = Killer(SimpleNamespace(connect=connect), "c", SimpleNamespace(_sock=ours) if wrapped else ours)
    assert killer.fired is False
    killer.fire()
    assert (killed, closed, killer.fired) == (["c"], [60], fired)
    theirs.setblocking(False)
    if hung_up:
        assert theirs.recv(1) == b""
    else:
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
    ours.close()
    theirs.close()


class FileApi:
    """An engine's API as far as it is asked what files it sees."""

    def __init__(self, folder: Path, *, renames: bool = False) -> None:
        self.folder, self.renames = folder, renames
        self.removed: list[tuple[str, str, bool]] = []
        self.trouble: Exception | None = None
        self.content: bytes | None = None

    def load_image(self, archive):
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            (manifest,) = json.load(tar.extractfile("manifest.json"))
            config = tar.extractfile(manifest["Config"]).read()
            (layer,) = [tar.extractfile(name).read() for name in manifest["Layers"]]
        document = json.loads(config)
        assert manifest["Config"] == f"{sha256_bytes(config)}.json"
        assert document["rootfs"] == {"type": "layers", "diff_ids": [f"sha256:{sha256_bytes(layer)}"]}
        assert (document["os"], document["architecture"], document["config"]) == ("linux", here().name, {})
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            (entry,) = tar.getmembers()
            assert entry.isdir() and (entry.name, entry.mode) == ("probe", 0o755)
        self.tags = manifest["RepoTags"]
        assert document["author"] == self.tags[0].partition(":")[2]
        self.image = "sha256:renamed" if self.renames else f"sha256:{sha256_bytes(config)}"
        return iter([{}])

    def images(self):
        other = {"Id": "other", "RepoTags": None}
        return [other, {"Id": self.image, "RepoTags": [f"docker.io/{self.tags[0]}"]}] if self.renames else [other]

    def create_host_config(self, **options):
        (mount,) = options.pop("mounts")
        assert options == {"network_mode": "none", "init": True} and mount["ReadOnly"] and mount["Target"] == "/probe"
        return Path(mount["Source"])

    def create_container(self, image, command, host_config):
        assert (image, command) == (self.image, ["/never"])
        if self.trouble is not None:
            raise self.trouble
        self.seen = host_config
        return {"Id": "container"}

    def get_archive(self, container, path):
        assert (container, path) == ("container", "/probe/token")
        data = (self.seen / "token").read_bytes() if self.content is None else self.content
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            info = tarfile.TarInfo("token")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        value = packed.getvalue()
        return iter([value[:700], value[700:]]), {}

    def remove_container(self, container, force):
        self.removed.append(("container", container, force))
        raise api_error(409)

    def remove_image(self, image, force):
        self.removed.append(("image", image, force))
        raise api_error(404)


@pytest.mark.parametrize("renames", [False, True])
def test_an_engine_shows_that_it_sees_our_files_and_keeps_nothing_of_it(tmp_path, renames):
    api = FileApi(tmp_path, renames=renames)
    (tmp_path / ".tmp.probe.dead").mkdir()
    check_files(api, tmp_path, "Docker")
    assert api.removed == [("container", "container", True), ("image", api.image, True)]
    assert list(tmp_path.iterdir()) == []
    api.content = b"other"
    with pytest.raises(EngineUnavailable, match=f"Docker sees other files than we do at {tmp_path}/.tmp.probe"):
        check_files(api, tmp_path, "Docker")


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ("no such folder", "Docker cannot see this machine's files: .* could not be mounted \\(no such folder\\)",
         "is it another machine"),
        ("catatonit: not found", "Docker finds no init program: catatonit: not found", "install catatonit"),
        ("lookup init binary: x", "Docker finds no init program", "install catatonit"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_mount_our_files_is_refused(tmp_path, said, message, hint):
    api = FileApi(tmp_path)
    api.trouble = api_error(500, said)
    with pytest.raises(EngineUnavailable, match=message) as caught:
        check_files(api, tmp_path, "Docker")
    assert hint in caught.value.hint and api.removed == [("image", api.image, True)]
    assert list(tmp_path.iterdir()) == [] and endpoint._USE_SANDBOX == "use `--engine sandbox`"
