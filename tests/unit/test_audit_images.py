"""Claims about images, layers, locks and labels, told whole: what is found, what is another one, what is not here."""

from __future__ import annotations

import dataclasses
import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from _audit_cases import make_readable_run, reopen

from repro.audit import images, labels, packages
from repro.audit.claims import ATTESTED, Examination, Outcome
from repro.base.errors import CouldNotVerify, NotPlain, VerificationFailed
from repro.base.files import sha256_bytes
from repro.container.image import Layer
from repro.images.recipes import recipes_of

COMMIT = "check out the commit that made the record"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_readable_run(tmp_path_factory.mktemp("images"))


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def layer_of(evidence, **changes):
    return msgspec.structs.replace(evidence.record.image_layers["base"][0], **changes)


def test_a_layer_is_told_by_its_bytes_or_as_not_here(copied: Path):
    evidence = reopen(copied)
    layer, it = layer_of(evidence), Examination()
    images._examine_layer(it, evidence, layer, {})
    size, digest = layer.size_bytes, layer.diff_id
    assert (it.wrong, it.missing, it.evidence) == ([], [], [f"{size} bytes hashed: {digest}"])
    assert it.looked_at == {f"layer {layer.name}": digest[7:]}
    it = Examination()
    images._examine_layer(it, evidence, layer_of(evidence, size_bytes=size + 1), {})
    assert it.wrong == [f"the blob {digest[:19]} has {size} bytes, the record says {size + 1}"]
    (evidence.blobs / digest[7:]).write_bytes(b"x" * size)
    it = Examination()
    images._examine_layer(it, evidence, layer, {})
    assert len(it.wrong) == 1 and it.wrong[0].startswith(f"the blob {digest} has sha256 ")
    (evidence.blobs / digest[7:]).unlink()


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_a_layer_that_is_not_here_is_made_for_the_run_s_architecture(copied: Path, architecture):
    evidence = reopen(copied)
    layer, it = layer_of(evidence), Examination()
    (evidence.blobs / layer.diff_id[7:]).unlink()
    host = msgspec.structs.replace(evidence.record.host, architecture=architecture)
    record = msgspec.structs.replace(evidence.record, host=host)
    images._examine_layer(it, dataclasses.replace(evidence, record=record), layer, {})
    advice = f"layer {layer.diff_id} is not here: `invoke images.build --arch {architecture}` makes it"
    assert (it.missing, it.evidence) == ([advice], [])
    with pytest.raises(CouldNotVerify, match=rf"^layer {layer.name} is not here$"):
        images._databases_of_blob(evidence, layer)


def test_an_image_is_told_by_its_layers_and_both_digests(run: Path):
    evidence = reopen(run)
    it = Examination()
    images._examine_image(it, evidence, "base")
    config, manifest = evidence.record.images["base"], evidence.record.image_manifests["base"]
    count = len(evidence.record.image_layers["base"])
    assert (it.wrong, it.missing) == ([], [])
    assert it.evidence == [f"{count} layers; config {config}; manifest {manifest}"]
    assert it.looked_at == {"image base": config[7:]}
    other = "sha256:" + "0" * 64
    for change, said in (
        ({"image_manifests": {**evidence.record.image_manifests, "base": other}},
         f"image_manifests.base is {other}; recomputed: {manifest}"),
        ({"images": {**evidence.record.images, "base": other}}, f"images.base is {other}; recomputed: {config}"),
        ({"image_layers": {}}, "image_layers says nothing of image base"),
    ):  # fmt: skip
        evidence.record = msgspec.structs.replace(reopen(run).record, **change)
        it = Examination()
        images._examine_image(it, evidence, "base")
        assert it.wrong == [said]


def test_a_config_of_another_checkout_with_the_record_s_layers_is_open(copied: Path):
    evidence = reopen(copied)
    layers = evidence.record.image_layers["base"]

    def config(**changes):
        history = [{"created_by": f"{each.name} {each.made_from}"} for each in layers]
        document = {"rootfs": {"diff_ids": [each.diff_id for each in layers]}, "history": history, **changes}
        data = msgspec.json.encode(document)
        (evidence.blobs / sha256_bytes(data)).write_bytes(data)
        return "sha256:" + sha256_bytes(data)

    def of_another(identity: str) -> bool:
        return images._is_of_another_checkout(evidence, identity, layers)

    sound = config()
    assert of_another(sound) and not of_another("sha256:" + "0" * 64)
    assert not of_another(config(rootfs={"diff_ids": []})) and not of_another(config(history=[]))
    here = evidence.record.images["base"]
    evidence.record = msgspec.structs.replace(evidence.record, images={**evidence.record.images, "base": sound})
    it = Examination()
    images._examine_image(it, evidence, "base")
    assert (it.wrong, it.missing) == (
        [], [f"its config lists the record's layers, but this checkout would make {here}: {COMMIT}"],
    )  # fmt: skip
    (evidence.blobs / sound[7:]).write_bytes(b"{}")
    assert not of_another(sound)


def test_layers_that_this_checkout_defines_otherwise_are_told_by_name(run: Path, monkeypatch):
    evidence = reopen(run)
    outcome = Outcome("verify", "a run")
    found = images._recipes(outcome, evidence)
    names = {name: [each.name for each in layers] for name, layers in evidence.record.image_layers.items()}
    assert set(found) == {each for listed in names.values() for each in listed}
    assert outcome.claims[0].evidence == tuple(f"{name}: {', '.join(listed)}" for name, listed in names.items())
    assert (outcome.claims[0].key, outcome.claims[0].text) == (
        "definitions", "the images are made of the layers that this checkout defines",
    )  # fmt: skip
    monkeypatch.setattr(images, "recipes_of", lambda paths, name, arch: recipes_of(paths, name, arch)[1:])
    outcome = Outcome("verify", "a run")
    images._recipes(outcome, evidence)
    base = names["base"]
    here = ", ".join(base[1:]) or "nothing"
    assert outcome.claims[0].findings[0] == (
        f"image base is made of {', '.join(base)}; docker/base/image.toml here says {here}: {COMMIT}"
    )


def test_a_lock_is_told_with_its_digest_and_pin(run: Path, monkeypatch):
    evidence = reopen(run)
    layer = layer_of(evidence)
    recipe = next(r for r in recipes_of(evidence.paths, "base", "amd64") if r.name == layer.name)
    lock = f"sha256:{recipe.lock.digest}"
    held = f"lock digest {lock}; `invoke audit.challenge` builds the layer again and proves it"
    other = "sha256:" + "0" * 64

    def examined(pins, given=recipe, **changes):
        monkeypatch.setattr(images, "load_pins", lambda _: {"layers": pins})
        it = Examination()
        images._examine_lock(it, evidence, layer_of(evidence, **{"made_from": lock, **changes}), given)
        return it.missing, it.evidence, it.kind

    none = "conf/locks/images.json pins no digest of it"
    pin = {"amd64": {layer.name: layer.diff_id}}
    assert examined({}) == examined({"arm64": pin["amd64"]}) == ([], [none, held], ATTESTED)
    assert examined(pin) == ([], [f"conf/locks/images.json pins {layer.diff_id}", held], ATTESTED)
    assert examined({"amd64": {layer.name: other}}) == (
        [f"conf/locks/images.json here pins {other}, the record has {layer.diff_id}"], [held], ATTESTED,
    )  # fmt: skip
    assert examined(pin, made_from=other)[0] == [
        f"the record says {other[:23]}, this checkout's lock is {lock[:23]}: {COMMIT}"
    ]
    assert examined(pin, None)[:2] == ([f"this checkout defines no such layer: {COMMIT}"], [])


def test_databases_are_read_of_a_layer_and_of_nothing_else(monkeypatch):
    def layer(*members) -> io.BytesIO:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name, data, kind, target in members:
                info = tarfile.TarInfo(name)
                info.size, info.type, info.linkname = len(data), kind, target
                tar.addfile(info, io.BytesIO(data))
        stream.seek(0)
        return stream

    file, folder, link = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE
    site = "usr/lib/python3/dist-packages"
    given = [
        ("var/lib/dpkg/status", b"Package: a\nVersion: 1\n\nPackage: b\nX: y\nVersion:  2 \n", file, ""),
        ("var/lib/dpkg/status.d/c", b"Package: c\nVersion: 3\n", file, ""),
        ("var/lib/dpkg/status-old", b"Package: d\nVersion: 4\n", file, ""),
        ("usr/bin/python3", b"", link, "/usr/bin/python3.11"),
        ("usr/bin/python", b"", link, "python2"),
        (f"{site}/My_Wheel-1.0.dist-info/", b"", folder, ""),
        ("opt/site-packages/x-2.dist-info", b"", folder, ""),
        (f"{site}/file-3.dist-info", b"", file, ""),
    ]
    found = packages.read_layer(layer(*given), "layer x")
    assert set(found.status) == {"var/lib/dpkg/status", "var/lib/dpkg/status.d/c"}
    assert found.debs() == {"a": "1", "b": "2", "c": "3"}
    assert (found.wheels, found.python) == ({("my-wheel", "1.0"), ("x", "2")}, "python3.11")
    monkeypatch.setattr(packages, "_MOST_MEMBERS", 3)
    assert packages.read_layer(layer(*given[:3]), "layer x").debs() == {"a": "1", "b": "2", "c": "3"}
    with pytest.raises(VerificationFailed, match=r"^layer x holds more than 3 members$"):
        packages.read_layer(layer(*given[:4]), "layer x")
    monkeypatch.setattr(packages, "_MOST_STATUS_BYTES", len(given[0][1]))
    assert packages.read_layer(layer(given[0]), "layer x").status
    monkeypatch.setattr(packages, "_MOST_STATUS_BYTES", len(given[0][1]) - 1)
    with pytest.raises(VerificationFailed, match=r"^layer x: var/lib/dpkg/status is no database of packages$"):
        packages.read_layer(layer(given[0]), "layer x")


# labels


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "dev_spk.list").write_text("faks0\n")
    (tmp_path / "conf" / "test_spk.list").write_text("mdab0\n")
    (tmp_path / "conf" / "phones.60-48-39.map").write_text("aa\taa\taa\nq\nb\tb\tp\n")
    return tmp_path / "conf"


def test_phones_are_folded_and_split_by_their_speakers(conf: Path):
    line = b"0 1 aa\n1 2 q\n2 3 b\n"
    given = {
        "TIMIT/TRAIN/DR1/FCJF0/SX1.PHN": line, "timit/train/dr1/mabc0/si2.phn;1": line,
        "TIMIT/TEST/DR1/FAKS0/SX3.PHN": line,
        "TIMIT/TEST/DR1/MDAB0/SX4.PHN": line,
        "TIMIT/TEST/DR1/MXXX0/SX5.PHN": line, "TIMIT/TRAIN/DR1/FCJF0/SA1.PHN": line,
        "TIMIT/TRAIN/DR1/FCJF0/SX1.WAV": line, "__MACOSX/TRAIN/FCJF0/SX9.PHN": line, "TIMIT/TRAIN/.x/SX8.PHN": line,
        "TIMIT/TRAIN/DR1/FCJF0/SX7.PHN": line,
    }  # fmt: skip
    corpus = labels.read_corpus(((path, lambda d=data: d) for path, data in given.items()), conf, {"FCJF0_SX7"})
    phones = ("aa", "p")
    assert corpus.phones == {
        "train": {"FCJF0_SX1": phones, "MABC0_SI2": phones}, "dev": {"FAKS0_SX3": phones},
        "test": {"MDAB0_SX4": phones},
    }  # fmt: skip
    assert corpus.units() == ["aa", "p"]
    counts = corpus.counts("train")
    assert (counts.speakers, counts.utterances, counts.phones) == (2, 2, 4)
    for bad in (b"0 1\n", b"0 1 zz\n", b"0 1 aa aa\n"):
        with pytest.raises(VerificationFailed, match=r"^TRAIN/A/SX1\.PHN: '.*' is no line of labels$"):
            labels.read_corpus(iter([("TRAIN/A/SX1.PHN", lambda bad=bad: bad)]), conf, set())


def test_files_of_the_user_are_read_in_order_without_links_and_bounded(tmp_path: Path, monkeypatch):
    folder = tmp_path / "data"
    for name in ("b/2", "a/1", "c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    assert [(path, read()) for path, read in labels.files_of_user(folder)] == [
        ("c", b"c"),
        ("a/1", b"a/1"),
        ("b/2", b"b/2"),
    ]
    (folder / "d").symlink_to("/etc/passwd")
    reading = dict(labels.files_of_user(folder))
    with pytest.raises(NotPlain):
        reading["d"]()
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("x/", "")
        archive.writestr("x/1", "one")
        archive.writestr("large\x1b", "x" * 6)
    monkeypatch.setattr(labels, "_MOST_LABEL_BYTES", 5)
    names = []
    for path, read in labels.files_of_user(tmp_path / "z.zip"):
        names.append(path)
        if path == "x/1":
            assert read() == b"one"
        else:
            with pytest.raises(VerificationFailed, match=r"^large\\x1b is larger than labels are$"):
                read()
    assert names == ["x/1", "large\x1b"]
    monkeypatch.setattr(labels, "_MOST_FILES", 2)
    assert len(list(labels.files_of_user(tmp_path / "z.zip"))) == 2
    monkeypatch.setattr(labels, "_MOST_FILES", 1)
    with pytest.raises(VerificationFailed, match=r"^z\.zip holds more than 1 files$"):
        list(labels.files_of_user(tmp_path / "z.zip"))
    (tmp_path / "no.zip").write_bytes(b"no zip")
    with pytest.raises(VerificationFailed, match=r"^no\.zip is not a zip file that can be read: "):
        list(labels.files_of_user(tmp_path / "no.zip"))


def test_what_deviates_from_timit_s_counts_is_told_by_split_and_kind(tmp_path: Path):
    (tmp_path / "counts.json").write_text(
        '{"train": {"speakers": 1, "utterances": 2}, "dev": {"speakers": 0}, "test": {"speakers": 0, "utterances": 9}}'
    )
    corpus = labels.Corpus({"train": {"A_1": (), "A_2": ()}, "dev": {}, "test": {}})
    found = labels._against_timit(corpus, tmp_path)
    assert (found.matches, found.deviations) == (False, ("test: 0 utterances, TIMIT has 9",))
    (tmp_path / "counts.json").write_text('{"train": {"speakers": 1}, "dev": {}, "test": {}}')
    assert labels._against_timit(corpus, tmp_path).matches


def test_without_the_data_set_labels_could_not_be_verified(run: Path):
    evidence = SimpleNamespace(record=SimpleNamespace(stage=lambda key: None))
    with pytest.raises(CouldNotVerify, match=r"^the data set is not here; give it with --data$"):
        labels.examine_labels(Examination(), evidence, None)
    it = Examination()
    labels.examine_labels(it, reopen(run), run / "TIMIT")
    assert it.wrong == [] and len(it.evidence) == 3
    assert [line.partition(":")[0] for line in it.evidence] == ["train", "dev", "test"]
    assert all(line.endswith("utterances, from their .PHN files") for line in it.evidence)


def test_a_recorded_layer_is_a_layer_with_its_bytes_or_its_tree_where_they_lie(run: Path):
    evidence = reopen(run)
    entry = layer_of(evidence)
    assert images._layer(evidence, entry) == Layer(
        name=entry.name, kind=entry.kind, diff_id=entry.diff_id, size_bytes=entry.size_bytes,
        path=evidence.blobs / entry.diff_id[7:], made_from=entry.made_from, tree=evidence.trees / entry.diff_id[7:],
    )  # fmt: skip
