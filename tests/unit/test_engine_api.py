"""Engines behind Docker's API: what is read of events, who is killed, which files are seen, what is told."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import time
from http.client import HTTPResponse
from pathlib import Path
from types import SimpleNamespace

import pytest
from _engine_cases import CONFIG, DIFF, IMAGE, INFO, MANIFEST, VERSION, FakeApi, FakeDaemon, FakeEndpoint, api_error
from docker.errors import APIError, DockerException, ImageNotFound
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ReadTimeout

from repro.base import pace
from repro.base.architecture import here
from repro.base.errors import CouldNotRun, EngineUnavailable, VerificationFailed
from repro.base.files import sha256_bytes
from repro.container.job import Availability, Job, Mount
from repro.engines import docker_engine, endpoint, held_images
from repro.engines.docker_engine import DockerEngine, remove_container
from repro.engines.endpoint import Endpoint, check_files
from repro.engines.following import JOB_LABEL, Killer, Watch, end_response
from repro.engines.held_images import HeldImages
from repro.machine.owner import Owner


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
        monkeypatch.setenv("BUNDLE_TIME_FACTOR", "8")
        for wait in (watch.wait_until_created, lambda: watch.exit_code(0.0)):
            began_s = time.monotonic()
            with pytest.raises(CouldNotRun):
                wait()
            assert time.monotonic() - began_s > 0.3  # eight times as patient


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


def test_a_response_whose_socket_was_taken_out_of_it_is_closed_with_it():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello")
        response = HTTPResponse(ours)
        response.begin()
        taken = response.fp.raw
        taken._response = response  # as docker-py leaves it
        end_response(taken)
        assert taken.closed and response.closed
        end_response(taken)  # what is closed already is no error


class FileApi:
    """An engine's API as far as it is asked what files it sees."""

    def __init__(self, folder: Path, *, renames: bool = False) -> None:
        self.folder, self.renames, self.full = folder, renames, False
        self.removed: list[tuple[str, bool]] = []
        self.loads, self.held = 0, set[str]()
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
        digest = sha256_bytes(config)
        assert manifest["RepoTags"] == [f"lstm-ctc-bundle/probe:{digest[:12]}"], "another image, another tag"
        self.loads += 1
        self.held = {*manifest["RepoTags"], "sha256:renamed" if self.renames else f"sha256:{digest}"}
        return iter([{"error": "no space"} if self.full else {"stream": "loaded"}])

    def create_host_config(self, **options):
        (mount,) = options.pop("mounts")
        assert options == {"network_mode": "none", "init": True} and mount["ReadOnly"] and mount["Target"] == "/probe"
        return Path(mount["Source"])

    def create_container(self, image, command, host_config):
        assert command == ["/never"]
        if image not in self.held or self.full:
            raise ImageNotFound("no such image")
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
        self.removed.append((container, force))
        raise api_error(409)


@pytest.mark.parametrize("renames", [False, True])
def test_an_engine_shows_that_it_sees_our_files_and_keeps_one_empty_image_for_the_next_time(tmp_path, renames):
    api = FileApi(tmp_path, renames=renames)
    (tmp_path / ".tmp.probe.dead").mkdir()
    check_files(api, tmp_path, "Docker")
    assert (api.loads, api.removed) == (1, [("container", True)])
    assert list(tmp_path.iterdir()) == []
    check_files(api, tmp_path, "Docker")
    assert (api.loads, api.removed) == (1, [("container", True)] * 2)
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
    assert hint in caught.value.hint and api.removed == []
    assert list(tmp_path.iterdir()) == [] and endpoint._USE_SANDBOX == "use `--engine sandbox`"


def test_an_engine_that_does_not_keep_what_it_loaded_is_refused_with_its_words(tmp_path):
    api = FileApi(tmp_path)
    api.full = True
    with pytest.raises(EngineUnavailable, match=r"^Docker does not hold an image .* to load: no space$") as caught:
        check_files(api, tmp_path, "Docker")
    assert "disk full" in caught.value.hint and list(tmp_path.iterdir()) == []


class Late:
    """An engine that does not answer in time."""

    def __call__(self, timeout, **_):
        self.timeout = timeout
        raise DockerException("Error while fetching server API version: Read timed out. (read timeout=60)")


def test_a_socket_that_this_user_may_not_use_or_that_answers_nonsense_is_told(tmp_path, monkeypatch):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        monkeypatch.setattr(
            endpoint.os, "access", lambda where, mode: not (where == path and mode == os.R_OK | os.W_OK)
        )
        with pytest.raises(EngineUnavailable, match=f"^this user may not use Docker: no permission on {path}$"):
            Endpoint(f"unix://{path}", "Docker").connect(1)
        monkeypatch.undo()
        given = []

        def client(**arguments):
            given.append(arguments)
            raise DockerException("odd words")

        monkeypatch.setattr(endpoint.docker, "APIClient", client)
        with pytest.raises(EngineUnavailable, match=f"^Docker does not answer at unix://{path}: odd words$") as caught:
            Endpoint(f"unix://{path}", "Docker").connect(7)
        assert given == [{"base_url": f"unix://{path}", "version": "auto", "timeout": 7}]
        assert caught.value.hint == "use `--engine sandbox`"
        monkeypatch.setenv("BUNDLE_TIME_FACTOR", "10")
        monkeypatch.setattr(endpoint.docker, "APIClient", late := Late())
        with pytest.raises(EngineUnavailable) as caught:
            Endpoint(f"unix://{path}", "Docker").connect(7)
        assert late.timeout == 70 and "BUNDLE_TIME_FACTOR" in caught.value.hint
        monkeypatch.setattr(endpoint.docker, "APIClient", lambda **_: "CLIENT")
        assert Endpoint(f"unix://{path}", "Docker").connect(7) == "CLIENT"
    with pytest.raises(EngineUnavailable, match="'s socket cannot be reached: "):
        Endpoint(f"unix://{tmp_path}/s/below", "Docker").connect(1)


@pytest.fixture
def daemon():
    return FakeDaemon()


@pytest.fixture
def engine(daemon, tmp_path, monkeypatch):
    made = DockerEngine(FakeEndpoint(daemon), lambda images: iter([b"archive"]), tmp_path)
    made._tried = True
    return made


def test_what_is_recorded_of_an_engine_is_taken_field_by_field(daemon, engine):
    daemon.version = {"Version": "1", "ApiVersion": "2"}
    daemon.info = {
        "OperatingSystem": "3", "Driver": "4", "CgroupVersion": 5, "CgroupDriver": "6", "DefaultRuntime": "7",
        "Runtimes": {"runc": {}, "ascend": {}}, "SecurityOptions": ["b", "a"],
    }  # fmt: skip
    assert engine.facts() == {
        "version": "1", "api_version": "2", "operating_system": "3", "storage_driver": "4", "cgroup_version": "5",
        "cgroup_driver": "6", "runtime": "7", "runtimes": "ascend, runc", "security_options": "a, b",
    }  # fmt: skip
    names = set(engine.facts())
    daemon.version, daemon.info = {}, {"Runtimes": None, "SecurityOptions": None}
    assert engine.facts() == dict.fromkeys(names, "")


def test_an_engine_is_usable_only_after_it_answered_and_showed_that_it_sees_our_files(
    daemon, engine, tmp_path, monkeypatch
):
    checked = []
    monkeypatch.setattr(docker_engine, "check_engine", lambda *given: checked.append(given))
    monkeypatch.setattr(docker_engine, "check_files", lambda api, *given: checked.append((type(api).__name__, *given)))
    assert engine.probe() == Availability("docker", True, facts=engine.facts())
    assert checked == [("docker", VERSION, INFO), ("FakeApi", tmp_path, "Docker")] and engine._info == INFO

    def refuse(error):
        def check(*_):
            raise error

        return check

    monkeypatch.setattr(docker_engine, "check_files", refuse(EngineUnavailable("why", hint="what to do")))
    assert engine.probe() == Availability("docker", False, "why", "what to do")
    for error in (DockerException("odd"), NoConnection("odd")):
        monkeypatch.setattr(docker_engine, "check_engine", refuse(error))
        assert engine.probe() == Availability(
            "docker", False, "Docker answers with an error: odd", "see its daemon's log"
        )


def test_a_container_is_made_of_the_job_and_labelled_as_ours(daemon, engine):
    engine.run(Job(IMAGE, ("prog", "arg"), env={"A": "1"}, workdir="/tmp/x"), lambda *_: None)
    config = daemon.created[0].config
    assert (
        config["entrypoint"] == ["/bin/sh"]
        and config["command"][0] == "-c"
        and config["command"][-2:] == ["prog", "arg"]
    )
    assert "read -r never" in config["command"][1], "it is watched"
    labels = dict(config["labels"])
    marker = labels.pop(JOB_LABEL)
    assert len(marker) == 32 and labels == Owner.this_process().labels()
    assert (config["hostname"], config["working_dir"], config["stdin_open"]) == ("stage", "/tmp/x", True)
    assert config["environment"]["A"] == "1" and config["host_config"]["NetworkMode"] == "none"
    engine.run(Job(IMAGE, ("prog",)), lambda *_: None)
    assert daemon.created[1].config["labels"][JOB_LABEL] != marker


def test_a_job_s_outcome_is_told_whole_and_what_it_made_loses_its_bits(daemon, engine, tmp_path):
    (tmp_path / "out").mkdir()

    def behave(container):
        (tmp_path / "out" / "f").write_bytes(b"")
        (tmp_path / "out" / "f").chmod(0o4755)
        container.say(2, b"last words")
        container.end(4)

    daemon.job = behave
    said = []
    mounts = (Mount(tmp_path / "out", "/run/out", writable=True),)
    outcome = engine.run(Job(IMAGE, ("x",), mounts), lambda *line: said.append(line))
    assert said == [("stderr", "last words"), ("stderr", "note: took the set-user-ID or set-group-ID bit off f")]
    assert (tmp_path / "out" / "f").stat().st_mode & 0o7777 == 0o755
    assert (outcome.exit_code, outcome.timed_out, outcome.out_of_memory) == (4, False, False)
    assert 0 < outcome.wall_s < 60 and outcome.limits == engine._config().limits()
    assert daemon.removed == ["0"]


@pytest.mark.parametrize(
    ("error", "said"),
    [(api_error(500, "no space"), "no space"), (NoConnection("gone"), "gone"), (ReadTimeout("late"), "late")],
)
def test_an_engine_that_fails_on_a_job_is_told_with_its_words(daemon, engine, error, said):
    def behave(container):
        raise error

    daemon.job = behave
    with pytest.raises(CouldNotRun, match=rf"^Docker failed on my job: .*{said}") as caught:
        engine.run(Job(IMAGE, ("x",), name="my job"), lambda *_: None)
    running = "is the engine still running? `invoke doctor` says more"
    assert caught.value.hint == (pace.HINT if said == "late" else running)


@pytest.mark.parametrize(("status", "raised"), [(404, False), (409, False), (500, True)])
def test_a_container_that_is_gone_is_as_good_as_removed(status, raised):
    def remove(container, force, v):
        assert (container, force, v) == ("c", True, True)
        raise api_error(status)

    api = SimpleNamespace(remove_container=remove)
    if raised:
        with pytest.raises(type(api_error(500))):
            remove_container(api, "c")
    else:
        remove_container(api, "c")


def test_the_first_job_of_an_engine_is_a_small_one_of_ours(daemon, tmp_path, monkeypatch):
    engine = DockerEngine(FakeEndpoint(daemon), lambda images: iter([b"archive"]), tmp_path)
    seen = []

    def behave(container):
        places = {mount["Target"]: mount for mount in container.config["host_config"]["Mounts"]}
        given, made = (Path(places[f"/run/try/{name}"]["Source"]) for name in ("in", "out"))
        seen.append((given.parent.parent, given.parent == made.parent, places["/run/try/out"]["ReadOnly"]))
        assert container.config["command"][-3:] == ["/bin/sh", "-c", "cat /run/try/in/token > /run/try/out/token"]
        (made / "token").write_text((given / "token").read_text())
        container.end(0)

    daemon.job = behave
    (tmp_path / ".tmp.try.dead").mkdir()
    engine.prepare(IMAGE)
    assert seen == [(tmp_path, True, False)] and not list(tmp_path.glob(".tmp*"))

    def fails(container):
        container.say(2, b"sh: no such file\n")
        container.end(9)

    daemon.job = fails
    engine._tried = False
    with pytest.raises(EngineUnavailable, match=r"that could not copy one small file \(exit code 9\)$") as caught:
        engine.run(Job(IMAGE, ("true",)), lambda *_: None)
    assert caught.value.detail == "sh: no such file" and caught.value.hint == "use `--engine sandbox`"


class ImagesApi:
    """Holds images by digest; `load` says what loading brings."""

    timeout = 60

    def __init__(self, **held) -> None:
        self.held, self.asked, self.load = held, [], lambda: iter([])

    def inspect_image(self, digest):
        self.asked.append(digest)
        if digest not in self.held:
            raise ImageNotFound("none")
        return self.held[digest]

    def load_image(self, archive):
        assert self.timeout is None, "storing a large layer answers nothing for minutes"
        assert list(archive) == [b"archive"]
        return self.load()


GOOD = {"Id": CONFIG, "RootFS": {"Layers": [DIFF]}}


def held(said=None) -> HeldImages:
    return HeldImages("Docker", lambda images: iter([b"archive"] if images == [IMAGE] else []), (said or []).append)


def test_an_image_is_known_by_either_digest_and_asked_for_again_only_when_forgotten():
    for digest, reported in ((CONFIG, CONFIG), (MANIFEST, MANIFEST), (CONFIG, CONFIG[7:])):
        api, images = ImagesApi(**{digest: {**GOOD, "Id": reported}}), held()
        assert images.id_of(api, IMAGE) == images.id_of(api, IMAGE) == reported
        assert api.asked == [CONFIG, MANIFEST][: 1 + (digest == MANIFEST)]
        images.forget(IMAGE)
        images.forget(IMAGE)
        assert images.id_of(api, IMAGE) == reported and len(api.asked) == 2 * (1 + (digest == MANIFEST))


def test_an_image_is_asked_for_again_while_somebody_loads_or_removes_one_that_shares_its_layers(monkeypatch):
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(held_images.time, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(held_images.time, "sleep", lambda seconds: setattr(clock, "now_s", clock.now_s + seconds))
    api, ask = ImagesApi(**{CONFIG: GOOD}), ImagesApi.inspect_image
    troubles = [api_error(500, "2: image not known"), api_error(500, "locating item named manifest")] * 40
    api.inspect_image = lambda digest: raised(troubles.pop()) if troubles else ask(api, digest)
    assert held().id_of(api, IMAGE) == CONFIG and troubles == []
    slow, wrong = api_error(500, "disk"), api_error(400, "wrong")
    for error, factor, waited_s in ((slow, "1", 5), (slow, "3", 15), (wrong, "1", 0)):
        monkeypatch.setenv("BUNDLE_TIME_FACTOR", factor)
        clock.now_s, troubles = 0.0, [error] * 1000
        with pytest.raises(APIError):
            held().id_of(api, IMAGE)
        assert waited_s <= clock.now_s <= waited_s * 1.02


def raised(error):
    raise error


def test_what_an_engine_says_when_asked_for_an_image_is_told_with_the_image_s_name(daemon, engine, monkeypatch):
    monkeypatch.setattr(held_images, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(FakeApi, "inspect_image", lambda *_: raised(api_error(500, "disk")))
    with pytest.raises(CouldNotRun, match=r"^Docker failed on base: disk$"):
        engine.prepare(IMAGE)


@pytest.mark.parametrize(
    ("found", "told"),
    [({**GOOD, "Id": "sha256:e"}, f"Id sha256:e, layers {DIFF}"),
     ({"Id": CONFIG, "RootFS": {}}, f"Id {CONFIG}, layers "),
     ({"Id": CONFIG, "RootFS": {"Layers": ["1", "2"]}}, f"Id {CONFIG}, layers 1, 2")],
)  # fmt: skip
def test_something_else_in_an_image_s_place_is_refused_with_what_it_is(found, told):
    with pytest.raises(VerificationFailed) as caught:
        held().id_of(ImagesApi(**{CONFIG: found}), IMAGE)
    assert caught.value.message == f"the engine holds something else as {CONFIG}: {told}"
    assert caught.value.hint == f"remove it with `docker image rm {CONFIG}` (or podman) and run again"


def test_each_way_in_which_loading_fails_is_told_and_the_client_s_patience_is_as_before():
    api, said = ImagesApi(), []
    images = HeldImages("Docker", lambda images: iter([b"archive"]), said.append)
    api.load = lambda: iter([{"stream": "one\n"}, {"error": "two"}, {}])
    with pytest.raises(CouldNotRun, match=r"^Docker did not load image base$") as caught:
        images.id_of(api, IMAGE)
    assert caught.value.detail == "one\ntwo\n" and api.timeout == 60
    api.load = lambda: iter([{}])
    with pytest.raises(
        VerificationFailed, match=f"^Docker loaded image base and knows it neither as {CONFIG} nor as {MANIFEST}$"
    ):
        images.id_of(api, IMAGE)

    def load():
        raise NoConnection("broken pipe")

    api.load = load
    with pytest.raises(CouldNotRun, match=r"^Docker could not load image base: broken pipe$"):
        images.id_of(api, IMAGE)
    assert api.timeout == 60 and said == ["loading image base into Docker: 0 MB"] * 3

    def good():
        api.held[MANIFEST] = {**GOOD, "Id": MANIFEST}
        return iter([{"stream": "done"}])

    api.load = good
    assert images.id_of(api, IMAGE) == MANIFEST
