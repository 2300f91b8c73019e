"""Every package that an image's intent names is imported by code that runs there, or its need is argued here."""

import ast
import functools
import sys
from pathlib import Path

import pytest

from repro.base.imports import Modules
from repro.base.toml import read_toml
from repro.graph.pipeline import PINNED_IMAGES

ROOT = Path(__file__).resolve().parents[2]
SETS = read_toml(ROOT / "conf" / "intents" / "wheels.toml")["sets"]
IMAGES = {path.parent.name: read_toml(path) for path in (ROOT / "docker").glob("*/image.toml")}
# What the bench runs in images beside their stages: repro/bench/*.py, `bench.stage(IMAGE, MODULE, …)`.
PROGRAMS = {"bench": ["bench.inference", "bench.native"], "features": ["bench.features"]}
MODULE_OF = {"kaldi-native-fbank": "kaldi_native_fbank"}
"""Where a package's module has another name."""

NOT_IMPORTED = {
    ("runtime", "protobuf"): "onnx's own; newer ones than its release was made for are kept out",
    ("exporter-pinned", "typing-extensions"): "torch's own, at the compatibility table's version",
    ("exporter-tests", "pytest"): "the tests that need torch run there",
    ("exporter-tests", "hypothesis"): "the tests that need torch run there",
    ("cann", "setuptools"): "ais_bench reads aclruntime's version through pkg_resources",
    ("cann", "pip"): "CANN's installer unpacks wheels of its own with it",
    ("cann", "tqdm"): "ais_bench's",
    ("cann311", "setuptools"): "ais_bench reads aclruntime's version through pkg_resources",
    ("cann311", "pip"): "CANN's installer unpacks wheels of its own with it",
    ("cann311", "tqdm"): "ais_bench's",
    **{("cann311", name): "CANN 8 asks for it" for name in ("cython", "cloudpickle", "ml-dtypes", "tornado")},
    **{(wheels, name): "CANN's Python parts import it" for wheels in ("cann", "cann311") for name in (
        "protobuf", "attrs", "decorator", "sympy", "cffi", "pyyaml", "pathlib2", "psutil", "scipy", "requests",
        "absl-py")},
}  # fmt: skip


MODULES = Modules(ROOT)
# Imported where the stage is asked for its other implementation alone.
NOT_NEEDED = {("features", "kaldi"): {"llvmlite"}}


def _chain(image):
    """The image and those that it extends."""
    while image:
        yield image
        image = IMAGES[image].get("extends")


def _stages(image):
    pinned = [stage for stage, name in PINNED_IMAGES.items() if name == image]
    return {*IMAGES[image].get("stages", []), *pinned, *PROGRAMS.get(image, [])}


@functools.cache
def _imported(stage):
    """Top-level names that a stage's closure imports."""
    names = set()
    for path, module in MODULES.closure(f"stages.{stage}").items():
        for node in ast.walk(ast.parse(module.data, path)):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def _lock_images(wheels):
    """Images that hold a set's wheels: by a layer of their own, or of one that they extend."""
    return [
        name
        for name in IMAGES
        if any(layer.get("lock") == wheels and layer["kind"] == "wheels"
               for each in _chain(name) for layer in IMAGES[each].get("layers", []))
    ]  # fmt: skip


def _named(requirement):
    for mark in "=<>;[ ":
        requirement = requirement.partition(mark)[0]
    return requirement


@pytest.mark.parametrize(("wheels", "package"), [(name, _named(p)) for name, s in SETS.items() for p in s["packages"]])
def test_package_of_an_image_is_imported_by_code_that_runs_there_or_goes(wheels, package):
    stages = {stage for image in _lock_images(wheels) for stage in _stages(image)}
    assert stages or (wheels, package) in NOT_IMPORTED
    imported = set().union(*(_imported(stage) for stage in stages))
    used = MODULE_OF.get(package, package) in imported
    argued = (wheels, package) in NOT_IMPORTED
    assert used != argued, f"{package} of {wheels}: {'argued for, and imported' if argued else 'imported by no stage'}"


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the list of the standard library's names came with 3.10")
def test_what_a_stage_imports_is_in_each_of_its_images():
    """The other way round: a stage's closure asks for nothing that one of its images lacks."""
    ours = {"stages", "ais_bench", "aclruntime"}
    known = {MODULE_OF.get(_named(p), _named(p)) for s in SETS.values() for p in s["packages"]}
    wrong = []
    for image in IMAGES:
        held = {
            MODULE_OF.get(_named(package), _named(package))
            for name, wheels in SETS.items() if image in _lock_images(name) for package in wheels["packages"]
        }  # fmt: skip
        for stage in _stages(image):
            needed = _imported(stage) - ours - set(sys.stdlib_module_names) - NOT_NEEDED.get((stage, image), set())
            for name in needed:
                if name not in held:
                    wrong.append(f"{stage} in {image}: {name}" + ("" if name in known else ", which no image has"))
    assert wrong == []
