"""Parts of an explanation: images, layers and folders, what is kept of a challenge, and what is made again for it."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from _explain_cases import archive, put, side

from repro.audit.explain import causes, command, rebuilt, subjects
from repro.audit.explain.command import Explanation, explain, part_lines
from repro.audit.explain.comparison import IRREPRODUCIBLE, OPEN, SUBSTITUTED, Finding
from repro.audit.explain.kept import Kept
from repro.audit.explain.rebuilt import Truths
from repro.audit.explain.sides import FolderSide
from repro.audit.explain.subjects import Blob, ImageGiven, Part, explain_image
from repro.audit.statements import SignedClaim
from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.container.image import Layer


def finding(path: str, judgement: str) -> Finding:
    return Finding(path, (causes.TIME,), "there", judgement, "")


def test_a_part_is_told_with_its_gravest_findings_first_and_no_more_than_twenty():
    part = Part("layer x", (finding("a", IRREPRODUCIBLE), finding("b", OPEN), finding("c", SUBSTITUTED)), ("a note",))
    assert list(part_lines(part)) == [
        "layer x: 3 paths differ (3 by time)", "  a note", "  c: time (there); substituted", "  b: time (there); open",
        "  a: time (there); irreproducible",
    ]  # fmt: skip
    assert list(part_lines(Part("layer x", (), ("a note",)))) == ["layer x: 0 paths differ", "  a note"]
    assert next(part_lines(Part("x", (finding("a", OPEN),)))) == "x: 1 path differs (1 by time)"
    many = list(part_lines(Part("x", tuple(finding(str(number), OPEN) for number in range(21)))))
    assert len(many) == 22 and many[-1] == "  and 1 more: explanation.json has each"
    assert len(list(part_lines(Part("x", tuple(finding(str(number), OPEN) for number in range(20)))))) == 21


def test_an_explanation_claims_equality_or_says_what_is_known_of_a_substitution(monkeypatch):
    monkeypatch.setattr(command, "code_digest", lambda: "c")
    equal = Explanation({"A: file": "1"}, {}, ())
    assert not equal.differ and list(equal.lines()) == ["no difference"]
    assert list(equal.claims()) == [SignedClaim("A and B: equal", "recomputed from these bytes", "proven here")]
    parts = (Part("one", (finding("a", SUBSTITUTED), finding("b", OPEN))), Part("two", (finding("a", OPEN),), ("n",)))
    other = Explanation({"A: file": "1"}, {"A: one": "2"}, parts)
    assert [(claim.key, claim.kind, claim.status) for claim in other.claims()] == [
        ("one: equal", "recomputed from these bytes", "refuted"),
        ("one: not substituted", "recomputed from these bytes", "refuted"),
        ("two: equal", "recomputed from these bytes", "refuted"),
        ("two: not substituted", "recomputed from these bytes", "could not verify"),
    ]
    document = other.as_json()
    assert list(document) == [
        "schema",
        "version",
        "kind",
        "subjects",
        "looked_at",
        "verifier",
        "meaning",
        "claims",
        "parts",
    ]
    assert {name: document[name] for name in ("schema", "version", "kind", "subjects", "looked_at", "verifier")} == {
        "schema": "lstm-ctc-bundle/explanation", "version": 2, "kind": "explain", "subjects": {"A: file": "1"},
        "looked_at": {"A: one": "2"}, "verifier": "c",
    }  # fmt: skip
    assert document["meaning"] == {
        "irreproducible": "builds vary this by themselves; a forger can imitate it",
        "substituted": "the locked source of this file decides: one side does not hold its bytes",
        "open": "nothing that is at hand tells whether a build or a person made it",
    }
    assert document["parts"][1] == {"name": "two", "notes": ["n"], "files": [finding("a", OPEN).as_json()]}
    assert document["claims"][0]["key"] == "one: equal"


def blob(data: bytes, name: str = "x") -> Blob:
    return Blob(name, io.BytesIO(b"before" + data + b"behind"), 6, len(data))


def test_a_blob_is_its_bytes_its_digest_and_a_strict_document(monkeypatch):
    assert blob(b"12").section().read() == b"12" and blob(b"12").sha256 == sha256_bytes(b"12")
    assert blob(b'{"a": 1}').document() == {"a": 1}
    with pytest.raises(VerificationFailed, match=r"^x: "):
        blob(b'{"a": 1, "a": 1}').document()
    monkeypatch.setattr(subjects, "_MOST_DOCUMENT_BYTES", 8)
    assert blob(b'{"a": 1}').document() == {"a": 1}
    with pytest.raises(VerificationFailed, match=r"^x is too large for a document$"):
        blob(b'{"a": 11}').document()


class NoTruth:
    def __init__(self, *answers) -> None:
        self.asked, self.answers = [], list(answers)

    def of(self, digests):
        self.asked.append(digests)
        return self.answers.pop(0) if self.answers else (None, "no locked source")


def test_images_are_explained_setting_by_setting_and_layer_by_layer():
    layers = [blob(archive(put("f", data)), f"l{data!r}") for data in (b"1\n", b"2\n", b"1\n")]
    truths = NoTruth()
    one = ImageGiven("i", {"Env": "X=1"}, (layers[0], layers[0], None, layers[0]))
    two = ImageGiven("i", {"Env": "X=2"}, (layers[2], layers[1], layers[1], None, layers[1]))
    settings, count, second, third, fourth = explain_image(one, two, truths)
    (setting,) = settings.findings
    assert settings.name == "settings of image i"
    assert (setting.path, setting.causes, setting.judgement) == ("config.Env", ("setting",), "open")
    assert setting.reason == "an image's settings come from its definition"
    assert setting.where.startswith("config.Env") and "X=1" in setting.where and "X=2" in setting.where
    assert count == Part("layers of image i", (), ("A has 4 layers, B has 5",))
    assert (second.name, second.notes) == ("layer 2 of image i", ("no locked source",))
    assert [found.path for found in second.findings] == ["f"]
    digests = layers[0].sha256, layers[1].sha256
    assert second.looked_at == {"A: layer 2 of image i": digests[0], "B: layer 2 of image i": digests[1]}
    assert truths.asked == [set(digests)]
    assert third == Part("layer 3 of image i", (), ("the bytes of A are not here",))
    assert fourth == Part("layer 4 of image i", (), ("the bytes of B are not here",))
    assert explain_image(one, one, truths)[0].name == "layer 3 of image i"


def test_an_image_of_a_thousand_layers_is_read_and_one_of_more_is_refused():
    assert explain_image(*[ImageGiven("i", {}, (blob(b"1"),) * 1000)] * 2, NoTruth()) == []
    for given in ((1001, 1), (1, 1001)):
        with pytest.raises(VerificationFailed, match=r"^image i names more than 1000 layers$"):
            explain_image(*(ImageGiven("i", {}, (None,) * number) for number in given), NoTruth())


def test_a_layer_s_truth_decides_where_there_is_one():
    one, two = (blob(archive(put("f", data))) for data in (b"1", b"2"))
    part = subjects.explain_layer("l", one, two, NoTruth((side(put("f", b"1")), "held to it")))
    assert [found.judgement for found in part.findings] == [SUBSTITUTED] and part.notes == ("held to it",)
    assert subjects.explain_layer("l", one, one, NoTruth()) == Part("l", ())


def test_archives_of_the_same_members_differ_in_form():
    one, two = blob(archive(put("f", b"1"))), blob(archive(put("f", b"1")) + bytes(512))
    part = subjects.explain_layer("l", one, two, NoTruth())
    assert part == Part(
        "l",
        (
            Finding(
                "the archive itself", ("form of the archive",),
                "the members are the same; byte 10240 of the archive: the end / 00 00 00 00 00 00 00 00", OPEN,
                "unpacked, both are the same",
            ),
        ),
        looked_at={"A: l": one.sha256, "B: l": two.sha256},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (b"[{}]", "A: manifest.json is not that of a saved image"),
        (b"[1]", "A: manifest.json is not that of a saved image"),
        (b'[{"Config": "gone", "Layers": []}]', "A lacks gone"),
        (b'[{"Config": "folder", "Layers": []}]', "A lacks folder"),
        (b'[{"Config": "c", "Layers": 7}]', "A: manifest.json is not that of a saved image"),
        (b'[{"Config": "c", "Layers": ["../x"]}]', "A lacks ../x"),
    ],
)
def test_a_saved_archive_that_names_what_it_lacks_is_refused(tmp_path: Path, manifest: bytes, said: str):
    members = put("manifest.json", manifest), put("c", b"{}"), put("folder", type=tarfile.DIRTYPE)
    (tmp_path / "A").write_bytes(archive(*members))
    (tmp_path / "B").write_bytes(archive(put("a")))
    with pytest.raises(VerificationFailed) as caught:
        explain(Paths(tmp_path), str(tmp_path / "A"), str(tmp_path / "B"))
    assert caught.value.message == said


def saved(*tags: list[str] | None) -> bytes:
    entries = [{"Config": "c", "Layers": ["l"], **({"RepoTags": tag} if tag else {})} for tag in tags]
    return archive(
        put("manifest.json", json.dumps(entries).encode()),
        put("c", b'{"n": %d}' % len(tags)),
        put("l", archive(put("f"))),
    )


def test_images_of_two_archives_are_compared_in_pairs(tmp_path: Path):
    (tmp_path / "conf" / "locks").mkdir(parents=True)
    for name, tags in (("A", (["x:1", "y:2"], None)), ("B", (["x:1"],)), ("C", (["x:1", "y:2"], None))):
        (tmp_path / name).write_bytes(saved(*tags))
    paths = Paths(tmp_path)
    count, settings = explain(paths, str(tmp_path / "A"), str(tmp_path / "B")).parts
    assert count == Part("the archive", (), ("A holds 2 images, B holds 1: the first ones are compared",))
    assert settings.name == "settings of image x:1, y:2" and [found.path for found in settings.findings] == ["config.n"]
    (tmp_path / "C").write_bytes(saved(["x:1", "y:2"], None) + bytes(512))
    (form,) = explain(paths, str(tmp_path / "A"), str(tmp_path / "C")).parts
    assert (form.name, form.findings[0].causes) == ("the archive", (causes.FORM,))
    (tmp_path / "B").write_bytes(saved(None, None, None))
    assert explain(paths, str(tmp_path / "A"), str(tmp_path / "B")).parts[2].name == "settings of image without a name"


def test_a_file_and_a_folder_are_not_compared(tmp_path: Path):
    (tmp_path / "A").write_bytes(archive(put("a")))
    (tmp_path / "B").mkdir()
    for given in (("A", "B"), ("B", "A")):
        places = [str(tmp_path / name) for name in given]
        with pytest.raises(UsageError, match="one is a folder and the other is a file"):
            explain(Paths(tmp_path), *places)


def test_two_folders_are_explained_by_their_files(tmp_path: Path):
    for name, data in (("A", b"1"), ("B", b"2")):
        (tmp_path / name / "out").mkdir(parents=True)
        (tmp_path / name / "out" / "f").write_bytes(data)
    paths = Paths(tmp_path)
    (part,) = explain(paths, str(tmp_path / "A"), str(tmp_path / "B")).parts
    assert (part.name, [found.path for found in part.findings]) == ("the result", ["out/f"])
    for name in "AB":
        (tmp_path / name / "result.json").write_text("{}")
    explanation = explain(paths, str(tmp_path / "A"), str(tmp_path / "B"))
    assert [found.path for found in explanation.parts[0].findings] == ["f"], "a stage's output is in out/"
    digests = {name: subjects._digest_of(tmp_path / name / "out", FolderSide(tmp_path / name / "out")) for name in "AB"}
    assert explanation.subjects == explanation.looked_at == {f"{name}: the result": digests[name] for name in "AB"}
    assert digests["A"] != digests["B"]


# both sides, kept


def kept_layer(
    tmp_path: Path, kind: str, claimed: bytes, built: bytes, *, at_hand: bytes | None
) -> tuple[list[str], Path]:
    paths = Paths(tmp_path)
    paths.blobs.mkdir(parents=True)
    (tmp_path / "built").write_bytes(built)
    digest = "sha256:" + sha256_bytes(claimed)
    if at_hand is not None:
        (paths.blobs / digest[7:]).write_bytes(at_hand)
    layer = Layer("debs:base", kind, "sha256:" + sha256_bytes(built), len(built), tmp_path / "built", digest)
    return Kept(paths, tmp_path / "page").layer(layer, digest), tmp_path / "page" / "debs-base"


@pytest.mark.parametrize(
    ("kind", "judgement"),
    [("debs", "substituted: A does not have what the locked sources hold"), ("built", "open")],
)
def test_what_was_built_of_locked_files_decides_and_what_was_compiled_does_not(
    tmp_path: Path, kind: str, judgement: str
):
    one, two = archive(put("f", b"\0\1")), archive(put("f", b"\0\2"))
    lines, folder = kept_layer(tmp_path, kind, one, two, at_hand=one)
    assert lines == [
        "layer debs:base, A claimed, B built again: 1 path differs (1 by foreign bytes)",
        f"  f: foreign bytes (byte 1: 01 / 02); {judgement}",
        "both sides, and the whole explanation: debs-base/",
    ]
    assert {path.name: path.read_bytes() for path in folder.glob("*.tar")} == {
        f"claimed-{sha256_bytes(one)[:12]}.tar": one, f"built-{sha256_bytes(two)[:12]}.tar": two,
    }  # fmt: skip
    said = json.loads((folder / "explanation.json").read_bytes())
    assert (said["name"], said["files"][0]["path"]) == ("layer debs:base, A claimed, B built again", "f")


def test_both_configs_of_an_image_are_kept_by_the_beginnings_of_their_digests(tmp_path: Path):
    paths = Paths(tmp_path)
    paths.blobs.mkdir(parents=True)
    configs = b'{"a": 1}', b'{"a": 2}'
    digests = ["sha256:" + sha256_bytes(data) for data in configs]
    built = SimpleNamespace(name="base", config=configs[1], config_digest=digests[1])
    kept, folder = Kept(paths, tmp_path / "page"), tmp_path / "page" / "image-base"
    absent = f"the config {digests[0]} is not here to compare with; the one built is kept in image-base/"
    assert kept.image(built, digests[0]) == [absent]
    (paths.blobs / digests[0][7:]).write_bytes(b"damaged")
    other = f"artifacts/oci holds another config than {digests[0]}; the one built is kept in image-base/"
    assert kept.image(built, digests[0]) == [other]
    (paths.blobs / digests[0][7:]).write_bytes(configs[0])
    first, last = kept.image(built, digests[0])
    assert first.startswith("config.a ") and last == "both configs: image-base/"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        f"{word}-{digest[7:19]}.json": data for word, digest, data in zip(("claimed", "built"), digests, configs)
    }


def test_kept_archives_of_the_same_members_differ_in_form(tmp_path: Path):
    one = archive(put("f", b"1"))
    lines, _ = kept_layer(tmp_path, "debs", one, one + bytes(512), at_hand=one)
    assert lines[0] == "layer debs:base, A claimed, B built again: 1 path differs (1 by form of the archive)"


def test_without_the_claimed_bytes_what_was_built_is_kept(tmp_path: Path):
    one, two = archive(put("f", b"1")), archive(put("f", b"2"))
    lines, folder = kept_layer(tmp_path, "debs", one, two, at_hand=None)
    digest = "sha256:" + sha256_bytes(one)
    assert lines == [f"the bytes of {digest} are not here to compare with; what was built is kept in debs-base/"]
    assert [path.read_bytes() for path in folder.iterdir()] == [two]


def test_a_damaged_layer_of_the_claimed_name_is_not_compared(tmp_path: Path):
    one, two = archive(put("f", b"1")), archive(put("f", b"2"))
    lines, folder = kept_layer(tmp_path, "debs", one, two, at_hand=two)
    assert lines == [
        f"artifacts/oci holds other bytes than sha256:{sha256_bytes(one)}: what was built is kept in debs-base/"
    ]
    assert [path.name.partition("-")[0] for path in folder.iterdir()] == ["built"]


# what the locked sources hold


@pytest.fixture
def recipes(monkeypatch):
    """Two layers that the repository pins, in place of what docker/ and conf/locks define."""

    def recipe(name: str, kind: str, size: int):
        return SimpleNamespace(name=name, definition=SimpleNamespace(kind=kind), package_bytes=size, files=("a", "b"))

    known = [
        recipe("debs:base", "debs", 1),
        recipe("built:tool", "built", 1),
        recipe("wheels:big", "wheels", 300_500_100),
        recipe("wheels:base", "wheels", 256 << 20),
    ]
    pins = {"amd64": {each.name: f"sha256:{number}" for number, each in enumerate(known)}, "arm64": {}}
    monkeypatch.setattr(rebuilt, "load_pins", lambda paths: {"layers": pins})
    monkeypatch.setattr(rebuilt, "image_names", lambda folder: ["one", "two"])
    monkeypatch.setattr(rebuilt, "recipes_of", lambda paths, image, architecture: known if image == "two" else [])
    return known


@pytest.mark.parametrize(
    ("digests", "said"),
    [
        ({"9"}, "neither layer is one that conf/locks/images.json pins: no locked sources decide"),
        ({"9", "1"}, "layer built:tool is compiled: only `invoke audit.challenge` makes it again"),
        ({"2"}, "layer wheels:big has 301 MB of packages: only `invoke audit.challenge` makes it again"),
    ],
)
def test_what_no_locked_source_decides_is_told(tmp_path: Path, recipes, digests, said: str):
    with contextlib.ExitStack() as stack:
        assert Truths(Paths(tmp_path), stack).of(digests) == (None, said)


@pytest.mark.parametrize(("digest", "name"), [("0", "debs:base"), ("3", "wheels:base")])
def test_a_pinned_layer_is_made_again_of_its_locked_packages(tmp_path: Path, recipes, monkeypatch, digest, name):
    def unpack(paths, tree, recipe):
        assert recipe is recipes[int(digest)]
        tree.file("etc/made", b"of packages")

    monkeypatch.setattr(rebuilt, "unpack_packages", unpack)
    with contextlib.ExitStack() as stack:
        truth, said = Truths(Paths(tmp_path), stack).of({digest})
        assert said == f"held to layer {name}, made again of 2 locked packages"
        assert "etc/made" in truth.members
        with truth.open(truth.members["etc/made"]) as stream:
            assert stream.read() == b"of packages"

    def fail(*_):
        raise CouldNotRun("a package is not here")

    monkeypatch.setattr(rebuilt, "unpack_packages", fail)
    with contextlib.ExitStack() as stack:
        found = Truths(Paths(tmp_path), stack).of({digest})
    assert found == (None, f"layer {name} cannot be made again here: a package is not here")
