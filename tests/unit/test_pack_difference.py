"""What another bundle would change, by kind; and that nothing is shown of a file that is not as its list says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro.base.errors import VerificationFailed
from repro.base.files import sha256_bytes
from repro.packing.commands import diff_bundles
from repro.packing.installer.listing import canonical
from repro.packing.installer.provenance import lock_digest
from repro.packing.resign import resign
from repro.packing.verify import write_files
from repro.packing.writer import Item
from tests.unit import _bundle_cases as cases

PUBLISHED = 'revision = "one"\n[tolerance.wer_percent]\npoints = 0.10\n'


def inventory(version: str = "1", licence: str = "MIT", *more: str) -> bytes:
    components = [
        {"type": "library", "name": "alpha", "version": version, "purl": f"pkg:deb/debian/alpha@{version}?arch=amd64",
         "licenses": [{"license": {"id": licence}}]},
        {"type": "container", "bom-ref": "image:base:amd64", "name": "base", "version": version},
    ]  # fmt: skip
    components += [{"type": "library", "name": name, "version": "1", "purl": f"pkg:pypi/{name}@1"} for name in more]
    return json.dumps({"components": components}).encode()


def bundle(folder: Path, files: dict[str, bytes], **about) -> Path:
    folder.mkdir(exist_ok=True)
    kept = [item for item in cases.files() if item.path not in files and "attestations/image" not in item.path]
    return cases.pack(folder, [*kept, *(Item.of_bytes(path, data) for path, data in files.items())], **about)


def old(folder: Path) -> Path:
    files = {"sbom.cdx.json": inventory(), "tree/conf/published.toml": PUBLISHED.encode(), "tree/stages/a.py": b"1\n"}
    return bundle(folder / "old", files)


def test_the_same_bundle_changes_nothing_installed_or_not(tmp_path: Path):
    one = old(tmp_path)
    write_files(one, tmp_path / "site")
    assert diff_bundles(str(one), str(one)) == "nothing changes: both lists name the same files"
    assert diff_bundles(str(tmp_path / "site"), str(one)) == "nothing changes: both lists name the same files"


def test_each_kind_of_change_stands_under_its_heading(tmp_path: Path):
    images = cases.images()
    config = cases.config_of(images["amd64"]["base"]["layers"]).replace(b"{", b'{"os":"linux",', 1)
    images["amd64"]["base"]["image_id"] = "sha256:" + sha256_bytes(config)
    lock = {**cases.LOCK, "debs": [{"path": "pool/b/beta_1_amd64.deb", "sha256": "cd" * 32}]}
    images["amd64"]["base"]["layers"][0]["made_from"] = "sha256:" + lock_digest("debs", lock)
    new = bundle(
        tmp_path / "new",
        {
            "sbom.cdx.json": inventory("2", "GPL-2.0-only", "torch"),
            "images.json": canonical(images),
            "tree/artifacts/oci/blobs/sha256/" + sha256_bytes(config): config,
            "tree/conf/locks/debs/base.amd64.json": canonical(lock),
            "tree/conf/published.toml": PUBLISHED.replace("0.10", "0.25").encode(),
            "tree/stages/a.py": b"2\n",
            "tree/stages/b.py": b"",
        },
        commit="d" * 40,
    )
    resign(new, cases.signer(2))
    cases.put_beside(new, {"rebuild": cases.rebuild(images["amd64"]["base"]["image_id"])}, cases.signer(3))
    said = diff_bundles(str(old(tmp_path)), str(new)).splitlines()
    sections: dict[str, list[str]] = {}
    for line in said:
        if line.startswith("  "):
            [*sections.values()][-1].append(line.strip())
        else:
            sections[line.partition(":")[0]] = []
    assert sections["bundle"] == [f"commit: {'c' * 40} -> {'d' * 40}"]
    assert sections["packages"] == ["deb alpha (amd64): 1 -> 2", "+ pypi torch 1"]
    assert sections["licences"] == ["deb alpha (amd64): MIT -> GPL-2.0-only"]
    ids = [item["amd64"]["base"]["image_id"][:19] for item in (cases.images(), images)]
    assert sections["images"] == [f"image base (amd64): {ids[0]} -> {ids[1]}"]
    assert sections["tolerances and toolchain"] == ["published.toml tolerance.wer_percent.points: 0.1 -> 0.25"]
    assert [line.partition(":")[0] for line in sections["locks, data and documents"]] == [
        "conf/locks/debs/base.amd64.json"
    ]
    assert [line.split()[:2] for line in sections["code"]][-1] == ["+", "stages/b.py"]
    assert {line.partition(":")[0] for line in sections["code"][:-1]} == {"conf/published.toml", "stages/a.py"}
    assert sections["statements"] == [line for line in sections["statements"] if "rebuild (beside the bundle)" in line]
    assert f"PASSED, signed by {cases.signer(3).fingerprint[:12]}" in sections["statements"][0]


def test_a_describing_file_that_is_not_as_listed_is_refused(tmp_path: Path):
    one, other = old(tmp_path), bundle(tmp_path / "new", {"sbom.cdx.json": inventory("2")})
    other.write_bytes(other.read_bytes().replace(b'"version": "2"', b'"version": "3"'))
    with pytest.raises(VerificationFailed, match=r"sbom\.cdx\.json is not as the list says"):
        diff_bundles(str(one), str(other))


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("sbom.cdx.json", b"x"), ("sbom.cdx.json", b"[]"), ("sbom.cdx.json", b"[" * 100_000),
        ("sbom.cdx.json", b'{"components": [3]}'), ("sbom.cdx.json", b'{"components": [{"licenses": [3]}]}'),
        ("images.json", b'{"amd64": 3}'), ("images.json", b'{"amd64": {"base": {"image_id": "x"}}}'),
        ("tree/conf/published.toml", b"\xff"), ("tree/conf/published.toml", b"x ="),
        ("tree/conf/published.toml", b"x = " + b"[" * 100_000),
    ],
)  # fmt: skip
def test_a_describing_file_that_is_malformed_is_refused_by_name(tmp_path: Path, path: str, data: bytes):
    with pytest.raises(VerificationFailed, match=path.rpartition("/")[2].replace(".", r"\.")):
        diff_bundles(str(old(tmp_path)), str(bundle(tmp_path / "new", {path: data})))


def test_what_a_stranger_wrote_cannot_command_the_terminal(tmp_path: Path):
    other = bundle(tmp_path / "new", {"sbom.cdx.json": inventory("2\u001b[2J\u202e")})
    said = diff_bundles(str(old(tmp_path)), str(other))
    assert "\u001b" not in said and "\u202e" not in said
