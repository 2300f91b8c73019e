"""Machines with large memory pages, and the names of processors: known before anything is fetched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.base.errors import CouldNotRun
from repro.base.paths import Paths
from repro.graph.pipeline import Node, StageDefinition
from repro.images.definition import image_names, load_definition
from repro.images.runnable import why_image_cannot_run
from repro.machine import facts as machine_facts
from repro.machine.processors import processor_name
from repro.run import execute

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"arm64": (4096, 16384, 65536), "amd64": (4096,)}


def facts(architecture: str, page: int) -> dict[str, str | int]:
    return {"architecture": architecture, "page_size_bytes": page}


@pytest.mark.parametrize("name", image_names(ROOT / "docker"))
def test_only_pytorch_for_arm64_needs_small_pages(name: str):
    image = load_definition(ROOT / "docker", name)
    refused = {
        (architecture, page)
        for architecture, pages in PAGES.items()
        for page in pages
        if why_image_cannot_run(image, facts(architecture, page))
    }
    has_pytorch = any(
        layer.lock in ("exporter", "exporter-pinned") and layer.kind == "wheels" for layer in image.layers
    )
    assert refused == ({("arm64", 16384), ("arm64", 65536)} if has_pytorch else set())


def test_the_reason_names_the_image_and_both_sizes():
    why = why_image_cannot_run(load_definition(ROOT / "docker", "exporter"), facts("arm64", 65536))
    assert "image exporter cannot run here" in why
    assert "4 KiB" in why
    assert "64 KiB" in why


class Store:
    def __init__(self, *stored: str) -> None:
        self.stored = stored

    def last_of(self, step: str) -> str | None:
        return "f" * 64 if step in self.stored else None


@pytest.fixture
def nodes(monkeypatch) -> dict[str, Node]:
    monkeypatch.setattr(machine_facts, "facts", lambda: facts("arm64", 65536))
    return {
        "export": Node("export", StageDefinition("export", "exporter"), {}),
        "score": Node("score", StageDefinition("score", "base"), {}),
    }


def session(*stored: str) -> SimpleNamespace:
    return SimpleNamespace(paths=Paths(ROOT), store=Store(*stored), host=machine_facts.facts)


def test_a_run_that_would_need_it_is_refused_before_anything_is_fetched(nodes):
    with pytest.raises(CouldNotRun, match="image exporter cannot run here") as caught:
        execute.check_machine(session(), nodes, ())
    assert "BUNDLE_RESULTS" in caught.value.hint


def test_a_result_that_another_machine_stored_is_taken(nodes):
    execute.check_machine(session("export"), nodes, ())
    with pytest.raises(CouldNotRun, match="image exporter"):
        execute.check_machine(session("export"), nodes, nodes)  # --force runs it again


def test_a_machine_with_small_pages_is_not_refused(nodes, monkeypatch):
    monkeypatch.setattr(machine_facts, "facts", lambda: facts("arm64", 4096))
    execute.check_machine(session(), nodes, ())


@pytest.mark.parametrize(
    ("implementer", "part", "name"),
    [
        ("0x41", "0xd0c", "Neoverse N1 (0x41 part 0xd0c)"),
        ("0x48", "0xd01", "Kunpeng 920 (0x48 part 0xd01)"),
        ("0x70", "0x663", "FTC663 (0x70 part 0x663)"),
        ("0x41", "0xfff", "0x41 part 0xfff"),
        ("0x99", "0x001", "0x99 part 0x001"),
        ("unknown", "unknown", "unknown part unknown"),
    ],
)
def test_a_processor_has_its_name_with_the_numbers_beside_it(implementer: str, part: str, name: str):
    assert processor_name(implementer, part) == name


def test_the_kernels_own_name_wins_and_a_name_of_ours_does_not_enter_the_machines_identity(monkeypatch):
    arm = {"CPU implementer": "0x48", "CPU part": "0xd01"}
    monkeypatch.setattr(machine_facts, "_cpuinfo", lambda: arm)
    assert machine_facts.cpu_model() == "Kunpeng 920 (0x48 part 0xd01)"
    assert machine_facts._cpu_code() == "0x48 part 0xd01"
    monkeypatch.setattr(machine_facts, "_cpuinfo", lambda: {**arm, "model name": "AMD EPYC"})
    assert machine_facts.cpu_model() == machine_facts._cpu_code() == "AMD EPYC"
