"""What every engine promises of a job, held against each that this machine has."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.container.job import Job, Limits, Mount
from repro.engines.docker_engine import DockerEngine
from repro.machine.owner import OWNER_LABEL, Owner
from tests.integration import _trial
from tests.integration.test_containment import survivors

REPOSITORY = Path(__file__).resolve().parents[2]
GONE_WITHIN_S = 60.0  # by themselves they would go after 100

# A client of its own, for a test to kill.
CLIENT = """
import sys, tempfile, threading
from pathlib import Path
from repro.container.job import Job, Limits
from repro.engines.sandbox import SandboxEngine
from repro.container.image import Image
from tests.integration import _trial
name, root, tools, mark, script, architecture, tempdir, jobs = sys.argv[1:]
if name == "sandbox":
    engine = SandboxEngine(lambda: Path(tools), lambda _image: Path(root))
    image = Image("trial", architecture, (), b"", "sha256:0", b"", "sha256:0", {}, "3")
else:
    tempfile.tempdir = tempdir
    engine = _trial.MAKERS[name]()
    image = _trial.image()
job = Job(image=image, argv=("/bin/sh", "-c", script), env={"HOSTILE_MARK": mark}, limits=Limits(timeout_s=120.0))
# Not from the main thread: a death signal follows the thread that started the child.
def work():
    for _ in range(int(jobs)):
        engine.run(job, lambda stream, line: print(line, flush=True))
print("ready", flush=True)
threads = [threading.Thread(target=work) for _ in range(2 if int(jobs) > 1 else 1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.fixture(params=sorted(_trial.MAKERS))
def engine(request, trial_image):
    return _trial.engine(request.param)


def sh(script, **more):
    return Job(image=_trial.image(), argv=("/bin/sh", "-c", script), **more)


def run(engine, job):
    lines = []
    return engine.run(job, lambda stream, line: lines.append((stream, line))), lines


def start_client(name, mark, script, jobs="1", stderr=None, **env):
    """A process that runs a job, once or again and again, and whose end is in the test's hand."""
    return subprocess.Popen(
        [
            *(sys.executable, "-c", CLIENT, name, str(_trial.root()), str(_trial.tools()), mark, script),
            *(_trial.image().architecture, str(_trial.place()), jobs),
        ],
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **env},
    )


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("/no/such/program", 127)],
)
def test_the_exit_code_is_the_commands_own(engine, script, code):
    outcome, _ = run(engine, sh(script))
    assert (outcome.exit_code, outcome.timed_out) == (code, False)


def test_python_has_nothing_to_complain_of_when_jobs_have_ended(engine):
    """Its newest version prints what older ones do in development mode: connections closed under their responses."""
    client = start_client(engine.name, f"dev-{os.getpid()}", "exit 0", stderr=subprocess.PIPE, PYTHONDEVMODE="1")
    _, said = client.communicate()
    assert (client.returncode, said.decode()) == (0, "")


def test_both_streams_arrive_line_by_line_and_apart(engine):
    _, lines = run(engine, sh("echo one; echo two >&2; printf three"))
    assert [line for stream, line in lines if stream == "stdout"] == ["one", "three"]
    assert [line for stream, line in lines if stream == "stderr"] == ["two"]


def test_the_environment_and_the_user_are_the_same_in_every_engine(engine):
    _, lines = run(engine, sh("env; id; pwd; ulimit -n; ulimit -c", env={"GIVEN": "value"}))
    reference = _trial.engine("sandbox")
    _, expected = run(reference, sh("env; id; pwd; ulimit -n; ulimit -c", env={"GIVEN": "value"}))
    assert sorted(lines) == sorted(expected)
    assert ("stdout", f"uid={os.getuid()}(stage) gid={os.getgid()}(stage) groups={os.getgid()}(stage)") in lines
    assert ("stdout", "GIVEN=value") in lines
    assert ("stdout", "HOME=/tmp/home") in lines


def test_outputs_belong_to_the_caller_and_inputs_stay_as_they_are(engine, tmp_path):
    (tmp_path / "in").write_text("given")
    (tmp_path / "out").mkdir()
    mounts = (Mount(tmp_path / "in", "/run/in"), Mount(tmp_path / "out", "/run/out", writable=True))
    outcome, lines = run(engine, sh("cat /run/in > /run/out/copy; echo more >> /run/in", mounts=mounts))
    assert outcome.exit_code != 0, lines
    assert (tmp_path / "in").read_text() == "given"
    copy = tmp_path / "out" / "copy"
    assert copy.read_text() == "given"
    assert copy.stat().st_uid == os.getuid()


def test_jobs_run_side_by_side_from_several_threads(engine):
    results = {}

    def work(number):
        results[number] = run(engine, sh(f"sleep 0.3; echo {number}; exit {number}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (outcome, lines) in results.items():
        assert (outcome.exit_code, lines) == (number, [("stdout", str(number))])
    assert len(results) == 4


def test_a_mount_that_does_not_exist_is_named_before_anything_starts(engine, tmp_path):
    with pytest.raises(CouldNotRun, match="does not exist"):
        run(engine, sh("true", mounts=(Mount(tmp_path / "absent", "/run/in"),)))
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", sorted(_trial.MAKERS))
def test_a_killed_client_takes_its_job_along(name):
    engine = _trial.engine(name)
    mark = f"killed-{name}-{os.getpid()}"
    client = start_client(name, mark, "echo started; (sleep 100 &); sleep 100")
    try:
        assert client.stdout.readline() == b"ready\n"
        assert client.stdout.readline() == b"started\n"
        assert survivors(mark)
    finally:
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        client.stdout.close()
    give_up_s = time.monotonic() + GONE_WITHIN_S
    while survivors(mark) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    assert survivors(mark) == []
    if isinstance(engine, DockerEngine):
        while containers_of(engine, client.pid) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        assert containers_of(engine, client.pid) == []


def test_a_client_killed_at_any_moment_leaves_no_sandbox():
    """A death signal is lost when the parent dies before it is asked for, and kills do hit that moment."""
    _trial.engine("sandbox")
    moments = random.Random(20221101)
    mark = f"any-moment-{os.getpid()}"
    for _ in range(20):
        client = start_client("sandbox", mark, "sleep 0.01; (sleep 100 &)", jobs="1000")
        assert client.stdout.readline() == b"ready\n"
        time.sleep(moments.uniform(0, 0.2))
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        client.stdout.close()
    give_up_s = time.monotonic() + GONE_WITHIN_S
    while survivors(mark) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    assert survivors(mark) == []


def containers_of(engine, pid):
    with engine._client() as api:
        return [found["Id"] for found in api.containers(all=True, filters={"label": f"{OWNER_LABEL}={pid}"})]


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_a_container_whose_owner_is_gone_is_removed_and_a_living_ones_is_kept(name):
    engine = _trial.engine(name)
    gone = dataclasses.replace(Owner.this_process(), start_ticks="1")
    image_id = engine._id_of(_trial.image())
    made = []
    with engine._client() as api:
        for owner in (gone, Owner.this_process()):
            made.append(api.create_container(image_id, command=["/bin/true"], labels=owner.labels())["Id"])
        try:
            give_up_s = time.monotonic() + GONE_WITHIN_S
            left = made
            while made[0] in left and time.monotonic() < give_up_s:
                engine.reap()  # or another engine's, of a run beside this test, which is just removing it
                left = [found["Id"] for found in api.containers(all=True, filters={"label": OWNER_LABEL})]
            assert made[1] in left
            assert made[0] not in left
        finally:
            api.remove_container(made[1], force=True)


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_an_image_whose_content_is_not_what_its_id_says_is_refused(name):
    engine = _trial.engine(name)
    image = _trial.image()
    engine.prepare(image)
    other = dataclasses.replace(image.layers[0], diff_id="sha256:" + "0" * 64)
    with contextlib.ExitStack() as at_end:
        if name == "docker":
            liar = type(engine)(engine._endpoint, engine._images._archive, engine._scratch)
        else:
            liar = at_end.enter_context(contextlib.closing(_trial.podman()))
        with pytest.raises(VerificationFailed, match="something else"):
            liar.prepare(dataclasses.replace(image, layers=(other,)))


def as_nobody(work):
    """Call `work` in a forked process without privileges; gives the JSON value that it returns."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(write_end, json.dumps(work()).encode())
        except BaseException as error:  # noqa: BLE001 - the parent shows it
            os.write(write_end, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        answer = json.loads(stream.read())
    os.waitpid(pid, 0)
    return answer


def test_the_sandbox_works_for_a_user_without_any_privilege():
    if os.getuid() != 0:
        pytest.skip("every other test of the sandbox already runs without root")
    _trial.engine("sandbox")
    _trial.image()

    def work():
        outcome, lines = run(_trial.sandbox(), sh("id; kill -TERM $$"))
        return outcome.exit_code, dict(outcome.limits), lines

    code, limits, lines = as_nobody(work)
    assert lines == [["stdout", "uid=65534(stage) gid=65534(stage) groups=65534(stage)"]]
    assert code == 143
    assert limits["network"] == "enforced"
    assert limits["memory"].startswith("not enforced: ")


def test_the_timeout_counts_from_the_start_and_is_reported(engine):
    outcome, _ = run(engine, sh("trap '' TERM; sleep 100", limits=Limits(timeout_s=0.5)))
    assert outcome.timed_out
    assert outcome.exit_code == 137
    assert outcome.wall_s < 90, "it would sleep for 100 s"
