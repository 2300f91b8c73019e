"""The Docker engine against an API in memory: what it asks for, what it refuses to believe, what it leaves behind."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import pytest
from _engine_cases import CONFIG, DIFF, IMAGE, INFO, MANIFEST, VERSION, FakeApi, FakeDaemon, FakeEndpoint, api_error
from docker.errors import DockerException

from repro.base.architecture import here
from repro.base.errors import CouldNotRun, EngineUnavailable, VerificationFailed
from repro.base.files import canonical_json, sha256_bytes
from repro.container.job import Job, Limits, Mount
from repro.engines import docker_engine, seccomp
from repro.engines.closed import open_files_limit
from repro.engines.container_config import DOCKER, ContainerConfig
from repro.engines.docker_engine import DockerEngine
from repro.engines.endpoint import Endpoint, check_engine, docker_endpoint
from repro.engines.held_images import HeldImages
from repro.engines.podman import podman_habits
from repro.machine.owner import Owner


@pytest.fixture
def daemon():
    return FakeDaemon()


@pytest.fixture
def engine(daemon, tmp_path):
    made = DockerEngine(FakeEndpoint(daemon), lambda images: iter([b"archive"]), tmp_path)
    made._tried = True
    return made


def run(engine, **more):
    lines = []
    outcome = engine.run(Job(IMAGE, ("true",), **more), lambda stream, line: lines.append((stream, line)))
    return outcome, lines


@pytest.mark.parametrize("reported", [CONFIG, MANIFEST])
def test_an_image_is_loaded_once_and_started_by_the_id_that_the_engine_reported(daemon, engine, reported):
    daemon.loaded_as = {"Id": reported, "RootFS": {"Layers": [DIFF]}}
    run(engine)
    run(engine)
    assert daemon.loads == 1
    assert [container.config["Image"] for container in daemon.created] == [reported, reported]


def test_loading_is_announced_before_it_starts(daemon, tmp_path):
    said = []

    def archive(images):
        assert said == ["loading image base into Docker: 0 MB"]
        return iter([b"archive"])

    made = DockerEngine(FakeEndpoint(daemon), archive, tmp_path, say=said.append)
    made._tried = True
    run(made)
    run(made)
    assert len(said) == 1


def test_an_image_that_is_there_is_not_loaded(daemon, engine):
    daemon.images[CONFIG] = daemon.loaded_as
    run(engine)
    assert daemon.loads == 0


def test_podmans_id_without_prefix_is_the_same_id(daemon, engine):
    daemon.images[CONFIG] = {"Id": CONFIG[7:], "RootFS": {"Layers": [DIFF]}}
    daemon.images[CONFIG[7:]] = daemon.images[CONFIG]
    run(engine)
    assert daemon.created[0].config["Image"] == CONFIG[7:]


def test_other_layers_under_our_id_are_a_failed_verification(daemon, engine):
    daemon.images[CONFIG] = {"Id": CONFIG, "RootFS": {"Layers": ["sha256:" + "2" * 64]}}
    with pytest.raises(VerificationFailed, match="something else"):
        run(engine)
    assert daemon.created == []


def test_an_engine_that_gives_a_loaded_image_another_id_is_not_believed(daemon, engine):
    daemon.images[CONFIG] = {"Id": "sha256:" + "e" * 64, "RootFS": {"Layers": [DIFF]}}
    with pytest.raises(VerificationFailed):
        run(engine)


def test_an_engine_that_loads_nothing_could_not_run(daemon, engine):
    daemon.loaded_as = None
    with pytest.raises(CouldNotRun, match="did not load image base") as caught:
        run(engine)
    assert "Loaded" in caught.value.detail


def test_an_image_removed_behind_our_back_is_loaded_again(daemon, engine):
    run(engine)
    daemon.images.clear()
    run(engine)
    assert daemon.loads == 2


def given(daemon):
    """What the engine was told of the container that was made last."""
    return daemon.created[-1].config["host_config"]


def test_every_container_is_closed(daemon, engine, tmp_path):
    """The whole document: what is added to it or lost from it is seen here."""
    (tmp_path / "in").mkdir()
    mounts = (Mount(tmp_path / "in", "/run/in"), Mount(tmp_path, "/run/out", writable=True))
    run(engine, mounts=mounts, limits=Limits(memory_bytes=1 << 30, pids=7))
    config = dict(given(daemon))
    places = {mount["Target"]: (mount["Source"], mount["Type"], mount["ReadOnly"]) for mount in config.pop("Mounts")}
    user = f"{os.getuid()}-{os.getgid()}"
    assert places == {
        "/etc/passwd": (str(tmp_path / f"passwd-{user}"), "bind", True),
        "/etc/group": (str(tmp_path / f"group-{user}"), "bind", True),
        "/run/in": (str(tmp_path / "in"), "bind", True),
        "/run/out": (str(tmp_path), "bind", False),
    }
    ulimits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in config.pop("Ulimits")}
    assert ulimits == {"core": (0, 0), "nofile": (open_files_limit(), open_files_limit())}
    tmpfs = "rw,exec,nosuid,nodev,size=1073741824"
    assert config == {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", "label=disable"],
        "Init": True,
        "AutoRemove": True,
        "Memory": 1 << 30,
        "MemorySwap": 1 << 30,
        "PidsLimit": 7,
        "ShmSize": 1 << 30,
        "Tmpfs": {"/tmp": f"{tmpfs},mode=1777", "/run": f"{tmpfs},mode=0755"},
        "IpcMode": "private",
        "LogConfig": {"Type": "none", "Config": {}},
        "UsernsMode": "host",
    }
    made = daemon.created[0].config
    assert made["stdin_open"] is True
    assert made["user"] == f"{os.getuid()}:{os.getgid()}"
    assert Owner.from_labels(made["labels"]) == Owner.this_process()
    assert made["environment"]["IMAGE"] == "yes"
    assert (made["working_dir"], made["hostname"]) == ("/tmp", "stage")


def test_only_a_job_with_devices_gets_the_hosts_ipc_and_just_its_devices(daemon, engine):
    run(engine)
    assert given(daemon)["IpcMode"] == "private"
    with pytest.raises(CouldNotRun, match="only a job with devices"):
        run(engine, shares_ipc=True)
    run(engine, devices=("/dev/null:/dev/davinci0", "/dev/zero"), groups=(44,), shares_ipc=True, runtime="ascend")
    config = given(daemon)
    assert config["IpcMode"] == "host"
    assert config["Devices"] == [
        {"PathOnHost": "/dev/null", "PathInContainer": "/dev/davinci0", "CgroupPermissions": "rw"},
        {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/zero", "CgroupPermissions": "rw"},
    ]
    assert (config["GroupAdd"], config["Runtime"]) == (["44"], "ascend")


def test_podman_gets_our_system_call_list_and_maps_the_caller_to_itself(daemon, tmp_path):
    daemon.info["SecurityOptions"] = ["name=seccomp,profile=/usr/share/containers/seccomp.json"]
    made = DockerEngine(FakeEndpoint(daemon), lambda images: iter([b"archive"]), tmp_path, podman_habits())
    made._tried = True
    outcome, _ = run(made)
    config = given(daemon)
    path = tmp_path / "seccomp.json"
    assert config["SecurityOpt"] == ["no-new-privileges", "label=disable", f"seccomp={path}"]
    assert path.read_bytes() == seccomp.oci_profile(here())
    assert {limit["Name"] for limit in config["Ulimits"]} == {"core", "nofile", "nproc"}
    assert outcome.limits["system_calls"] == "enforced"


@pytest.mark.parametrize("options", [[], ["name=seccomp,profile=unconfined"]])
def test_system_calls_are_not_called_enforced_without_a_profile(daemon, engine, options):
    daemon.info["SecurityOptions"] = options
    outcome, _ = run(engine)
    for limit in ("system_calls", "kernel_keys", "user_namespaces"):
        assert outcome.limits[limit] == "not enforced: Docker has no seccomp profile here"


@pytest.mark.parametrize(("key", "limit"), [("MemoryLimit", "memory"), ("PidsLimit", "pids")])
def test_each_limit_is_called_enforced_only_where_the_engine_has_it(daemon, engine, key, limit):
    daemon.info[key] = True
    assert run(engine)[0].limits[limit] == "enforced"
    engine._info = None
    daemon.info[key] = False
    said = dict(run(engine)[0].limits)
    assert said.pop(limit).startswith("not enforced: ")
    assert set(said.values()) == {"enforced"}
    expected = {"network", "read_only_root", "capabilities", "timeout", "system_calls", "kernel_keys", "memory", "pids"}
    assert set(said) == expected - {limit} | {"user_namespaces"}


@pytest.mark.parametrize("said", [["name=seccomp,profile=default", "name=selinux"], ["name=seccomp,profile=default"]])
def test_under_selinux_labels_are_switched_off_even_where_the_engine_does_not_say_that_it_is_there(
    daemon, engine, said
):
    daemon.info["SecurityOptions"] = said
    run(engine)
    assert given(daemon)["SecurityOpt"] == ["no-new-privileges", "label=disable"]


def test_in_rootless_docker_user_0_inside_is_the_caller_outside(daemon, engine):
    daemon.info["SecurityOptions"] = ["name=rootless"]
    run(engine)
    assert daemon.created[0].config["user"] == "0:0"


@pytest.mark.parametrize(
    ("habits", "option", "expected"),
    [
        (DOCKER, "rootless", (0, 0)),
        (DOCKER, "cgroupns", (1234, 567)),
        (dataclasses.replace(DOCKER, name="podman"), "rootless", (1234, 567)),
    ],
)
def test_a_job_s_user_is_the_caller_as_the_engine_maps_it(tmp_path, monkeypatch, habits, option, expected):
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 567)
    assert ContainerConfig(habits, {"SecurityOptions": [f"name={option}"]}, tmp_path).user() == expected


def test_lines_arrive_apart_and_the_exit_code_comes_from_the_events(daemon, engine):
    def job(container):
        container.say(1, b"one\ntw")
        container.say(2, b"error\n")
        container.say(1, b"o\nrest")
        container.end(3)

    daemon.job = job
    outcome, lines = run(engine)
    assert outcome.exit_code == 3
    assert not outcome.timed_out
    assert [line for stream, line in lines if stream == "stdout"] == ["one", "two", "rest"]
    assert ("stderr", "error") in lines


def test_a_job_out_of_memory_is_told_apart(daemon, engine):
    daemon.job = lambda container: container.end(137, out_of_memory=True)
    outcome, _ = run(engine)
    assert (outcome.exit_code, outcome.out_of_memory, outcome.timed_out) == (137, True, False)


def test_a_job_that_never_ends_is_killed_and_removed(daemon, engine):
    daemon.job = lambda container: None
    outcome, _ = run(engine, limits=Limits(timeout_s=0.05))
    assert (outcome.exit_code, outcome.timed_out) == (137, True)
    assert daemon.removed == ["0"]


def test_a_container_that_cannot_be_started_is_removed_and_explained(daemon, engine):
    def job(container):
        raise api_error(500, "exec format error")

    daemon.job = job
    with pytest.raises(CouldNotRun, match="exec format error"):
        run(engine)
    assert daemon.removed == ["0"]
    assert daemon.created[0].ours.fileno() == -1, "its connection is closed"


def test_an_engine_without_an_event_stream_is_an_error_and_keeps_no_connection(daemon, engine, monkeypatch):
    def events(*_, **__):
        raise api_error(500, "no events")

    monkeypatch.setattr(FakeApi, "events", events)
    with pytest.raises(CouldNotRun, match="no events"):
        run(engine)
    assert daemon.created == [] and daemon.open_clients == 0


def test_an_engine_that_vanishes_in_mid_job_is_an_error_and_not_an_outcome(daemon, engine):
    def job(container):
        daemon.events.put(None)
        container.theirs.close()

    daemon.job = job
    with pytest.raises(CouldNotRun, match="did not say how the container ended"):
        run(engine)


def test_a_limit_that_the_engine_lacks_is_not_called_enforced(daemon, engine):
    daemon.info["MemoryLimit"] = False
    outcome, _ = run(engine)
    assert outcome.limits["memory"].startswith("not enforced: ")
    assert outcome.limits["pids"] == "enforced"


def test_only_containers_whose_owner_is_certainly_gone_are_reaped(daemon, engine):
    here = Owner.this_process()
    gone = dataclasses.replace(here, start_ticks="1")
    foreign = dataclasses.replace(gone, uid=str(int(here.uid) + 1))
    elsewhere = dataclasses.replace(gone, pid_namespace="1")
    before_reboot = dataclasses.replace(here, boot="another")
    owners = {"gone": gone, "here": here, "foreign": foreign, "elsewhere": elsewhere, "boot": before_reboot}
    daemon.containers = [{"Id": name, "Labels": owner.labels()} for name, owner in owners.items()]
    daemon.containers.append({"Id": "not ours", "Labels": {}})
    assert engine.reap() == ["boot", "gone"]
    assert sorted(daemon.removed) == ["boot", "gone"]


def test_a_container_that_cannot_be_removed_now_is_left_to_the_next_run(daemon, engine, monkeypatch):
    gone = dataclasses.replace(Owner.this_process(), start_ticks="1")
    daemon.containers = [{"Id": name, "Labels": gone.labels()} for name in ("1", "2")]

    def remove(*given):
        if given[-1] == "1":
            raise api_error(500, "another client removes it")

    monkeypatch.setattr(docker_engine, "remove_container", remove)
    assert engine.reap() == ["2"]
    monkeypatch.setattr(FakeApi, "containers", lambda *_, **__: remove("1"))
    with pytest.raises(CouldNotRun, match=r"^Docker failed on what killed runs left in it: another client removes it$"):
        engine.reap()


@pytest.mark.parametrize(
    ("version", "info", "reason"),
    [
        ({}, {"OperatingSystem": "Docker Desktop"}, "virtual machine"),
        ({}, {"OSType": "windows"}, "windows"),
        ({}, {"Architecture": "s390x"}, "another machine"),
        ({"Version": "20.10.5+dfsg1"}, {}, "clone3"),
        ({"Version": "19.03.15"}, {}, "clone3"),
        ({"Components": [{"Name": "Podman Engine"}]}, {}, "Podman answers"),
    ],
)
def test_an_engine_is_refused_with_its_reason(version, info, reason):
    with pytest.raises(EngineUnavailable) as refused:
        check_engine("docker", {**VERSION, **version}, {**INFO, **info})
    assert reason in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("version", ["20.10.10", "20.10.24+dfsg1", "28.2.2", "29.0.0-rc.1"])
def test_a_docker_that_knows_clone3_is_taken(version):
    check_engine("docker", {**VERSION, "Version": version}, INFO)


def test_an_old_docker_without_seccomp_is_taken():
    check_engine("docker", {**VERSION, "Version": "19.03.1"}, {**INFO, "SecurityOptions": []})


@pytest.mark.parametrize("url", ["tcp://192.0.2.1:2375", "ssh://user@host", "http://127.0.0.1:2375"])
def test_an_address_that_may_be_another_machine_is_refused(url):
    with pytest.raises(EngineUnavailable, match="another machine") as caught:
        Endpoint(url, "Docker").connect(1)
    assert "DOCKER_HOST" in caught.value.hint


def test_no_socket_a_file_and_a_dead_socket_have_each_their_reason(tmp_path):
    import socket

    with pytest.raises(EngineUnavailable, match="not running, or not installed"):
        Endpoint(f"unix://{tmp_path}/absent", "Docker").connect(1)
    (tmp_path / "file").touch()
    with pytest.raises(EngineUnavailable, match="is not a socket"):
        Endpoint(f"unix://{tmp_path}/file", "Docker").connect(1)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    with pytest.raises(EngineUnavailable, match="installed but not running"):
        Endpoint(f"unix://{tmp_path}/dead", "Docker").connect(1)


def test_the_docker_commands_context_and_host_are_honoured(tmp_path):
    assert docker_endpoint({"DOCKER_HOST": "tcp://x:1"}, tmp_path).url == "tcp://x:1"
    folder = tmp_path / ".docker"
    meta = folder / "contexts" / "meta" / sha256_bytes(b"desktop-linux")
    meta.mkdir(parents=True)
    (meta / "meta.json").write_bytes(canonical_json({"Endpoints": {"docker": {"Host": "unix:///vm.sock"}}}))
    (folder / "config.json").write_bytes(canonical_json({"currentContext": "desktop-linux"}))
    assert docker_endpoint({}, tmp_path).url == "unix:///vm.sock"
    assert docker_endpoint({"DOCKER_CONTEXT": "default"}, tmp_path).url.endswith("docker.sock")


def copies(daemon, *, content=None, code=0):
    """A container that copies the token from its input to its output, or writes `content` there."""

    def job(container):
        mounts = {mount["Target"]: Path(mount["Source"]) for mount in container.config["host_config"]["Mounts"]}
        token = (mounts["/run/try/in"] / "token").read_text()
        if content != "":
            (mounts["/run/try/out"] / "token").write_text(token if content is None else content)
        container.end(code)

    daemon.job = job


def untried(daemon, tmp_path):
    return DockerEngine(FakeEndpoint(daemon), lambda images: iter([b"archive"]), tmp_path)


def test_an_engine_is_tried_with_one_small_job_before_its_first(daemon, tmp_path):
    copies(daemon)
    engine = untried(daemon, tmp_path)
    engine.prepare(IMAGE)
    engine.prepare(IMAGE)
    assert len(daemon.created) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(("content", "code"), [("other", 0), ("", 0), (None, 1), ("x" * 100, 0)])
def test_an_engine_that_cannot_copy_a_small_file_is_not_used(daemon, tmp_path, content, code):
    copies(daemon, content=content, code=code)
    with pytest.raises((EngineUnavailable, VerificationFailed)):
        untried(daemon, tmp_path).prepare(IMAGE)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_an_engine_whose_files_belong_to_another_user_is_not_used(daemon, tmp_path, monkeypatch):
    copies(daemon)
    engine = untried(daemon, tmp_path)
    caller = os.getuid()
    monkeypatch.setattr(docker_engine.os, "getuid", lambda: caller + 1)
    with pytest.raises(EngineUnavailable, match=f"belong to user {caller}, not to {caller + 1}"):
        engine.prepare(IMAGE)


def test_an_image_that_the_engine_has_is_told_while_another_one_is_still_loaded(daemon):
    """The largest image takes half a minute to load, and stages in others need not wait for it."""
    loading, go_on = threading.Event(), threading.Event()
    other = dataclasses.replace(IMAGE, name="large", config_digest="sha256:" + "9" * 64, manifest_digest="sha256:8")

    class Slow(FakeApi):
        def load_image(self, chunks):
            loading.set()
            assert go_on.wait(60)
            raise DockerException("no space")

    held = HeldImages("Docker", lambda images: iter([b"archive"]))
    first = held.id_of(FakeApi(daemon), IMAGE)  # loaded before
    failed: list[BaseException] = []

    def load():
        try:
            held.id_of(Slow(daemon), other)
        except CouldNotRun as error:
            failed.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        assert loading.wait(60)
        asked = threading.Thread(target=held.id_of, args=(FakeApi(daemon), IMAGE), daemon=True)
        asked.start()
        asked.join(30)
        assert not asked.is_alive()
    finally:
        go_on.set()
        thread.join()
    assert held.id_of(FakeApi(daemon), IMAGE) == first and len(failed) == 1
