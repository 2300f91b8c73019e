"""What install.py runs last believes nothing of the list of images: it is computed again, or refused by name."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.paths import Paths
from repro.packing import adopt
from repro.packing.adopt import adopt_layers

ROOT = Path(__file__).resolve().parents[2]
ID = "sha256:" + "a" * 64


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An installed folder without layers."""
    for name in ("conf", "docker", "repro", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Paths(tmp_path)


def write(paths: Paths, document) -> None:
    path = paths.root / "artifacts" / "bundle" / "images.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))


def base(**changes):
    layer = {"name": "debs:base", "diff_id": ID, "size_bytes": 1, "made_from": ID}
    return {"amd64": {"base": {"image_id": ID, "manifest_digest": ID, "layers": [layer], **changes}}}


@pytest.mark.parametrize("document", [None, {}, {"arm64": {}}, {"amd64": {}}])
def test_no_images_for_this_architecture_is_wrong_use(paths, document):
    if document is not None:
        write(paths, document)
    with pytest.raises(UsageError, match="no images for amd64"):
        adopt_layers(paths, "amd64")


@pytest.mark.parametrize(
    "document",
    ["{", "[]", "null", '{"amd64": 1}', '{"amd64": {"base": 1}}', '{"amd64": {"base": {}}}', "[" * 9999,
     '{"amd64": {}, "amd64": {}}', {"amd64": {"../../etc": base()["amd64"]["base"]}},
     {"amd64": {"none": base()["amd64"]["base"]}}, base(image_id="x"), base(layers=[{}]), base(layers=None),
     base(layers=[{"name": 1, "diff_id": ID, "size_bytes": 1}]),
     base(layers=[{"name": "debs:base", "diff_id": "../x", "size_bytes": 1}])],
)  # fmt: skip
def test_a_list_of_images_that_is_not_one_is_a_failed_verification(paths, document):
    write(paths, document)
    with pytest.raises(VerificationFailed):
        adopt_layers(paths, "amd64")


def test_a_link_in_the_lists_place_is_not_followed(paths, tmp_path):
    write(paths, base())
    path = paths.root / "artifacts" / "bundle" / "images.json"
    path.rename(tmp_path / "other.json")
    path.symlink_to(tmp_path / "other.json")
    with pytest.raises(VerificationFailed):
        adopt_layers(paths, "amd64")


def test_other_layers_than_the_definitions_are_refused_before_any_is_entered(paths):
    write(paths, base())
    with pytest.raises(VerificationFailed, match="other layers in docker/"):
        adopt_layers(paths, "amd64")
    assert not paths.layer_index.exists()


@pytest.mark.parametrize(("error", "code"), [(VerificationFailed, 3), (CouldNotRun, 4)])
def test_install_py_can_tell_a_failed_verification_by_its_exit_code(monkeypatch, capsys, error, code):
    def fail(_paths, _say):
        raise error("image base comes out as other bytes", hint="get it again")

    monkeypatch.setattr(adopt, "make_ready", fail)
    with pytest.raises(SystemExit) as caught:
        adopt.main()
    assert caught.value.code == code
    assert capsys.readouterr().err == "error: image base comes out as other bytes\n-> get it again\n"


def test_images_are_made_ready_side_by_side_the_largest_first_and_what_fails_is_raised():
    together, began = threading.Barrier(2, timeout=30), []
    sizes = {"small": 1, "large": 9, "middle": 5}
    images = [SimpleNamespace(name=name, layers=[SimpleNamespace(size_bytes=size)]) for name, size in sizes.items()]

    def prepare(image):
        began.append(image.name)
        if image.name != "small":
            together.wait()

    said = []
    adopt._prepare(SimpleNamespace(prepare=prepare, name="docker"), images, said.append)
    assert sorted(began[:2]) == ["large", "middle"] and began[2:] == ["small"]
    assert sorted(line.split()[0] for line in said) == ["large", "middle", "small"]

    def fail(image):
        raise CouldNotRun("no space")

    with pytest.raises(CouldNotRun, match="no space"):
        adopt._prepare(SimpleNamespace(prepare=fail, name="docker"), images, said.append)
