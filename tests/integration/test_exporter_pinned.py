"""The pinned exporter: CPython compiled as a built layer, and on it the portable exporter's very ONNX.

Where CPython 3.7.5's archive is not in data/sources, the same recipe is held to the distribution's own CPython source
(`apt-get source --download-only python3.11`, its .orig.tar.gz put into data/sources).
"""

from __future__ import annotations

import json
import os
import shutil

import pytest
from _runs import ROOT

from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.container.job import Job, Mount
from repro.display.console import Console
from repro.graph.pipeline import Request, build_graph, closure
from repro.images.build import build_images
from repro.images.commands import obtainable
from repro.images.compile import compile_layer, why_left_out
from repro.images.definition import load_definition
from repro.images.layer_tars import write_blob
from repro.images.layers.tree import Tree, tar_chunks
from repro.images.recipes import recipes_of
from repro.machine import facts
from repro.run.engine_choice import choose, compiling_engine
from repro.run.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]
STAND_IN = "python3.11_3.11.2.orig.tar.gz"
SOURCES = f"""
[cpython]
title = "Debian's source of Python 3.11.2"
file = "{STAND_IN}"
sha256 = "2411c74bda5bbcfcddaf4531f66d1adc73f247f529aee981b029513aefdbf849"
licence = "Python-2.0"
page = "Debian's source package python3.11"
urls = []
"""
PROOF = """
description = "what exporter-pinned has below its wheels, with another CPython"
[[layers]]
kind = "debs"
lock = "python37"
[[layers]]
kind = "built"
recipe = "python37"
sources = ["cpython"]
toolchain = "toolchain"
"""
PROBE = """
import bz2, ctypes, decimal, hashlib, json, lzma, multiprocessing, sqlite3, ssl, sys, zlib
found = {"version": sys.version, "prefix": sys.prefix, "ssl": ssl.OPENSSL_VERSION, "path": sys.path}
json.dump(found, open("/run/out/probe.json", "w"))
"""


@pytest.fixture
def checkout(tmp_path) -> Paths:
    """This checkout, with another source archive for the recipe and an index of images of its own."""
    if not (ROOT / "data" / "sources" / STAND_IN).is_file():
        pytest.skip(f"{STAND_IN} is not in data/sources")
    root = tmp_path / "checkout"
    for name in ("conf", "docker"):
        shutil.copytree(ROOT / name, root / name)
    (root / "conf" / "sources.toml").write_text(SOURCES)
    (root / "data" / "sources").mkdir(parents=True)
    (root / "data" / "sources" / STAND_IN).symlink_to(ROOT / "data" / "sources" / STAND_IN)
    for name in ("cache", "layers", "rootfs", "oci/blobs"):
        link = root / "artifacts" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ROOT / "artifacts" / name)
    alternatives = (root / "docker" / "exporter-pinned" / "image.toml").read_text().partition("[alternatives.mawk]")
    (root / "docker" / "python-proof").mkdir()
    (root / "docker" / "python-proof" / "image.toml").write_text(PROOF + "".join(alternatives[1:]))
    return Paths(root)


def test_the_recipe_makes_a_python_that_runs_in_the_image_and_is_the_same_twice(checkout: Paths, monkeypatch):
    architecture = facts.architecture()
    engine_for = compiling_engine(checkout)
    image = build_images(
        checkout,
        ["python-proof"],
        architecture,
        lambda _: None,
        check_pins=False,
        engine_for=compiling_engine(checkout),
    )["python-proof"]

    engine = choose("sandbox", checkout).engine
    out = checkout.root / "out"
    out.mkdir()
    lines: list[str] = []
    job = Job(image, ("/usr/bin/python3", "-c", PROBE), (Mount(out, "/run/out", writable=True),), name="probe")
    assert engine.run(job, lambda _, line: lines.append(line)).exit_code == 0, lines
    found = json.loads((out / "probe.json").read_text())
    assert found["version"].startswith("3.11.2 (main, Nov  1 2022, 00:00:00)")  # the time that every layer has
    assert found["prefix"] == "/usr/local" and "/usr/local/lib/python3.11/site-packages" in found["path"]

    lock = recipes_of(checkout, "python-proof", architecture)[-1].lock
    engine_for = compiling_engine(checkout)
    built = build_images(checkout, ["toolchain"], architecture, lambda _: None, engine_for=engine_for, check_pins=False)
    toolchain = built["toolchain"]
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    old_mask = os.umask(0o077)
    try:
        tree = Tree(checkout.root / "contents")
        compile_layer(checkout, lock, {}, toolchain, tree, lambda _: None, engine_for)
        again = write_blob(checkout.root / "again", tar_chunks(tree.members()))[0]
    finally:
        os.umask(old_mask)
    assert again == image.layers[-1].diff_id
    assert not [path for path in tree.entries if path.endswith((".pyc", ".a"))]


def test_the_pinned_exporter_s_onnx_equals_the_portable_one_s(tmp_path):
    paths = Paths(ROOT, tmp_path / "results")
    if "exporter-pinned" not in obtainable(paths, facts.architecture(), lambda _: None):
        pytest.skip(why_left_out(paths, load_definition(paths.docker, "exporter-pinned"), facts.architecture()))
    checkpoint = paths.data / "demo" / "checkpoint.pth"
    session = Session(paths, Console())
    digests = set()
    for pinned in ((), ("export",)):
        nodes = closure(
            build_graph(Request((8,), checkpoint=checkpoint, pinned=pinned), paths.conf, checkpoint), ["export"]
        )
        runner = session.runner(
            session.engine("sandbox", fetch=True).engine,
            session.keys(session.images({node.stage.image for node in nodes.values()}, fetch=True)),
        )
        digests.add(sha256_file(runner.run(nodes)["export"].result.out / "lstm_ctc.onnx"))
    assert len(digests) == 1
