"""The inventories: both say the same, in what independent validators accept, with all that the shipped bytes tell."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.container.image import Layer
from repro.images.oci import compute_image
from repro.locks.model import load_deb_lock, load_wheel_lock
from repro.packing.inventory import Commit, cyclonedx, gather, gathering, spdx
from repro.packing.inventory.licences import Licences
from tests.unit._record_cases import demo_record, record_of

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = "usr/local/lib/python3.11/dist-packages"
COMMIT = Commit("c" * 40, "2026-01-02T03:04:05Z", "A. Maker", "maker@example.org")
PREFIX = "lstm-ctc-bundle:"
DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 1999 somebody
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
                "usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n',
                "var/lib/dpkg/status": "Package: bash\nMaintainer: Matthias Klose <doko@debian.org>\n\nPackage: x\n",
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
                name,
                name.partition(":")[0],
                f"sha256:{sha256_file(path)}",
                path.stat().st_size,
                path,
                f"sha256:{digit * 64}",
            )
            for name, digit, path in (("debs:base", "1", debs), ("wheels:base", "2", wheels))
        ]
        made[architecture] = {"base": compute_image("base", architecture, layers, {}, "3.11", "a test")}
    return made


def facts(images, include=(), commit=COMMIT, record=None):
    return gather(Paths(ROOT), images, [], commit, include, record)


@pytest.fixture(scope="module")
def document(images):
    return json.loads(cyclonedx(facts(images, record=record_of(demo_record()))))


@pytest.fixture(scope="module")
def graph(images):
    return json.loads(spdx(facts(images, record=record_of(demo_record()))))["@graph"]


def test_an_independent_validator_accepts_it(images):
    one = {"amd64": images["amd64"]}
    document = json.loads(cyclonedx(facts(one, record=record_of(demo_record()))))
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(document)) is None
    document["components"] = [item for item in document["components"] if "modelCard" in item]
    text = json.dumps(document)
    assert validator.validate_str(text.replace('"SHA-256"', '"SHA-257"')) is not None
    assert validator.validate_str(text.replace('"performanceMetrics"', '"performanceFigures"')) is not None


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


def licence(component):
    (item,) = component["licenses"]
    return item.get("expression") or item["license"]["id"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bash", "GPL-2.0-or-later AND MIT"),
        ("base-files", "LicenseRef-debian-see-common-licenses-GPL"),
        ("libgcc-s1", "GPL-3.0-or-later WITH GCC-exception-3.1"),
        ("libstdc++6", "GPL-3.0-or-later WITH GCC-exception-3.1"),  # of the same source as gcc-12-base
        ("zlib1g", "LicenseRef-not-stated"),
        ("numpy", "LicenseRef-pypi-BSD-License"),
        ("cffi", "MIT-0 OR MIT"),
        ("kaldiio", "LicenseRef-not-stated"),
        ("demo checkpoint", "Apache-2.0"),
        ("ctc_best_model.pth", "LicenseRef-not-stated"),
    ],
)
def test_licences_are_read_from_the_shipped_bytes(document, name, expected):
    assert licence(next(component for component in document["components"] if component["name"] == name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GPL-2", "GPL-2.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("GPL-2+ or Artistic", "GPL-2.0-or-later OR Artistic-1.0-Perl"),
        ("GPL-2+, Expat and Zlib", "GPL-2.0-or-later AND MIT AND Zlib"),
        ("BSD-3-clause and/or GPL-3", "LicenseRef-debian-BSD-3-clause-and-or-GPL-3"),
        ("public-domain", "LicenseRef-debian-public-domain"),
        ("GPL-2+ with an exception of ours", "LicenseRef-debian-GPL-2-with-an-exception-of-ours"),
        ("\u202e\x1b[2J", "LicenseRef-debian-2J"),
    ],
)
def test_a_licence_without_a_name_at_spdx_keeps_its_own(name, expected):
    assert Licences().expression(name, "debian") == expected


def test_scanners_find_the_distribution_and_its_packages(document):
    system = next(item for item in document["components"] if item["type"] == "operating-system")
    assert (system["name"], system["version"]) == ("debian", "12")
    bash = next(item for item in document["components"] if item["name"] == "bash")
    assert bash["purl"].startswith("pkg:deb/debian/bash@") and "distro=debian-12" in bash["purl"]
    assert bash["supplier"]["name"] == "Debian" and bash["copyright"] == "Copyright: 1999 somebody"
    assert bash["manufacturer"]["contact"] == [{"name": "Matthias Klose", "email": "doko@debian.org"}]


def test_time_author_and_supplier_are_the_commits(document):
    about = document["metadata"]
    assert about["timestamp"].startswith("2026-01-02T03:04:05")
    assert about["authors"] == [{"name": "A. Maker", "email": "maker@example.org"}] and about["supplier"]["name"]


def test_models_and_data_are_components_and_what_is_not_carried_says_so(document):
    by_reference = {component["bom-ref"]: component for component in document["components"]}
    assert by_reference["model:demo"]["type"] == "machine-learning-model" and by_reference["model:demo"]["hashes"]
    assert by_reference["data:demo"]["type"] == "data"
    assert by_reference["data:timit"]["scope"] == by_reference["model:published"]["scope"] == "excluded"


def test_a_checkpoint_asked_for_by_name_is_no_longer_excluded(images, tmp_path, monkeypatch):
    weights = tmp_path / "best.pth"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(gathering, "users_checkpoint", lambda _: weights)
    document = json.loads(cyclonedx(facts(images, ("checkpoint",))))
    found = next(c for c in document["components"] if c["bom-ref"] == "model:published")
    assert found["scope"] == "required"
    assert {item["content"] for item in found["hashes"]} == {
        hashlib.new(name, b"weights").hexdigest() for name in ("sha256", "sha512")
    }


def test_sha512_stands_where_the_bytes_are_here(images, tmp_path, monkeypatch):
    deb = load_deb_lock(ROOT, "base", "amd64").debs[0]
    (tmp_path / "deb").write_bytes(b"a package")

    class Held:
        def __init__(self, _):
            pass

        def path(self, sha256):
            return tmp_path / "deb" if sha256 == deb.sha256 else None

    monkeypatch.setattr(gathering, "Cache", Held)
    parts = facts(images).parts
    assert parts[f"deb:{deb.sha256}"].digests.sha512 == hashlib.sha512(b"a package").hexdigest()
    assert parts["model:demo"].digests.sha512 and parts["image:base:amd64"].digests.sha512


def test_images_depend_on_what_they_hold(document):
    held = next(item for item in document["dependencies"] if item["ref"] == "image:base:arm64")["dependsOn"]
    assert f"deb:{load_deb_lock(ROOT, 'base', 'arm64').debs[0].sha256}" in held
    assert set(held) <= {component["bom-ref"] for component in document["components"]}


def test_both_inventories_agree_component_by_component(document, graph):
    by_id = {item.get("spdxId"): item for item in graph}
    related = {}
    for item in graph:
        if item["type"] == "Relationship":
            related.setdefault((item["from"], item["relationshipType"]), []).extend(item["to"])

    def told_by_spdx(part):
        (expression,) = related[part["spdxId"], "hasConcludedLicense"]
        return {
            "name": part["name"], "version": part["software_packageVersion"], "purl": part.get("software_packageUrl"),
            "copyright": part["software_copyrightText"], "supplier": by_id[part["suppliedBy"]]["name"],
            "maker": by_id[part["originatedBy"][0]]["name"], "kind": part["software_primaryPurpose"].lower(),
            "licence": by_id[expression]["simplelicensing_licenseExpression"],
            "hashes": {item["algorithm"]: item["hashValue"] for item in part.get("verifiedUsing", ())},
            "file": [by_id[file]["name"] for file in related.get((part["spdxId"], "hasDistributionArtifact"), ())],
            "holds": sorted(by_id[held]["name"] for held in related.get((part["spdxId"], "contains"), ())),
        }  # fmt: skip

    components = [document["metadata"]["component"], *document["components"]]
    names = {component["bom-ref"]: component["name"] for component in components}
    holds = {item["ref"]: sorted(names[ref] for ref in item.get("dependsOn", ())) for item in document["dependencies"]}

    def told_by_cyclonedx(part):
        properties = {item["name"]: item["value"] for item in part.get("properties", ())}
        return {
            "name": part["name"], "version": part["version"], "purl": part.get("purl"), "copyright": part["copyright"],
            "supplier": part["supplier"]["name"], "maker": part["manufacturer"]["name"],
            "kind": {"operating-system": "operatingsystem", "machine-learning-model": "model"}.get(
                part["type"], part["type"]),
            "licence": licence(part),
            "hashes": {item["alg"].replace("-", "").lower(): item["content"] for item in part.get("hashes", ())},
            "file": [properties[f"{PREFIX}file_name"]] if f"{PREFIX}file_name" in properties else [],
            "holds": holds.get(part["bom-ref"], []),
        }  # fmt: skip

    one = {f"part-{part['bom-ref'].replace(':', '-')}": told_by_cyclonedx(part) for part in components}
    other = {part["spdxId"].partition("#")[2]: told_by_spdx(part) for part in graph if "suppliedBy" in part}
    assert one == other


def numbers(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, float):
        yield value


def test_every_number_of_the_model_card_is_the_records(document, graph):
    record = demo_record()
    told = {}
    for result in record["results"]:
        size, speed = result["batch_size"], result["measured"]["provider"]
        for name in ("published", "complete"):
            protocol = result[name]
            for metric in ("cer_percent", "wer_percent"):
                scope = f"{name} protocol, batch size {size}, {protocol['utterances']} utterances"
                if protocol[metric] is not None:
                    told[metric, scope] = (protocol[metric], *protocol["interval_95"][metric])
        scope = f"batch size {size}, {speed}"
        told["throughput_utterances_per_s", scope] = (result["throughput_utterances_per_s"],)
        for word in ("mean", "p99"):
            told["latency_ms", f"{word}, {scope}"] = (result["latency_ms"][word],)
    card = next(item for item in document["components"] if item["bom-ref"] == "model:demo")["modelCard"]
    figures = card["quantitativeAnalysis"]["performanceMetrics"]
    found = {
        (item["type"], item["slice"]): tuple(map(float, (item["value"], *item.get("confidenceInterval", {}).values())))
        for item in figures
    }
    assert found == told and len(figures) == len(told)
    package = next(item for item in graph if item["type"] == "ai_AIPackage" and "ai_metric" in item)
    entries = {item["key"]: item["value"] for item in package["ai_metric"]}
    for (metric, scope), values in told.items():
        text = entries.pop(f"{metric}, {scope}")
        assert [float(word) for word in text.replace("[", "").replace("]", "").replace(",", "").split()] == list(values)
    assert entries == {
        f"formula: {name}": f"{item['formula']} [{item['unit']}]" for name, item in record["metrics"].items()
    }
    assert all(value in set(numbers(record)) for values in told.values() for value in values)


def test_the_card_names_training_data_lineage_and_what_the_figures_are_not(document, graph):
    card = next(item for item in document["components"] if item["bom-ref"] == "model:demo")["modelCard"]
    properties = {item["name"].removeprefix(PREFIX): item["value"] for item in card["properties"]}
    record = demo_record()
    assert card["modelParameters"]["datasets"] == [{"ref": "data:demo"}]
    assert properties["lineage:0:checkpoint"] == f"sha256:{record['checkpoint']['sha256']}"
    assert any("say nothing about TIMIT" in text for text in card["considerations"]["technicalLimitations"])
    trained = next(item for item in graph if item.get("relationshipType") == "trainedOn")
    assert trained["from"].endswith("part-model-demo") and trained["to"][0].endswith("part-data-demo")


def test_the_same_contents_give_the_same_inventory_and_others_another_name(images):
    one = {"amd64": images["amd64"]}
    first, again, other = facts(one), facts(one), facts(one, commit=dataclasses.replace(COMMIT, id="d" * 40))
    for write in (cyclonedx, spdx):
        assert write(first) == write(again)
    serials = [json.loads(cyclonedx(each))["serialNumber"] for each in (first, other)]
    spaces = [json.loads(spdx(each))["@graph"][1]["spdxId"].partition("#")[0] for each in (first, other)]
    assert len({*serials, *spaces}) == 4


_ELSEWHERE = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from repro.base.paths import Paths
from repro.container.image import Layer
from repro.images.oci import compute_image
from repro.packing.inventory import Commit, cyclonedx, gather, spdx
images = {{}}
for architecture in reversed(("amd64", "arm64")):
    layers = [Layer(name, name.partition(":")[0], diff_id, Path(path).stat().st_size, Path(path), made_from)
              for name, diff_id, path, made_from in {layers!r}[architecture]]
    images[architecture] = {{"base": compute_image("base", architecture, layers, {{}}, "3.11", "a test")}}
commit = Commit("c" * 40, "2026-01-02T03:04:05Z", "A. Maker", "maker@example.org")
facts = gather(Paths(Path({root!r})), images, [], commit, (), None)
sys.stdout.buffer.write(cyclonedx(facts) + spdx(facts))
"""


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_no_clock_seed_locale_or_order_enters(images, seed):
    here = cyclonedx(facts(images)) + spdx(facts(images))
    layers = {
        architecture: [(layer.name, layer.diff_id, str(layer.path), layer.made_from) for layer in named["base"].layers]
        for architecture, named in images.items()
    }
    there = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE.format(root=str(ROOT), layers=layers)], capture_output=True, check=True,
        env={"PYTHONHASHSEED": seed, "LC_ALL": "C", "TZ": "Asia/Tokyo", "PATH": "/usr/bin"},
    ).stdout  # fmt: skip
    assert there == here


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
