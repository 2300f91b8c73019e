"""The larger corpora of the bench of scale: TIMIT's layout under further names, which the stage corpus takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.base.errors import VerificationFailed
from repro.base.paths import Paths
from repro.bench import scale
from repro.bench.workbench import StageRun, Workbench
from stages import corpus

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


@pytest.mark.parametrize("times", [1, 3])
def test_a_multiplied_corpus_is_the_same_utterances_under_further_speakers(tmp_path, times):
    data, conf = scale.multiplied(GOLDEN / "TIMIT", ROOT / "conf" / "timit", tmp_path / "made", times)
    out = tmp_path / "out"
    out.mkdir()
    corpus.main(["--data", str(data), "--conf", str(conf), "--out", str(out), "--obs", str(out)])
    assert scale._check_corpus(out, times) == {"train": 20 * times, "dev": 10 * times, "test": 5 * times}
    assert (out / "units").read_text() == (GOLDEN / "data/units").read_text()
    with pytest.raises(VerificationFailed, match="corpus"):
        scale._check_corpus(out, times + 1)


def _point(stage, times, cpu_s, peak_mib):
    run = StageRun(Path("out"), Path("obs"), 2 * cpu_s, 2 * cpu_s, cpu_s, peak_mib << 20)
    return scale.Point(stage, times, 50 * times, run)


def test_figures_compare_the_largest_size_with_the_smallest():
    points = [_point("lm", 1, 1.0, 40), _point("lm", 10, 10.9, 45), _point("lm", 3, 3.0, 400)]
    time, memory = scale._figures(points)
    assert time.value == pytest.approx(1.09) and time.met
    assert memory.value == pytest.approx(45 / 40) and not memory.met


@pytest.mark.parametrize(("free_bytes", "until"), [(16_000_000_000, "score"), (14_000_000_000, "lm")])
def test_the_largest_size_goes_as_far_as_the_disk(tmp_path, monkeypatch, free_bytes, until):
    said: list[str] = []
    bench = Workbench(Paths(ROOT, tmp_path), quick=False, scratch=tmp_path, say=said.append)
    monkeypatch.setattr(scale.shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))
    assert scale._full(bench) == {1: "score", 10: "score", 100: until}
    assert bool(said) == (until == "lm") and all("15 GB" in line and "14 GB are free" in line for line in said)


@pytest.mark.parametrize(("infer_s", "until"), [(50.0, "score"), (70.0, "features")])
def test_a_slow_processor_takes_the_largest_size_as_far_as_its_stages_are_quick(infer_s, until):
    said: list[str] = []
    walls = {"corpus": 1000.0, "features": 40.0, "infer": infer_s, "score": 1.0}
    smaller = [
        scale.Point(stage, times, 50 * times, StageRun(Path("out"), Path("obs"), wall_s * times / 10, 1.0, 1.0, 1))
        for times in (1, 10)
        for stage, wall_s in walls.items()
    ]
    assert scale.within(smaller, 100, "score", said.append) == until
    assert said == (
        [] if until == "score" else ["scale: 100 times the demo corpus only up to features: infer would take 700 s"]
    )
    assert scale.within(smaller, 100, "features", said.append) == "features"
    assert scale.within([], 1, "score", said.append) == "score"
