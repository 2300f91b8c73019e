"""A challenge builds layers and images again and holds each digest to who claims it. The building is played here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.audit import challenge as module
from repro.audit import commands
from repro.audit.challenge import Challenge, challenge
from repro.audit.claims import PROVEN, REFUTED, UNVERIFIED, Outcome, Rebuild
from repro.base.errors import CouldNotRun, CouldNotVerify, UsageError
from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.images.pins import PINS, load_pins
from repro.images.recipes import recipes_of

ROOT = Path(__file__).resolve().parents[2]
PATHS = Paths(ROOT)
LAYERS, IMAGES = (load_pins(PATHS)[kind]["amd64"] for kind in ("layers", "images"))
RECIPES = {recipe.name: recipe for name in ("base", "runtime") for recipe in recipes_of(PATHS, name, "amd64")}


class Kept:
    """Both sides of a difference, noted."""

    def __init__(self):
        self.asked = []

    def layer(self, built, claimed):
        self.asked.append((built.name, claimed))
        return [f"kept {built.name}"]

    def image(self, built, claimed):
        self.asked.append((built.name, claimed))
        return [f"kept {built.name}"]


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Challenges whose layers and images come out as pinned, except for those in `other`; notes what was asked."""
    notes = SimpleNamespace(other={}, failing=set(), built=[], fetched=[], chains=[], kept=Kept(), said=[])

    def build_images(scratch, names, architecture, say, *, engine_for, check_pins):
        (name,) = names
        notes.built.append((name, architecture, check_pins, scratch.artifacts, scratch.root))
        assert scratch.artifacts.is_dir() and not list(scratch.artifacts.iterdir()), "nothing built before is seen"
        assert say == notes.said.append and engine_for == ("engine for", scratch)
        if name in notes.failing:
            raise CouldNotRun("no compiler")
        layers = [
            SimpleNamespace(
                name=recipe.name,
                diff_id=notes.other.get(recipe.name, LAYERS[recipe.name]),
                made_from="sha256:" + "5" * 64,
            )
            for recipe in recipes_of(PATHS, name, "amd64")
        ]
        return {name: SimpleNamespace(name=name, layers=layers, config_digest=notes.other.get(name, IMAGES.get(name)))}

    def chain(root, lock, read):
        notes.chains.append(lock.label)
        return [SimpleNamespace(suite=lock.suite, debs=3, signers=("k1", "k2"))]

    monkeypatch.setattr(module, "build_images", build_images)
    monkeypatch.setattr(module, "compiling_engine", lambda scratch: ("engine for", scratch))
    monkeypatch.setattr(module, "files_needed", lambda scratch, names, arches: {"a" * 64: ("file", *names, *arches)})
    monkeypatch.setattr(module, "fetch_files", lambda root, files: notes.fetched.append((root, list(files))))
    monkeypatch.setattr(module, "verify_debian_chain", chain)
    monkeypatch.setattr(module.Cache, "path", lambda cache, sha256: None)
    notes.paths = Paths(ROOT, elsewhere=tmp_path) if "elsewhere" in Paths.__dataclass_fields__ else PATHS

    def run(names=("base", "runtime"), *, fetch=True, evidence=None):
        outcome = Outcome("challenge", "pins")
        challenge(outcome, Challenge(notes.paths, ["amd64"], names, evidence, fetch, notes.said.append, notes.kept))
        return outcome

    notes.run = run
    return notes


def statuses(outcome: Outcome) -> dict[str, str]:
    return {claim.key: claim.status for claim in outcome.claims}


def test_layers_and_images_that_come_out_as_pinned_are_proven_each_once(played):
    outcome = played.run()
    assert set(statuses(outcome).values()) == {PROVEN}
    assert list(statuses(outcome)) == [
        "debian:base:amd64",
        "build:base:amd64",
        *(f"layer:{r.name}:amd64" for r in recipes_of(PATHS, "base", "amd64")),
        "image:base:amd64",
        "build:runtime:amd64",
        "layer:wheels:runtime:amd64",
        "image:runtime:amd64",
    ]
    assert outcome.facts == [("images (amd64)", "base, runtime")]
    assert [(name, arch, pins, root) for name, arch, pins, _, root in played.built] == [
        ("base", "amd64", False, ROOT),
        ("runtime", "amd64", False, ROOT),
    ]
    claims = {claim.key: claim for claim in outcome.claims}
    assert claims["build:base:amd64"].evidence == (f"{len(recipes_of(PATHS, 'base', 'amd64'))} layers, 1 locked files",)
    assert claims["layer:wheels:base:amd64"].evidence == (f"{PINS}: {LAYERS['wheels:base']}",)
    assert claims["image:base:amd64"].evidence == (f"{PINS}: {IMAGES['base']}",)
    assert claims["debian:base:amd64"].evidence == (f"{RECIPES['debs:base'].lock.suite}: 3 packages, signed by k1, k2",)
    assert played.chains == [RECIPES["debs:base"].lock.label] and played.kept.asked == []
    (indexes, files) = played.fetched[0], played.fetched[1:]
    assert indexes == (ROOT, list(RECIPES["debs:base"].lock.index_files))
    assert files == [(ROOT, [("file", name, "amd64")]) for name in ("base", "runtime")]
    names = [f"layer {name} (amd64)" for name in RECIPES if name != "wheels:runtime"]
    assert [item.name for item in outcome.rebuilt] == [
        *names,
        "image base (amd64)",
        "layer wheels:runtime (amd64)",
        "image runtime (amd64)",
    ]
    assert {item.result for item in outcome.rebuilt} == {"PASSED"}
    assert outcome.rebuilt[0].made_from == {f"lock of {next(iter(RECIPES))}": "5" * 64}
    (image,) = [item for item in outcome.rebuilt if item.name == "image base (amd64)"]
    layers = {f"layer {recipe.name}": LAYERS[recipe.name][7:] for recipe in recipes_of(PATHS, "base", "amd64")}
    assert image == Rebuild("image base (amd64)", IMAGES["base"][7:], IMAGES["base"][7:], layers)
    assert outcome.subjects == {item.name: item.claimed for item in outcome.rebuilt}
    assert not any(place.exists() for *_, place, _ in played.built)


def test_nothing_is_fetched_where_none_is_allowed(played):
    assert set(statuses(played.run(fetch=False)).values()) == {PROVEN}
    assert played.fetched == []


def test_what_comes_out_otherwise_is_refuted_and_both_sides_are_kept(played):
    played.other.update({"wheels:base": "sha256:" + "e" * 64, "base": "sha256:" + "f" * 64})
    outcome = played.run(["base"])
    assert {key for key, status in statuses(outcome).items() if status == REFUTED} == {
        "layer:wheels:base:amd64",
        "image:base:amd64",
    }
    claims = {claim.key: claim for claim in outcome.claims}
    assert claims["layer:wheels:base:amd64"].findings == (
        f"built again: sha256:{'e' * 64}; {PINS} says {LAYERS['wheels:base']}",
        "kept wheels:base",
    )
    assert claims["image:base:amd64"].findings[1:] == ("kept base",)
    assert played.kept.asked == [("wheels:base", LAYERS["wheels:base"]), ("base", IMAGES["base"])]
    assert {item.name: item.result for item in outcome.rebuilt if item.result != "PASSED"} == {
        "layer wheels:base (amd64)": "FAILED",
        "image base (amd64)": "FAILED",
    }


def test_what_cannot_be_built_says_nothing_for_or_against_its_digests(played):
    played.failing.add("runtime")
    outcome = played.run()
    assert {key for key, status in statuses(outcome).items() if status == UNVERIFIED} == {"build:runtime:amd64"}
    assert not any(key.startswith(("image:runtime", "layer:wheels:runtime")) for key in statuses(outcome))
    warned = [item for item in outcome.rebuilt if item.result == "WARNED"]
    assert [item.name for item in warned] == ["layer wheels:runtime (amd64)", "image runtime (amd64)"]
    assert [(item.claimed, item.found) for item in warned] == [
        (LAYERS["wheels:runtime"][7:], ""),
        (IMAGES["runtime"][7:], ""),
    ]


def recorded(architecture="amd64", **images):
    layer = SimpleNamespace(name="wheels:base", diff_id="sha256:" + "d" * 64)
    record = SimpleNamespace(
        images=images, image_layers={"base": [layer]}, host=SimpleNamespace(architecture=architecture)
    )
    return SimpleNamespace(record=record)


def test_a_record_s_digests_are_held_to_beside_the_pins_where_it_is_of_that_architecture(played):
    outcome = played.run([], evidence=recorded(base=IMAGES["base"]))
    assert outcome.facts == [("images (amd64)", "base")]
    claims = {claim.key: claim for claim in outcome.claims}
    assert claims["image:base:amd64"].evidence == (f"{PINS}: {IMAGES['base']}", f"the record: {IMAGES['base']}")
    assert claims["layer:wheels:base:amd64"].findings[0] == (
        f"built again: {LAYERS['wheels:base']}; the record says sha256:{'d' * 64}"
    )
    assert played.kept.asked == [("wheels:base", "sha256:" + "d" * 64)]
    other = played.run([], evidence=recorded("arm64", base="sha256:" + "c" * 64))
    assert set(statuses(other).values()) == {PROVEN}


def test_a_digest_that_nobody_claims_could_not_be_verified():
    with pytest.raises(CouldNotVerify, match="built again: sha256:1; nobody claims"):
        module._hold([], [], "sha256:1", {"pins": None})
    wrong, evidence = [], []
    module._hold(wrong, evidence, "1", {"a": "1", "b": None, "c": "2"})
    assert (wrong, evidence) == (["built again: 1; c says 2"], ["a: 1"])
    assert module._others("1", {"a": "1", "b": None, "c": "3", "d": "2", "e": "3"}) == ["2", "3"]


def test_locks_of_a_compiler_s_image_are_examined_too(monkeypatch):
    inner = SimpleNamespace(lock=RECIPES["debs:base"].lock, definition=SimpleNamespace(kind="debs", toolchain=""))
    outer = SimpleNamespace(lock=None, definition=SimpleNamespace(kind="built", toolchain="compiler"))
    plain = SimpleNamespace(lock=None, definition=SimpleNamespace(kind="wheels", toolchain="compiler"))
    images = {"a": [outer, plain], "compiler": [inner], "b": [plain]}
    monkeypatch.setattr(module, "recipes_of", lambda paths, name, architecture: images[name])
    assert list(module._deb_locks(PATHS, ["a", "b"], "amd64").values()) == [inner.lock]
    assert module._deb_locks(PATHS, ["b"], "amd64") == {}


def test_without_names_all_that_can_be_made_here_is_built(monkeypatch):
    definitions = {
        "always": SimpleNamespace(optional=False, built_layers=[]),
        "choice": SimpleNamespace(optional=True, built_layers=[]),
        "compiled": SimpleNamespace(optional=True, built_layers=["x"]),
        "unpinned": SimpleNamespace(optional=True, built_layers=["x"]),
        "left out": SimpleNamespace(optional=True, built_layers=["x"]),
    }
    monkeypatch.setattr(module, "image_names", lambda _: list(definitions))
    monkeypatch.setattr(module, "load_definition", lambda _, name: definitions[name])
    monkeypatch.setattr(
        module, "load_pins", lambda _: {"images": {"amd64": {"choice": "", "compiled": "", "left out": ""}}}
    )
    monkeypatch.setattr(
        module, "why_left_out", lambda _, definition, __: "no source" if definition is definitions["left out"] else ""
    )
    assert module._images(PATHS, "amd64", None) == ["always", "compiled"]
    assert module._images(PATHS, "arm64", None) == ["always"]
    assert module._images(PATHS, "amd64", recorded(b="1", a="2")) == ["a", "b"]


def test_the_command_challenges_the_pins_or_a_run_and_writes_its_page(tmp_path, monkeypatch):
    asked = []

    def build_again(outcome, given):
        asked.append(given)
        with outcome.examine("x", "holds"):
            pass

    monkeypatch.setattr(module, "challenge", build_again)
    said: list[str] = []
    page = commands.Page(str(tmp_path / "page"))
    commands.challenge(PATHS, "", "amd64", " base, ,runtime", page, said.append, offline=True)
    (given,) = asked
    assert (list(given.architectures), given.names, given.evidence, given.fetch) == (
        ["amd64"],
        ["base", "runtime"],
        None,
        False,
    )
    assert given.kept.folder == tmp_path / "page" / "differences" and given.paths is PATHS and given.say == said.append
    assert (
        said[0] == "Every claim holds: 1 recomputed from these bytes." and (tmp_path / "page" / "audit.json").is_file()
    )
    assert f'"{PINS}": "{sha256_file(ROOT / PINS)}"' in (tmp_path / "page" / "audit.json").read_text()
    commands.challenge(PATHS, "", "amd64", "", page, said.append, offline=False)
    assert asked[1].fetch and asked[1].names == []
    with pytest.raises(UsageError):
        commands.challenge(PATHS, str(tmp_path / "none"), "amd64", "", page, said.append, offline=True)
    assert len(asked) == 2
