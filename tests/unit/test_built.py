"""Built layers: a recipe's tree becomes the same layer whatever the builder; images that need sources may be absent."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from _graph_cases import FakeEngine, image
from hypothesis import given
from hypothesis import strategies as st

from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.imports import Modules
from repro.base.paths import Paths
from repro.container.job import Outcome
from repro.images.build import describe_missing, files_needed
from repro.images.commands import obtainable
from repro.images.compile import why_left_out
from repro.images.definition import load_definition
from repro.images.layer_tars import write_blob
from repro.images.layers.built import add_built, available_memory_bytes, parallel_jobs, run_recipe
from repro.images.layers.tree import Tree, tar_chunks
from repro.images.pins import load_pins, write_pins
from repro.images.recipes import recipes_of
from repro.locks.archives import SourceArchive, load_sources
from repro.locks.built import BuiltLock
from repro.machine import facts
from repro.machine.emulation import Emulation

ROOT = Path(__file__).resolve().parents[2]
SOURCE = SourceArchive("thing", "Thing", "thing.tar", "MIT", "https://example.org", (), sha256="0" * 64)
LOCK = BuiltLock("thing", "amd64", b"#!/bin/sh\n", (SOURCE,), "1" * 64)


def layer_of(folder: Path, scratch: Path) -> str:
    scratch.mkdir(exist_ok=True)
    tree = Tree(Path(tempfile.mkdtemp(dir=scratch)))
    add_built(tree, folder)
    return write_blob(scratch / "blobs", tar_chunks(tree.members()))[0]


def write_tree(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (folder / "usr" / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "usr" / "bin" / "program").write_bytes(b"\x7fELF")
    (folder / "usr" / "bin" / "program").chmod(0o755)
    (folder / "usr" / "bin" / "link").symlink_to("/usr/bin/program")


def test_times_modes_and_the_order_of_writing_do_not_enter_a_layer(tmp_path):
    names = ["usr/lib/a", "usr/lib/b", "etc/c"]
    write_tree(tmp_path / "one", names)
    old_mask = os.umask(0o077)
    try:
        write_tree(tmp_path / "two", names[::-1])
    finally:
        os.umask(old_mask)
    (tmp_path / "two" / "usr" / "bin" / "program").chmod(0o700)
    os.utime(tmp_path / "two" / "etc" / "c", (1, 1))
    assert layer_of(tmp_path / "one", tmp_path) == layer_of(tmp_path / "two", tmp_path)


@pytest.mark.parametrize("change", ["content", "execute", "link", "name"])
def test_what_matters_enters_a_layer(tmp_path, change):
    for name in ("one", "two"):
        write_tree(tmp_path / name, ["usr/lib/a"])
    program, link = (tmp_path / "two" / "usr" / "bin" / name for name in ("program", "link"))
    if change == "content":
        program.write_bytes(b"other")
    elif change == "execute":
        program.chmod(0o644)
    elif change == "link":
        link.unlink()
        link.symlink_to("/usr/bin/other")
    else:
        program.rename(program.with_name("other"))
    assert layer_of(tmp_path / "one", tmp_path) != layer_of(tmp_path / "two", tmp_path)


def test_a_pipe_in_a_recipes_tree_is_refused(tmp_path):
    write_tree(tmp_path / "out", ["a"])
    os.mkfifo(tmp_path / "out" / "pipe")
    with pytest.raises(VerificationFailed, match="wrote pipe"):
        layer_of(tmp_path / "out", tmp_path)


def test_a_recipe_that_wrote_no_file_is_refused(tmp_path):
    (tmp_path / "out" / "usr").mkdir(parents=True)
    with pytest.raises(VerificationFailed, match="no file"):
        layer_of(tmp_path / "out", tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        replace(LOCK, script=b"#!/bin/sh -e\n"),
        replace(LOCK, toolchain="2" * 64),
        replace(LOCK, architecture="arm64"),
        replace(LOCK, sources=(replace(SOURCE, sha256="3" * 64),)),
        replace(LOCK, sources=(replace(SOURCE, sha256="", content_sha256="0" * 64),)),
    ],
)
def test_recipe_sources_toolchain_and_architecture_determine_a_layer(other):
    assert other.digest != LOCK.digest


def test_where_a_source_comes_from_does_not_determine_a_layer():
    assert replace(LOCK, sources=(replace(SOURCE, urls=("u",), page="p"),)).digest == LOCK.digest


@given(st.integers(1, 512), st.integers(0, 2**42))
def test_compilers_fit_cores_and_memory(cores, memory_bytes):
    jobs = parallel_jobs(cores, memory_bytes)
    assert 1 <= jobs <= cores
    assert jobs == 1 or jobs * 1_100_000_000 < memory_bytes


def test_64_cores_with_4_gigabytes_get_two_compilers():
    assert parallel_jobs(64, 4_000_000_000) == 2


def test_available_memory_is_read_as_the_kernel_writes_it():
    assert available_memory_bytes("MemTotal: 10 kB\nMemAvailable:    8 kB\n") == 8192
    assert available_memory_bytes("MemTotal: 10 kB\n") == 0


class Recipe(FakeEngine):
    """Runs a function of the output folder in place of build.sh."""

    def __init__(self, outcome, write=lambda out: None):
        super().__init__(lambda *_: 0)
        self.outcome, self.write, self.job = outcome, write, None

    def run(self, job, on_line):
        self.job = job
        self.write(next(mount.source for mount in job.mounts if mount.writable))
        on_line("stderr", "the compiler's last words")
        return self.outcome


def run(tmp_path, engine):
    out = tmp_path / "out"
    out.mkdir()
    archive = tmp_path / "thing"
    archive.write_bytes(b"")
    run_recipe(engine, image(), LOCK, {"thing": archive}, out, tmp_path / "logs" / "log")
    return out


def test_a_recipe_sees_its_sources_read_only_and_writes_into_out_alone(tmp_path):
    engine = Recipe(Outcome(0, False, 1.0, {}), lambda out: (out / "made").write_text("x"))
    assert (run(tmp_path, engine) / "made").exists()
    assert {mount.target: mount.writable for mount in engine.job.mounts} == {
        "/run/in/build.sh": False,
        "/run/in/sources/thing": False,
        "/run/out": True,
    }
    assert set(engine.job.env) == {"JOBS", "SOURCE_DATE_EPOCH"}


@pytest.mark.parametrize(
    "outcome, words",
    [
        (Outcome(2, False, 1.0, {}), "exit code 2"),
        (Outcome(137, True, 1.0, {}), "ran longer"),
        (Outcome(137, False, 1.0, {}, out_of_memory=True), "of memory"),
    ],
)
def test_a_recipe_that_fails_is_named_with_the_end_of_its_log(tmp_path, outcome, words):
    with pytest.raises(CouldNotRun, match=words) as caught:
        run(tmp_path, Recipe(outcome))
    assert "built:thing" in caught.value.message
    assert "the compiler's last words" in caught.value.detail
    assert (tmp_path / "logs" / "log").read_text() == "the compiler's last words\n"


@pytest.fixture
def bare(tmp_path):
    """A checkout as it is after cloning: definitions and locks, and nothing in data/sources."""
    for name in ("conf", "docker"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return Paths(tmp_path)


def test_without_sources_the_images_that_need_them_are_left_out_with_a_note(bare):
    said = []
    names = obtainable(bare, "amd64", said.append)
    assert not {"kaldi", "exporter-pinned", "toolchain"} & set(names)
    assert {"base", "features", "exporter", "runtime", "sandbox", "synth"} <= set(names)
    assert any("kaldi" in line and "data/sources" in line for line in said)
    assert any("exporter-pinned" in line and "Python-3.7.5.tar.xz" in line for line in said)


def test_with_its_source_an_image_is_made_and_its_compilers_are_fetched(bare):
    folder = bare.data / "sources"
    folder.mkdir(parents=True)
    (folder / load_sources(bare.conf)["kaldi"].file).write_bytes(b"")
    architecture = facts.architecture()
    assert "kaldi" in obtainable(bare, architecture, lambda _: None)
    needed = {file.project for file in files_needed(bare, ["kaldi"], [architecture]).values()}
    assert {"g++-12", "libopenblas0-pthread", "numpy"} <= needed
    lines = "\n".join(describe_missing(bare, ["kaldi"], architecture))
    assert "compile in image toolchain" in lines and "debs:toolchain" in lines


def test_without_an_emulator_an_image_of_another_architecture_is_left_out_with_what_to_install(bare, monkeypatch):
    folder = bare.data / "sources"
    folder.mkdir(parents=True)
    (folder / load_sources(bare.conf)["kaldi"].file).write_bytes(b"")
    monkeypatch.setattr(
        "repro.images.compile.emulation", lambda _: Emulation(works=False, how="no emulator", hint="install QEMU")
    )
    why = why_left_out(bare, load_definition(bare.docker, "kaldi"), "arm64")
    assert "its compilers are arm64 programs: no emulator; install QEMU" in why


def test_a_layer_of_one_architecture_is_no_part_of_the_other_s_image_and_its_source_of_debian_s_is_fetched(bare):
    layers = {name: [r.name for r in recipes_of(bare, "synth", name)] for name in ("amd64", "arm64")}
    assert layers["arm64"] == [*layers["amd64"], "built:flite"]
    needed = {name: files_needed(bare, ["synth"], [name]).values() for name in layers}
    (source,) = [file for file in needed["arm64"] if file.kind == "source"]
    assert source.path == "pool/main/f/flite/flite_2.2.orig.tar.gz" and source.archive == "debian"
    assert {"gcc-12", "flite"} <= {file.project for file in needed["arm64"]}
    assert not [file for file in needed["amd64"] if file.kind == "source" or file.project == "gcc-12"]
    assert why_left_out(bare, load_definition(bare.docker, "synth"), "amd64") == ""


def test_an_image_that_is_always_made_is_left_out_where_its_compilers_cannot_run(bare, monkeypatch):
    monkeypatch.setattr("repro.images.compile.emulation", lambda _: Emulation(False, "no emulator", "install QEMU"))
    said = []
    assert "synth" not in obtainable(bare, "arm64", said.append)
    assert any("synth" in line and "install QEMU" in line for line in said)


def test_an_image_for_compilers_alone_is_never_made_for_its_own_sake(bare):
    assert why_left_out(bare, load_definition(bare.docker, "toolchain"), "amd64")


def test_pins_of_an_image_that_was_not_made_stay(bare):
    kaldi, gone, layer = ("sha256:" + letter * 64 for letter in "abc")
    old = {
        "images": {"amd64": {"kaldi": kaldi, "gone": gone}},
        "layers": {"amd64": {"built:kaldi": layer, "built:gone": gone}},
    }
    (bare.conf / "locks" / "images.json").write_text(json.dumps(old))
    write_pins(bare, {"amd64": {"base": image()}})
    pins = load_pins(bare)
    assert pins["images"]["amd64"] == {"base": image().config_digest, "kaldi": kaldi}
    assert pins["layers"]["amd64"] == {"built:kaldi": layer}


@pytest.mark.parametrize(
    "layer",
    ['kind = "built"\nlock = "x"', 'kind = "built"\nrecipe = "x"\nsources = []', 'kind = "debs"\nrecipe = "x"'],
)
def test_a_layer_that_mixes_kinds_is_refused(tmp_path, layer):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "image.toml").write_text(f"[[layers]]\n{layer}\n")
    with pytest.raises(UsageError, match="a layer needs exactly"):
        load_definition(tmp_path, "odd")


def test_a_recipe_without_a_script_is_refused(bare):
    (bare.docker / "kaldi" / "build.sh").unlink()
    with pytest.raises(UsageError, match=r"docker/kaldi has no build\.sh"):
        files_needed(bare, ["kaldi"], ["amd64"])


def test_a_pythons_own_place_for_wheels_is_taken_from_the_definition():
    docker = ROOT / "docker"
    assert load_definition(docker, "exporter-pinned").site_packages == "usr/local/lib/python3.7/site-packages"
    assert load_definition(docker, "kaldi").site_packages == "usr/local/lib/python3.11/dist-packages"


def test_what_only_finds_or_fetches_archives_is_no_part_of_a_layer_s_key():
    closure = set(Modules(ROOT).closure("repro.images.layers.built"))
    assert "repro/images/layers/tree.py" in closure
    assert not any(path.startswith(("repro/locks/", "repro/base/files")) for path in closure), closure
