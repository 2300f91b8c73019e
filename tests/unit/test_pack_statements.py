"""What the attestations say, and that an installation believes its images only when they come out as listed."""

from __future__ import annotations

import json

import pytest

from bundle.errors import UsageError, VerificationFailed
from bundle.files import sha256_bytes
from bundle.images.oci import compute_image
from bundle.images.spec import Layer
from bundle.packing import adopt, contents
from bundle.packing.statements import image_statement, run_statement
from bundle.paths import Paths


def image(tmp_path, name="base", digit="1"):
    layers = [
        Layer(kind, kind.partition(":")[0], f"sha256:{digit * 64}", 10, tmp_path / kind, "sha256:" + "a" * 64)
        for kind in ("debs:base", "wheels:base")
    ]
    return compute_image(name, "amd64", layers, {}, "3.11", "a test")


def test_an_images_provenance_names_its_locks_and_the_commit(tmp_path):
    made = image(tmp_path)
    statement = image_statement(made, "c" * 40)
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"][0]["digest"]["sha256"] == made.config_digest[7:]
    sources = {
        item["name"]: item["digest"] for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert sources["repository"] == {"gitCommit": "c" * 40}
    assert sources["lock of wheels:base"] == {"sha256": "a" * 64}


def test_a_runs_provenance_names_what_it_took_and_gave():
    record = {
        "request": {"batch_sizes": [8]},
        "images": {"base": "sha256:" + "1" * 64},
        "data": {"kind": "demo", "fingerprint": "2" * 64},
        "checkpoint": {"kind": "demo", "sha256": "3" * 64},
        "identity": {"sha256": "4" * 64},
        "stages": [{"key": "score@8", "code": "5" * 64, "outputs": {"digest": "6" * 64}}],
    }
    data = json.dumps(record).encode()
    statement = run_statement(record, data)
    subjects = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    assert subjects == {"record.json": sha256_bytes(data), "output of score@8": "6" * 64}
    taken = {item["digest"]["sha256"] for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert taken == {"1" * 64, "2" * 64, "3" * 64, "5" * 64}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder with a list of images as installed; what its recipes and layers come out as is given by the test."""

    class Recipe:
        def __init__(self, name):
            self.name = name

        def key(self):
            return self.name.replace(":", "-")

    listed = image(tmp_path)
    kept = tmp_path / "artifacts" / "bundle"
    kept.mkdir(parents=True)
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
