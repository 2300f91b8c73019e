"""What compiling costs is said before it is spent: by measured processor time, cores, memory and emulation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from repro.base.errors import UsageError
from repro.base.paths import Paths
from repro.cli import doctor
from repro.images import cost
from repro.images.build import build_images, describe_missing, work_for
from repro.images.cost import Work
from repro.images.definition import load_definition
from repro.locks.archives import load_sources
from repro.machine import facts
from repro.machine.emulation import Emulation
from repro.run.engine_choice import compiling_engine

ROOT = Path(__file__).resolve().parents[2]
NATIVE = Emulation(works=True, how="native", native=True)
QEMU = Emulation(works=True, how="qemu-aarch64-static, for the sandbox", enter=("python3",))


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(cost, "jobs_here", lambda: 2)
    monkeypatch.setattr(cost, "emulation", lambda architecture: NATIVE if architecture == "amd64" else QEMU)


@pytest.fixture
def bare(tmp_path) -> Paths:
    """A checkout with Kaldi's archive, as far as a name goes, and nothing built."""
    for name in ("conf", "docker"):
        shutil.copytree(ROOT / name, tmp_path / name)
    folder = tmp_path / "data" / "sources"
    folder.mkdir(parents=True)
    (folder / load_sources(tmp_path / "conf")["kaldi"].file).write_bytes(b"")
    return Paths(tmp_path)


def test_minutes_are_of_processor_time_cores_and_emulation(two_cores):
    assert cost.expected(600, "amd64") == "about 5 minutes with 2 at once"
    assert cost.expected(10, "amd64") == "about 1 minute with 2 at once"
    minutes = round(600 * cost.EMULATED_FACTOR / 2 / 60)
    assert cost.expected(600, "arm64").startswith(
        f"about {minutes} minutes with 2 at once, under emulation: qemu-aarch64"
    )
    assert minutes > 5


def test_what_was_never_measured_has_no_figure(two_cores):
    said = cost.sentence(Work("amd64", {"built:cann": 0, "built:kaldi": 120}, 0))
    assert said == (
        "to compile for amd64: built:kaldi: about 1 minute with 2 at once; built:cann: how long was never measured"
    )


def test_nothing_is_said_where_nothing_is_compiled(two_cores):
    assert cost.sentence(Work("amd64", {}, 10**9)) == ""


def test_the_compilers_own_packages_count_once(bare):
    work = work_for(bare, ["kaldi", "kaldi"], "amd64")
    assert set(work.compile_s) == {"built:kaldi"}
    alone = work_for(bare, ["toolchain"], "amd64")
    assert alone.compile_s == {} and alone.package_bytes < work.package_bytes
    assert work.disk_bytes > 2 * work.package_bytes


def test_every_recipe_with_public_sources_has_a_measured_time():
    definitions = [
        load_definition(ROOT / "docker", path.parent.name) for path in (ROOT / "docker").glob("*/image.toml")
    ]
    seconds = {layer.lock: layer.cpu_seconds for image in definitions for layer in image.built_layers}
    assert all(seconds[recipe] > 0 for recipe in ("kaldi", "python37"))
    assert (
        len({layer.cpu_seconds for image in definitions for layer in image.built_layers if layer.lock == "python37"})
        == 1
    )


def test_the_time_does_not_enter_a_layer_s_key(bare):
    from repro.images.recipes import recipes_of

    before = recipes_of(bare, "kaldi", "amd64")[-1].key()
    path = bare.docker / "kaldi" / "image.toml"
    seconds = load_definition(bare.docker, "kaldi").built_layers[0].cpu_seconds
    path.write_text(path.read_text().replace(f"cpu_seconds = {seconds}", "cpu_seconds = 1"))
    assert load_definition(bare.docker, "kaldi").built_layers[0].cpu_seconds == 1
    assert recipes_of(bare, "kaldi", "amd64")[-1].key() == before


def test_a_key_that_a_compiled_layer_does_not_have_is_refused(bare):
    path = bare.docker / "kaldi" / "image.toml"
    path.write_text(path.read_text().replace("cpu_seconds", "cpu_minutes"))
    with pytest.raises(UsageError, match="kind built and"):
        load_definition(bare.docker, "kaldi")


def test_a_build_a_plan_and_doctor_say_it_beforehand(bare, two_cores, tmp_path):
    architecture, said = facts.architecture(), []
    with pytest.raises(Exception, match="not fetched"):
        build_images(bare, ["kaldi"], architecture, said.append, engine_for=compiling_engine(bare))
    assert said[0].startswith(f"to compile for {architecture}: built:kaldi: about") and "GB of disk" in said[0]
    assert any("built:kaldi" in line and "about" in line for line in describe_missing(bare, ["kaldi"], architecture))
    system = doctor.System(tmp_path, lambda: architecture, free_bytes=lambda _: 10**12)
    images = next(line for line in doctor.image_lines(bare, system) if line.what == "images")
    assert "to compile for" in images.advice and "minute" in images.advice
