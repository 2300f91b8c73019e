"""A run's own parts in detail: what stands in data/, which time is told, what a plan says of each step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from _graph_cases import Bench

from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.graph.cache import StatCache
from repro.graph.digests import FileDigest
from repro.graph.local import LocalExecutor
from repro.graph.making import Preparation
from repro.record.document import Observations
from repro.record.stages import Phase, Step
from repro.run import inputs, plan, session, target
from repro.run.reproduce import _observations, now
from repro.run.session import Phases, span


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    for folder in (found.data / "demo", found.conf):
        folder.mkdir(parents=True)
    (found.data / "demo" / "checkpoint.pth").write_bytes(b"weights")
    (found.conf / "demo.toml").write_text(
        f'[checkpoint]\nsha256 = "{sha256_bytes(b"weights")}"\n[corpus]\nsha256 = "{"0" * 64}"\n'
    )
    return found


def test_the_demo_s_weights_are_those_that_are_pinned(paths: Paths):
    path = paths.data / "demo" / "checkpoint.pth"
    expected = inputs.Checkpoint(path, "demo", sha256_bytes(b"weights"), "pinned in conf/demo.toml")
    for option in ("demo", ""):
        assert inputs.find_checkpoint(paths, option, StatCache(None)) == expected
    path.write_bytes(b"others")
    with pytest.raises(VerificationFailed, match=f"has sha256 {sha256_bytes(b'others')}, but conf/demo.toml pins"):
        inputs.find_checkpoint(paths, "demo", StatCache(None))
    path.unlink()
    with pytest.raises(CouldNotVerify, match="is missing from the checkout"):
        inputs.find_checkpoint(paths, "", StatCache(None))


def test_data_is_looked_for_in_this_order_and_a_path_goes_before(paths: Paths, tmp_path: Path):
    assert inputs.find_data(paths, "demo") is None and inputs.find_data(paths, "") is None
    for name in ("timit", "TIMIT", "data.zip"):
        (paths.data / name).mkdir()
        assert inputs.find_data(paths, "") == paths.data / name
    assert inputs.find_data(paths, "demo") is None
    assert inputs.find_data(paths, str(tmp_path / "conf")) == tmp_path / "conf"
    with pytest.raises(UsageError, match="--data /no/where: there is no such file or folder"):
        inputs.find_data(paths, "/no/where")
    with pytest.raises(UsageError, match="--data ~no-such-user"):
        inputs.find_data(paths, "~no-such-user/x")


@pytest.mark.parametrize(
    ("name", "kind", "message", "hint"),
    [
        ("TRAIN", "folder", "data/TRAIN lies beside other things in data/", "make a folder data/TIMIT and move TRAIN"),
        ("TIMIT-1", "folder", "data/TIMIT-1 is not looked at", "rename it to data/TIMIT, or give --data data/TIMIT-1;"),
        ("timit.zip", "link", "data/timit.zip is not looked at",
         "it is a link that leads nowhere: mend it, or remove it;"),
        ("TIMIT.ZIP", "file", "data/TIMIT.ZIP is not looked at",
         "rename it to data/data.zip, or give --data data/TIMIT.ZIP;"),
        ("data.tar.gz", "file", "data/data.tar.gz is not looked at",
         "unpack it into a folder data/TIMIT, with TRAIN and TEST"),
    ],
)  # fmt: skip
def test_what_was_surely_meant_as_data_is_named_with_what_to_do(paths: Paths, name, kind, message, hint):
    place = paths.data / name
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to("nowhere")
    else:
        place.write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        inputs.find_data(paths, "")
    assert caught.value.message.startswith(message) and caught.value.hint.startswith(hint)
    if name != "TRAIN":
        assert caught.value.message.endswith(": a data set in data/ is called data.zip, TIMIT, timit")
        assert caught.value.hint.endswith("; --data demo takes the demo corpus all the same")


def test_the_demo_corpus_s_digest_is_over_its_files_in_byte_order(paths: Paths):
    files = {"b": FileDigest("1" * 64, 1), "a/z": FileDigest("2" * 64, 2), "ä": FileDigest("0" * 64, 3)}
    result = SimpleNamespace(outputs=files)
    listed = f"{'2' * 64}  a/z\n{'1' * 64}  b\n{'0' * 64}  ä\n"
    assert inputs.demo_corpus_digest(result) == sha256_bytes(listed.encode())
    with pytest.raises(VerificationFailed, match=f"conf/demo.toml pins {'0' * 64}"):
        inputs.check_demo_corpus(paths.conf, result)
    (paths.conf / "demo.toml").write_text(f'[corpus]\nsha256 = "{sha256_bytes(listed.encode())}"\n')
    said = inputs.check_demo_corpus(paths.conf, result)
    assert said == f"digest {sha256_bytes(listed.encode())}, as pinned in conf/demo.toml"


def test_times_are_counted_from_the_beginning_of_the_run_to_the_millisecond(monkeypatch):
    clock = iter((100.0, 101.2344, 103.0, 110.0))
    monkeypatch.setattr(session.time, "monotonic", lambda: next(clock))
    phases = Phases()
    with phases.phase("fetch"):
        pass
    phases.layer("debs:base", 100.5, 2.00049)
    assert phases.items == [Phase(name="fetch", started_s=1.234, seconds=1.766)]
    assert phases.layers == [Phase(name="debs:base", started_s=0.5, seconds=2.0)]
    assert phases.total_s() == 10.0 and phases.began_s == 100.0
    assert span("x", 1.23456, 2.34567) == Phase(name="x", started_s=1.235, seconds=2.346)


def test_a_phase_that_fails_is_counted_too(monkeypatch):
    phases = Phases()
    with pytest.raises(KeyError), phases.phase("build layers"):
        raise KeyError
    assert [phase.name for phase in phases.items] == ["build layers"]


def test_a_run_s_observations_are_its_phases_layers_preparations_and_steps(monkeypatch):
    phases = Phases()
    phases.items.append(Phase(name="fetch", started_s=0.0, seconds=1.0))
    phases.layers.append(Phase(name="debs:base", started_s=0.5, seconds=0.25))
    monkeypatch.setattr(phases, "total_s", lambda: 12.5)
    done = {
        "corpus": SimpleNamespace(started_s=1.23456, seconds=2.34567, cached=True),
        "score@8": SimpleNamespace(started_s=4.0, seconds=0.0, cached=False),
    }
    executed = SimpleNamespace(done=done, preparations=[Preparation("base", 1.11111, 2.22222)])
    found = _observations("2026-11-28T00:00:00Z", SimpleNamespace(phases=phases), executed)
    assert found == Observations(
        started_at="2026-11-28T00:00:00Z",
        wall_s=12.5,
        phases=tuple(phases.items),
        layers=tuple(phases.layers),
        preparations=(Phase(name="base", started_s=1.111, seconds=2.222),),
        steps=(
            Step(key="corpus", started_s=1.235, wall_s=2.346, cached=True),
            Step(key="score@8", started_s=4.0, wall_s=0.0, cached=False),
        ),
    )
    assert len(now()) == 20 and now()[10] == "T" and now().endswith("Z")


def told_of(bench: Bench, *, force: bool = False) -> dict[str, str]:
    results: dict = {}
    keys, store = bench.keys_of(), bench.store()
    return {key: plan._plan_of(node, keys, store, results, force=force) for key, node in bench.nodes().items()}


def test_a_plan_says_of_each_step_what_would_be_done_and_why(tmp_path: Path):
    def behave(job, out, obs, on_line):
        (out / "x").write_bytes(job.name.encode())
        return 0

    bench = Bench(tmp_path, behave)
    waits = "run unless its inputs come out as before: after first"
    assert told_of(bench) == {"first": "run: never run before", "second": waits}
    bench.runner().run(bench.nodes())
    assert told_of(bench) == {"first": "stored", "second": "stored"}
    again = "run again: --force (its result must come out the same)"
    assert told_of(bench, force=True) == {"first": again, "second": again}
    (bench.stages / "second.py").write_text("import json, os\n")
    assert told_of(bench) == {"first": "stored", "second": "run: code of the stage changed"}
    (bench.data / "wave").write_bytes(b"other speech")
    assert told_of(bench) == {"first": "run: input data changed", "second": waits}
    last = bench.store().last_of("first")
    for text in ("{", "[]", "{}"):
        (bench.store().path(last) / "result.json").chmod(0o644)
        (bench.store().path(last) / "result.json").write_text(text)
        assert told_of(bench)["first"] == "run: its last result was removed or damaged"
    (bench.store().path(last) / "result.json").unlink()
    assert told_of(bench)["first"] == "run: its last result was removed or damaged"
    bench.images = {}
    assert set(told_of(bench).values()) == {"run: image base is not built yet"}


def test_a_session_works_in_its_own_checkout_and_gives_a_runner_what_it_was_given(tmp_path: Path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").write_text("")
    (tmp_path / "stages" / "first.py").write_text("X = 1\n")
    paths = Paths(tmp_path, tmp_path / "elsewhere")
    here = session.Session(paths, SimpleNamespace(say=lambda text: None))
    assert set(here.codes.of("first").files) == {"stages/__init__.py", "stages/first.py"}
    assert here.store.folder == paths.store and here.architecture in ("amd64", "arm64")
    access, mounts, engine = object(), {"cann": ()}, object()
    runner = here.runner(engine, here.keys({}), access=access, mounts=mounts)
    around = runner._around
    assert (around.access, around.mounts, around.code, around.logs) == (access, mounts, paths.code, paths.logs)
    assert around.began_s == here.phases.began_s and around.watcher is here.console
    assert around.machine_lock is not None and around.given.cores >= 1
    assert LocalExecutor is type(runner._executor)


@pytest.mark.parametrize("text", ["-1", "0,0", "x", "0,", "256", "1.0"])
def test_what_is_no_list_of_devices_is_refused(text: str):
    with pytest.raises(UsageError, match="is not a list of NPU device numbers"):
        target.parse_devices(text)


def test_devices_are_taken_in_the_order_given():
    assert (
        target.parse_devices("") == ()
        and target.parse_devices("3,0") == (3, 0)
        and target.parse_devices("255") == (255,)
    )


def test_the_chips_and_the_disk_that_are_spent_are_told(monkeypatch, tmp_path: Path):
    chips = [SimpleNamespace(device=n, name="310P3", card=n + 1, number=n + 2) for n in (0, 1)]
    npu = SimpleNamespace(product="Atlas", driver="22.0.4", simulator=False)
    both = "device 0 (310P3, card 1, chip 2), device 1 (310P3, card 2, chip 3)"
    assert target._sentence(npu, chips) == f"NPU: {both}, Atlas, driver 22.0.4"
    npu.simulator = True
    assert target._sentence(npu, chips[:1]).endswith(", Atlas, driver 22.0.4 - a SIMULATOR")
    (tmp_path / "run").write_bytes(b"x" * 1000)
    asked = []
    monkeypatch.setattr(target, "known_images", lambda *arguments: asked.append(arguments) or {})
    monkeypatch.setattr(target, "sources_of", lambda *_: ["there", "absent"])
    monkeypatch.setattr(target, "find_source", lambda _, source: tmp_path / "run" if source == "there" else None)
    monkeypatch.setattr(target, "_UNPACKED_FACTOR", 2_000_000)
    monkeypatch.setattr(target.shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000_000))
    paths = Paths(tmp_path)
    assert target._cost(paths, "amd64", "cann") == [
        "the CANN image is built first: about 2.0 GB of 3.0 GB free, and some minutes"
    ]
    assert asked == [(paths, ["cann"], "amd64")]
    monkeypatch.setattr(target, "known_images", lambda *_: {"cann": 1})
    assert target._cost(paths, "amd64", "cann") == []


@pytest.mark.parametrize("signed", ["", "signed by KEY"])
def test_a_user_s_checkpoint_is_what_it_is_and_what_it_was_held_to(
    paths: Paths, tmp_path: Path, monkeypatch, signed: str
):
    asked = []
    monkeypatch.setattr(inputs, "_signed", lambda *given: asked.append(given) or signed)
    digest = sha256_bytes(b"mine")
    also = f"; {signed}" if signed else ""

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        return path

    own = put(tmp_path / "own.pth")
    assert inputs.find_checkpoint(paths, str(own), StatCache(None)) == inputs.Checkpoint(
        own, "user", digest, signed or "the user's own: known by this digest alone"
    )
    places = ("sources", "", "checkpoint", "checkpoint/ctc_fbank_cnn")
    for number, place in enumerate(places):  # each goes before those above
        found = put(paths.data / place / "ctc_best_model.pth")
        trust = "equal to the one in" if number else "recorded now in"
        assert inputs.find_checkpoint(paths, "", StatCache(None)) == inputs.Checkpoint(
            found, "user", digest, f"trusted on first use: {trust} data/user.lock.json{also}"
        )
        assert asked[-1] == (paths, found, digest)
    assert inputs.find_checkpoint(paths, "demo", StatCache(None)).kind == "demo"
    found.write_bytes(b"others")
    with pytest.raises(VerificationFailed) as caught:
        inputs.find_checkpoint(paths, "", StatCache(None))
    assert caught.value.message == (
        f"{found} has sha256 {sha256_bytes(b'others')}, but the one seen first had {digest} (data/user.lock.json)"
    )


@pytest.mark.parametrize("name", ["model.sig", "own.pth.sig"])
def test_a_signature_beside_a_checkpoint_is_asked_about(paths: Paths, tmp_path: Path, monkeypatch, name: str):
    from repro.run import model_signature

    checkpoint, asked = tmp_path / "own.pth", []
    monkeypatch.setattr(model_signature, "signer_of_checkpoint", lambda *given: asked.append(given) or "by KEY")
    assert inputs._signed(paths, checkpoint, "digest") == "" and asked == []
    (tmp_path / name).write_bytes(b"")
    assert inputs._signed(paths, checkpoint, "digest") == "by KEY"
    assert asked == [(checkpoint, "digest", paths.data / "model-signers.pem")]


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("checkpoint/other.pth", "not looked at"), ("CTC_BEST_MODEL", "not looked at"), ("x/", ""),
        ("x.pth/", "a folder"),
        ("sources/other.pth", ""), ("sources/ctc_best_model.bin", "not looked at"),
        ("x.pth@", "a link that leads nowhere"),
    ],
)  # fmt: skip
def test_what_was_surely_meant_as_a_checkpoint_is_named_with_what_it_is(paths: Paths, place: str, what: str):
    path = paths.data / place.rstrip("/@")
    path.parent.mkdir(parents=True, exist_ok=True)
    if place.endswith("/"):
        path.mkdir()
    elif place.endswith("@"):
        path.symlink_to("nowhere")
    else:
        path.write_bytes(b"")
    if not what:
        assert inputs.users_checkpoint(paths) is None
        return
    with pytest.raises(UsageError) as caught:
        inputs.users_checkpoint(paths)
    told = f"data/{place.rstrip('/@')} is {what}: a checkpoint in data/ is a file ctc_best_model.pth"
    assert caught.value.message == told


@pytest.mark.parametrize(
    ("option", "message"),
    [("/no/where.pth", "--checkpoint /no/where.pth: there is no such file"), (".", "--checkpoint .: this is a folder"),
     ("~no-such-user/x", "--checkpoint ~no-such-user")],
)  # fmt: skip
def test_a_checkpoint_that_was_named_must_be_a_file(paths: Paths, option: str, message: str):
    with pytest.raises(UsageError) as caught:
        inputs.find_checkpoint(paths, option, StatCache(None))
    assert caught.value.message.startswith(message)
