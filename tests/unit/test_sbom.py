"""The inventory: what an independent validator accepts, with every licence, hash and source that the bytes tell."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

from repro.base.paths import Paths
from repro.container.image import Layer
from repro.images.oci import compute_image
from repro.locks.model import load_deb_lock, load_wheel_lock
from repro.packing import sbom

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = "usr/local/lib/python3.11/dist-packages"
DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: somebody
License: GPL-2+

Files: lib/*
Copyright: somebody else
License: Expat
"""


def layer_tar(path: Path, files: dict[str, str], links: dict[str, str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The image base of both architectures, with layers that hold just the texts that licences are read from."""
    folder = tmp_path_factory.mktemp("layers")
    made = {}
    for architecture in ("amd64", "arm64"):
        debs = layer_tar(
            folder / f"debs.{architecture}",
            {
                "usr/share/doc/bash/copyright": DEP5,
                "usr/share/doc/base-files/copyright": "see `/usr/share/common-licenses/GPL'.\n",
                "usr/share/doc/gcc-12-base/copyright": "License: GPL-3+ with GCC exception\n",
            },
            {"usr/share/doc/libgcc-s1": "gcc-12-base"},
        )
        wheels = layer_tar(
            folder / f"wheels.{architecture}",
            {
                f"{PACKAGES}/numpy-1.26.4.dist-info/METADATA": "Name: numpy\nVersion: 1.26.4\n"
                "Classifier: License :: OSI Approved\nClassifier: License :: OSI Approved :: BSD License\n",
                f"{PACKAGES}/cffi-2.1.1.dist-info/METADATA": "Name: cffi\nLicense-Expression: MIT-0 OR MIT\n",
            },
            {},
        )
        layers = [
            Layer(
                name, name.partition(":")[0], f"sha256:{digit * 64}", path.stat().st_size, path, f"sha256:{digit * 64}"
            )
            for name, digit, path in (("debs:base", "1", debs), ("wheels:base", "2", wheels))
        ]
        made[architecture] = {"base": compute_image("base", architecture, layers, {}, "3.11", "a test")}
    return made


@pytest.fixture(scope="module")
def document(images):
    return json.loads(sbom.make_sbom(Paths(ROOT), images, [], "c" * 40, ()))


def test_an_independent_validator_accepts_it(images):
    text = sbom.make_sbom(Paths(ROOT), images, [], "c" * 40, ("checkpoint",)).decode()
    validator = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_5)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"SHA-256"', '"SHA-257"')) is not None


def test_every_deb_and_wheel_is_in_it_with_version_licence_hash_and_source(document):
    components = {component["bom-ref"]: component for component in document["components"]}
    for architecture in ("amd64", "arm64"):
        for deb in load_deb_lock(ROOT, "base", architecture).debs:
            found = components[f"deb:{deb.sha256}"]
            assert (found["name"], found["version"]) == (deb.package, deb.version)
            assert found["hashes"][0]["content"] == deb.sha256 and found["licenses"]
            assert any(deb.path in item["value"] for item in found["properties"])
        for wheel in load_wheel_lock(ROOT, "base", architecture).wheels:
            found = components[f"wheel:{wheel.sha256}"]
            assert (found["name"], found["version"]) == (wheel.project, wheel.version)
            assert any(wheel.filename in item["value"] for item in found["properties"]) and found["licenses"]


def licences(document, name):
    found = next(component for component in document["components"] if component["name"] == name)
    return {item.get("expression") or item["license"]["name"] for item in found["licenses"]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bash", {"GPL-2+", "Expat"}),
        ("base-files", {"as in Debian's /usr/share/common-licenses/GPL"}),
        ("libgcc-s1", {"GPL-3+ with GCC exception"}),
        ("libstdc++6", {"GPL-3+ with GCC exception"}),  # of the same source as gcc-12-base
        ("zlib1g", {"not stated"}),
        ("numpy", {"BSD License"}),
        ("cffi", {"MIT-0 OR MIT"}),
        ("kaldiio", {"not stated"}),
    ],
)
def test_licences_are_read_from_the_shipped_bytes(document, name, expected):
    assert licences(document, name) == expected


def test_models_and_data_are_components_and_what_is_not_carried_says_so(document):
    by_reference = {component["bom-ref"]: component for component in document["components"]}
    assert by_reference["model:demo"]["type"] == "machine-learning-model" and by_reference["model:demo"]["hashes"]
    assert by_reference["data:demo"]["type"] == "data"
    assert by_reference["data:timit"]["scope"] == by_reference["model:published"]["scope"] == "excluded"


def test_a_checkpoint_asked_for_by_name_is_no_longer_excluded(images):
    document = json.loads(sbom.make_sbom(Paths(ROOT), images, [], "c" * 40, ("checkpoint",)))
    assert next(c for c in document["components"] if c["bom-ref"] == "model:published")["scope"] == "required"


def test_images_depend_on_what_they_hold(document):
    held = next(item for item in document["dependencies"] if item["ref"] == "image:base:arm64")["dependsOn"]
    assert f"deb:{load_deb_lock(ROOT, 'base', 'arm64').debs[0].sha256}" in held
    assert set(held) <= {component["bom-ref"] for component in document["components"]}


def test_the_same_contents_give_the_same_inventory_and_others_another_serial_number(images):
    one = sbom.make_sbom(Paths(ROOT), images, [], "c" * 40, ())
    assert one == sbom.make_sbom(Paths(ROOT), images, [], "c" * 40, ())
    other = json.loads(sbom.make_sbom(Paths(ROOT), images, [], "d" * 40, ()))
    assert json.loads(one)["serialNumber"] != other["serialNumber"]


_ELSEWHERE = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from repro.base.paths import Paths
from repro.container.image import Layer
from repro.images.oci import compute_image
from repro.packing import sbom
images = {{}}
for architecture in reversed(("amd64", "arm64")):
    layers = [Layer(name, name.partition(":")[0], "sha256:" + digit * 64, Path(path).stat().st_size, Path(path),
              "sha256:" + digit * 64) for name, digit, path in {layers!r}[architecture]]
    images[architecture] = {{"base": compute_image("base", architecture, layers, {{}}, "3.11", "a test")}}
sys.stdout.buffer.write(sbom.make_sbom(Paths(Path({root!r})), images, [], "c" * 40, ()))
"""


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_no_clock_seed_locale_or_order_enters(images, seed):
    here = sbom.make_sbom(Paths(ROOT), images, [], "c" * 40, ())
    layers = {
        architecture: [(layer.name, layer.diff_id[7], str(layer.path)) for layer in named["base"].layers]
        for architecture, named in images.items()
    }
    there = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE.format(root=str(ROOT), layers=layers)], capture_output=True, check=True,
        env={"PYTHONHASHSEED": seed, "LC_ALL": "C", "TZ": "Asia/Tokyo", "PATH": "/usr/bin"},
    ).stdout  # fmt: skip
    assert there == here and b"timestamp" not in here


def test_no_component_is_lost_because_another_is_like_it(images, document):
    """The library keeps components in sets: two that differ in their reference alone are two."""
    references = [component["bom-ref"] for component in document["components"]]
    files = {
        f"{kind}:{file.sha256}"
        for architecture in images
        for kind, lock in (
            ("deb", load_deb_lock(ROOT, "base", architecture)), ("wheel", load_wheel_lock(ROOT, "base", architecture)),
        )
        for file in lock.files
    }  # fmt: skip
    assert files < set(references) and len(references) == len(set(references))
