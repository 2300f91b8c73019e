"""Three people rebuild real images on machines that differ in all that must not matter; one of them lies.

Continuous integration rebuilds the smallest image. The full form rebuilds every image that can be made here, which
takes a quarter of an hour and 10 GB.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _runs import ROOT
from test_audit import FAKETIME, NOBODY, _python_of, _share_what_is_fetched

from repro.base.paths import Paths
from repro.images.build import build_images
from repro.images.definition import image_names, load_definition
from repro.machine import facts
from repro.packing import contents
from repro.packing.script import install_script
from repro.packing.signing import make_key
from repro.packing.writer import Item
from repro.run.engine_choice import compiling_engine
from tests.forms import FULL
from tests.unit import _bundle_cases as cases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ARCH = facts.architecture()
# Zone, locale and clock of each machine; the second and third are another user's, at another path.
MACHINES = {
    "one": ("UTC", "C.UTF-8", ""),
    "two": ("Asia/Kathmandu", "C", "@2028-02-29 23:59:50"),
    "liar": ("America/St_Johns", "POSIX", "@2027-07-01 12:00:00"),
}


@dataclass(frozen=True)
class World:
    """A bundle that describes real images, what three rebuilders signed beside it, and their keys by name."""

    bundle: Path
    keys: dict[str, str]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    docker = Paths(ROOT).docker
    made = [name for name in image_names(docker) if not load_definition(docker, name).optional]
    names = made if FULL else ["sandbox"]
    paths = Paths(ROOT)
    images = build_images(paths, names, ARCH, lambda _: None, engine_for=compiling_engine(paths))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        described = contents.describe_images({ARCH: {name: images[name] for name in names}})
        items = [item for item in cases.files() if "attestations/" not in item.path and item.path != "images.json"]
        locks = sorted((ROOT / "conf" / "locks").glob(f"[dw]*/*.{ARCH}.json"))
        carried = {f"tree/{lock.relative_to(ROOT).as_posix()}" for lock in locks}
        items = [item for item in items if item.path not in carried]
        items += [Item.of_file(f"tree/{lock.relative_to(ROOT).as_posix()}", lock) for lock in locks]
        blobs = "tree/artifacts/oci/blobs/sha256/"
        items += [Item.of_bytes(blobs + images[name].config_digest[7:], images[name].config) for name in names]
        bundle = cases.pack(folder, [*items, Item.of_bytes("images.json", described)])
        keys = {}
        for machine in MACHINES:
            place, key = _rebuild(folder, machine, names)
            keys[machine] = key.fingerprint
            with open(folder / "keys.pem", "a") as stream:
                stream.write(key.public_pem)
            shutil.copytree(place, folder / "small.tar.attestations", dirs_exist_ok=True)
        (folder / "install.py").write_bytes(install_script())
        yield World(bundle, keys)


def _rebuild(folder: Path, machine: str, names: list[str]):
    """What one of them signs of what he built; returns the folder and his key."""
    zone, locale, clock = MACHINES[machine]
    home = folder / f"place of {machine}"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(home)], check=True)
    (home / "artifacts").mkdir()
    key = make_key(home / "key.pem", {})
    environment = {"PATH": os.environ["PATH"], "TZ": zone, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0",
                   "PYTHONUTF8": "0", "HOME": str(home)}  # fmt: skip
    timed = ["env", f"LD_PRELOAD={FAKETIME[0]}", f"FAKETIME={clock}"] if FAKETIME and clock else []
    who: list[str] = []
    if os.geteuid() == 0 and machine != "one":
        who = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(home)], check=True)
    _share_what_is_fetched(home)
    python = _python_of(who) if machine != "one" else [sys.executable]
    words = ["-m", "invoke", "audit.challenge", "--offline", "--images", ",".join(names), "--sign", "key.pem"]
    done = subprocess.run(
        [*who, *timed, *python, *words, "--to", "page"], cwd=home, env=environment, capture_output=True, text=True,
        preexec_fn=lambda: os.umask(0o077) and None, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 4), done.stdout + done.stderr  # 4: Debian's indexes are not here
    assert "signed by" in done.stdout + done.stderr
    if machine == "liar":
        _lie(home)
    shutil.rmtree(home / "artifacts")
    return home / "page" / "attestations", key


def _lie(home: Path) -> None:
    """Sign that everything came out otherwise."""
    page = home / "page" / "audit.json"
    document = json.loads(page.read_bytes())
    assert {item["found"] == item["claimed"] for item in document["rebuilt"]} == {True}
    for item in document["rebuilt"]:
        item["found"] = "0" * 64
    page.write_text(json.dumps(document))
    shutil.rmtree(home / "page" / "attestations")
    done = subprocess.run([sys.executable, str(ROOT / "tasks.py"), "audit.sign", "page", "--key", "key.pem"],
                          cwd=home, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("threshold", "code"), [("2", 0), ("3", 3)])
@pytest.mark.parametrize("way", ["install.py", "bundle.verify"])
def test_two_of_three_are_enough_and_the_liar_is_named(world: World, threshold: str, code: int, way: str):
    folder, key = world.bundle.parent, cases.signer().fingerprint
    asked = ["--key", key, "--rebuilders", str(folder / "keys.pem"), "--threshold", threshold]
    if way == "install.py":
        words = [sys.executable, "-I", "install.py", world.bundle.name, "--verify-only", *asked]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    else:
        words = [sys.executable, str(ROOT / "tasks.py"), "bundle.verify", str(world.bundle), *asked]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert f"contradicted by {world.keys['liar']}" in said
    honest = ", ".join(sorted((world.keys["one"], world.keys["two"])))
    assert f"image sandbox ({ARCH}): confirmed by {honest}; contradicted by" in said
