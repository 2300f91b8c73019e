"""Images built again elsewhere have the pinned IDs, and a tool that is not ours reads them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from _runs import ROOT

from repro.base.paths import Paths
from repro.fetching import fetch_all
from repro.images.build import build_images
from repro.images.definition import image_names, load_definition
from repro.images.layer_tars import write_tar
from repro.images.oci import docker_archive_stream, publish
from repro.images.pins import load_pins
from repro.run.engine_choice import compiling_engine

PATHS = Paths(ROOT)
PORTABLE = ("base", "exporter", "features", "runtime", "sandbox", "synth")
SETS = ("debs/base", "debs/exporter", "debs/sandbox", "debs/synth", "wheels/base", "wheels/exporter",
        "wheels/features", "wheels/runtime")  # fmt: skip
FOREIGN = tuple(name for name in PORTABLE if name != "synth")  # its flite is compiled: minutes under emulation
SMALL = ("base", "features", "runtime", "sandbox", "synth")
_OTHER_PYTHONS = ("python3.9", "python3.10", "python3.12", "python3.13")
_BUILD = """
import sys, json
from repro.fetching import fetch_all
from repro.images.build import build_images
from repro.run.engine_choice import compiling_engine
from repro.base.paths import Paths
names, architecture = sys.argv[1].split(","), sys.argv[2]
paths = Paths.of_checkout({})
engine_for = compiling_engine(paths)
built = build_images(paths, names, architecture, lambda _: None, engine_for=engine_for, check_pins=False)
print(json.dumps({name: image.config_digest for name, image in built.items()}))
"""


@pytest.fixture(scope="module", autouse=True)
def fetched() -> None:
    """Building has no network: what is built from is brought first, for both architectures."""
    fetch_all(ROOT, ("amd64", "arm64"), SETS)


def test_every_portable_image_is_pinned_for_both_architectures():
    pins = load_pins(PATHS)["images"]
    assert set(PORTABLE) <= set(image_names(PATHS.docker))
    for architecture in ("amd64", "arm64"):
        assert set(PORTABLE) <= set(pins[architecture])


def _copy_of_the_checkout(folder: Path) -> Path:
    """The tracked files at another path, with the fetched files beside them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    names = [name for name in listed.decode().split("\0") if name.startswith(("repro/", "conf/", "docker/"))]
    for name in sorted(names, reverse=True):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "artifacts").mkdir()
    (folder / "artifacts" / "cache").symlink_to(PATHS.artifacts / "cache")
    return folder


def _other_python(tmp_path: Path) -> str:
    """Another Python than this one with the host's requirements, where the machine has one."""
    for name in _OTHER_PYTHONS:
        path = shutil.which(name)
        if path is None or name == f"python{sys.version_info[0]}.{sys.version_info[1]}":
            continue
        venv = tmp_path / "venv"
        requirements = str(ROOT / "requirements" / "host.txt")
        install = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r"]
        made = subprocess.run([path, "-m", "venv", str(venv)], capture_output=True, check=False)
        if made.returncode == 0 and subprocess.run([*install, requirements], check=False).returncode == 0:
            return str(venv / "bin" / "python")
    return sys.executable


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_a_build_at_another_path_time_zone_umask_user_locale_and_python_gives_the_pinned_ids(
    architecture: str, tmp_path: Path
):
    names = FOREIGN if architecture == "arm64" else SMALL
    build_images(
        PATHS, names, architecture, print, engine_for=compiling_engine(PATHS)
    )  # what is fetched and pinned, here
    copy = _copy_of_the_checkout(tmp_path / "another place" / "checkout")
    python = _other_python(tmp_path)
    command = [python, "-c", _BUILD, ",".join(names), architecture]
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(copy), "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C", "PYTHONHASHSEED": "7",
    }  # fmt: skip
    if shutil.which("faketime"):
        command = ["faketime", "2001-02-03 04:05:06", *command]
    done = subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", *command],
        cwd=copy, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pins = load_pins(PATHS)["images"][architecture]
    assert json.loads(done.stdout) == {name: pins[name] for name in names}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_build_by_another_user_gives_the_pinned_ids():
    tmp_path = Path(tempfile.mkdtemp(prefix="other-user."))  # not tmp_path, which pytest keeps from other users
    try:
        _build_as_another_user(tmp_path)
    finally:
        shutil.rmtree(tmp_path)


def _build_as_another_user(tmp_path: Path) -> None:
    build_images(PATHS, ("sandbox",), "arm64", print, engine_for=compiling_engine(PATHS))
    copy = _copy_of_the_checkout(tmp_path / "checkout")
    lock = json.loads((copy / "conf" / "locks" / "debs" / "sandbox.arm64.json").read_bytes())
    (copy / "artifacts" / "cache").unlink()
    for deb in lock["debs"]:
        place = copy / "artifacts" / "cache" / "sha256" / deb["sha256"][:2] / deb["sha256"]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PATHS.artifacts / "cache" / "sha256" / deb["sha256"][:2] / deb["sha256"], place)
    for parent, folders, files in os.walk(tmp_path):
        for name in [".", *folders, *files]:
            os.chown(os.path.join(parent, name), 54321, 54321, follow_symlinks=False)
    os.chmod(tmp_path, 0o755)
    # The user changes after the imports: Python itself may lie where another user cannot read it.
    become = "import os; os.setgroups([]); os.setgid(54321); os.setuid(54321)\nnames,"
    script = _BUILD.replace("names,", become, 1)
    environment = {**os.environ, "PYTHONPATH": str(copy), "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", script, "sandbox", "arm64"],
        cwd=copy, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"sandbox": load_pins(PATHS)["images"]["arm64"]["sandbox"]}


@pytest.fixture
def skopeo() -> str:
    path = shutil.which("skopeo")
    if path is None:
        pytest.skip("skopeo is not on this machine")
    return path


def test_skopeo_reads_the_layout_and_finds_the_digests_that_we_computed(skopeo: str, tmp_path: Path):
    image = build_images(PATHS, ("base",), "amd64", print, engine_for=compiling_engine(PATHS))["base"]
    paths = Paths(tmp_path)
    publish(paths, image)
    for layer in image.layers:
        write_tar(layer, paths.blobs / layer.diff_id[7:])
    source = f"oci:{paths.oci}:base-amd64"
    inspected = subprocess.run([skopeo, "inspect", source], capture_output=True, text=True, check=True)
    found = json.loads(inspected.stdout)
    assert found["Digest"] == image.manifest_digest
    assert found["Layers"] == [layer.diff_id for layer in image.layers]
    subprocess.run(
        [skopeo, "--insecure-policy", "copy", "-q", source, f"dir:{tmp_path}/dir"], check=True, capture_output=True
    )
    assert (tmp_path / "dir" / "manifest.json").read_bytes() == image.manifest
    assert (tmp_path / "dir" / image.config_digest[7:]).read_bytes() == image.config


def test_skopeo_reads_the_archive_both_ways(skopeo: str, tmp_path: Path):
    images = build_images(PATHS, ("base", "sandbox"), "arm64", print, engine_for=compiling_engine(PATHS))
    archive = tmp_path / "images.tar"
    with open(archive, "wb") as stream:
        for chunk in docker_archive_stream(list(images.values())):
            stream.write(chunk)
    for name, image in images.items():
        config = subprocess.run(
            [skopeo, "inspect", "--config", "--raw", f"docker-archive:{archive}:{image.reference}"],
            capture_output=True, check=True,
        )  # fmt: skip
        assert config.stdout.strip() == image.config
        manifest = subprocess.run(
            [skopeo, "inspect", "--raw", f"oci-archive:{archive}:{name}-arm64"], capture_output=True, check=True
        )
        assert manifest.stdout.strip() == image.manifest


def test_every_image_says_which_stages_it_is_for():
    from repro.graph.pipeline import STAGES

    by_image = {name: set(load_definition(PATHS.docker, name).stages) for name in PORTABLE}
    for stage in STAGES.values():
        if stage.image in by_image:
            assert stage.name in by_image[stage.image], stage.name
