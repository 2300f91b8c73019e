"""An installation believes its images only when they come out as listed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.base.errors import CouldNotRun, EngineUnavailable, UsageError, VerificationFailed
from repro.base.paths import Paths
from repro.container.image import Layer
from repro.images.oci import compute_image
from repro.machine import facts
from repro.packing import adopt, contents

ROOT = Path(__file__).resolve().parent.parent.parent


def image(tmp_path, name="base", digit="1"):
    layers = [
        Layer(kind, kind.partition(":")[0], f"sha256:{digit * 64}", 10, tmp_path / kind, "sha256:" + "a" * 64)
        for kind in ("debs:base", "wheels:base")
    ]
    return compute_image(name, "amd64", layers, {}, "3.11", "a test")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder with a list of images as installed; what its recipes and layers come out as is given by the test."""

    class Recipe:
        def __init__(self, name):
            self.name, self.architecture = name, "amd64"

        def key(self):
            return self.name.replace(":", "-")

    listed = image(tmp_path)
    kept = tmp_path / "artifacts" / "bundle"
    kept.mkdir(parents=True)
    (tmp_path / "docker" / "base").mkdir(parents=True)
    (tmp_path / "docker" / "base" / "image.toml").write_text("")
    (kept / "images.json").write_bytes(contents.describe_images({"amd64": {"base": listed}}))
    monkeypatch.setattr(adopt, "recipes_of", lambda *_: [Recipe("debs:base"), Recipe("wheels:base")])
    return Paths(tmp_path), listed, monkeypatch


def test_layers_are_entered_under_the_keys_of_this_host(installed, tmp_path):
    paths, listed, patch = installed
    patch.setattr(adopt, "known_images", lambda *_: {"base": listed})
    assert adopt.adopt_layers(paths, "amd64") == {"base": listed}
    entry = json.loads((paths.layer_index / "debs-base.json").read_bytes())
    assert entry["diff_id"] == listed.layers[0].diff_id and entry["size_bytes"] == 10


@pytest.mark.parametrize("found", [{}, {"base": "another"}])
def test_an_image_that_comes_out_otherwise_is_a_failed_verification(installed, tmp_path, found):
    paths, _, patch = installed
    other = image(tmp_path, digit="2")
    patch.setattr(adopt, "known_images", lambda *_: dict.fromkeys(found, other))
    with pytest.raises(VerificationFailed, match="image base comes out as"):
        adopt.adopt_layers(paths, "amd64")


def test_an_architecture_that_was_not_packed(installed):
    with pytest.raises(UsageError, match="arm64"):
        adopt.adopt_layers(installed[0], "arm64")


class Engine:
    def __init__(self, name, works):
        self.name, self.works, self.prepared = name, works, []

    def prepare(self, image):
        if not self.works:
            raise CouldNotRun("it has no user namespaces")
        self.prepared.append(image.name)


def ready(tmp_path, monkeypatch, engines):
    """The last line that make_ready says where `engines` are there, the first of them being the one that auto takes."""
    made = {"base": image(tmp_path), "sandbox": image(tmp_path, "sandbox")}

    here = Paths(ROOT)

    def choose(name, paths):
        assert paths == here
        found = next((engine for engine in engines if name in ("auto", engine.name)), None)
        if found is None:
            raise EngineUnavailable("none", hint="install one")
        return SimpleNamespace(engine=found, sentence=lambda: f"engine: {found.name}")

    def adopt_layers(paths, architecture):
        assert (paths, architecture) == (here, facts.architecture())
        return made

    def ensure_sandbox_tools(paths):
        assert paths == here

    monkeypatch.setattr(adopt, "adopt_layers", adopt_layers)
    monkeypatch.setattr(adopt, "ensure_sandbox_tools", ensure_sandbox_tools)
    monkeypatch.setattr(adopt, "choose", choose)
    said = []
    adopt.make_ready(here, said.append)
    return said[-1]


def test_images_are_made_ready_for_the_engine_that_will_run(tmp_path, monkeypatch):
    docker = Engine("docker", True)
    assert ready(tmp_path, monkeypatch, [docker]) == "images ready for docker"
    assert docker.prepared == ["base"]


def test_an_engine_that_does_not_work_leaves_the_sandbox(tmp_path, monkeypatch):
    sandbox = Engine("sandbox", True)
    said = ready(tmp_path, monkeypatch, [Engine("podman", False), sandbox])
    assert "--engine sandbox" in said and sandbox.prepared == ["base"]


def test_no_engine_at_all_is_said_and_is_no_failed_installation(tmp_path, monkeypatch):
    assert "no engine works here yet" in ready(tmp_path, monkeypatch, [])
