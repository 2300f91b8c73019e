"""Engines' own processes, with a small program in the place of bubblewrap and of Podman: what each is started with,
what is read of it, how it ends, and what is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from _engine_cases import IMAGE

from repro.base.architecture import here
from repro.base.errors import CouldNotRun, EngineUnavailable
from repro.base.files import sha256_bytes
from repro.container.job import Job, Limits
from repro.engines import podman, running, sandbox, seccomp
from repro.engines.closed import CLOSED
from repro.engines.endpoint import Endpoint
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
        script = "read -r word; echo $word; pwd; env; cat <&3; echo no >&2"
        process = spawn(
            ["/bin/bash", "-c", f"exec 3</proc/self/fd/{given.fileno()}; {script}"], pass_fds=(given.fileno(),),
            env={"ONE": "1", "PATH": os.defpath}, stdin=reading, folder=tmp_path,
        )  # fmt: skip
        os.close(reading)
        assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid, "a session of its own"
        os.write(writing, b"hello\n")
        os.close(writing)
        out, err = process.communicate()
    lines = out.decode().splitlines()
    assert lines[:2] == ["hello", str(tmp_path)] and err == b"no\n" and "content" in out.decode()
    names = {line.partition("=")[0] for line in lines if "=" in line}
    assert "ONE" in names and not names & {"HOME", "LANG", "USER"}
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


def test_where_python_knows_no_handles_of_processes_the_outer_one_tells_the_end(monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    with started("exit 3") as (found, process):
        found.watch(process.pid)
        assert found.pump(time.monotonic() + 60, lambda *_: None) is False and found.finish() == 3


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


def test_a_process_with_a_thousand_files_open_reads_the_init_s_number():
    """select() refused a descriptor from 1024 on: a ValueError in a process that had leaked some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as at_end:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # shells give 1024
        at_end.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        low, writing = os.pipe()
        reading = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1024)
        for descriptor in (reading, low, writing):
            at_end.callback(os.close, descriptor)
        os.write(writing, b'{"child-pid": 77}')
        assert read_child_pid(reading, SimpleNamespace(poll=lambda: None)) == 77


# the sandbox, with a program in bubblewrap's place

BWRAP = """
import json, os, sys
words = sys.argv[1:]
seen = {{"argv": words, "env": dict(os.environ), "folder": os.getcwd()}}
if words[-1] == "--version":
    seen["stdin"] = os.readlink("/proc/self/fd/0")
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
        (tools / "bwrap.py").write_text(BWRAP.format(code=code))
        (libraries / here().loader).write_text(f'#!/bin/sh\nexec "{sys.executable}" -SE "{tools}/bwrap.py" "$@"\n')
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
    assert seen["stdin"] == "/dev/null"
    engine._parents = cgroups.Parents(1, {})
    assert engine.probe().facts["cgroup_version"] == "1" and engine.probe().facts["memory"] == "enforced"


def test_each_way_in_which_a_sandbox_cannot_be_tried_has_its_reason(engine, layer, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sandbox, "explain_refusal", lambda text, read, by: (f"why: {text.strip()}", f"{read('kernel/ostype')}: {by}")
    )
    loader = layer() / "usr/lib" / here().triplet / here().loader
    engine._tools = lambda: layer(3)
    found = engine.probe()
    assert (found.usable, found.reason, found.hint) == (False, "why: bubblewrap 0.8.0", f"Linux: {loader.absolute()}")
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
    monkeypatch.setattr(podman, "lacks_subordinate_ids", lambda *_: "")
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
    assert caught.value.message == "`podman system service` did not start: " + "\n".join("3456789abc")
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
    monkeypatch.setattr(podman, "unknown_mount_label", lambda root, _: f"of {root}")
    with pytest.raises(EngineUnavailable, match="Podman is not installed"):  # its policy is no matter then
        podman.PodmanEngine(iter, tmp_path, {"PATH": str(tmp_path)})
    with pytest.raises(EngineUnavailable, match="Podman mounts with the SELinux context of /, which") as caught:
        podman.PodmanEngine(iter, tmp_path, environ)
    assert caught.value.hint.endswith("or use `--engine sandbox`")


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
