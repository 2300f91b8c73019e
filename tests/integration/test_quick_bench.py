"""The quick bench runs whole: for function, never for time."""

import json
from pathlib import Path

from _runs import copy_of, run, store_of

from repro.bench.run import AREAS, FULL_ONLY
from repro.machine import facts


def test_the_quick_bench_measures_every_area_and_writes_its_pages(finished: Path, tmp_path: Path):
    store_of(finished, tmp_path)  # the model, which the demo shares
    copy_of(finished, tmp_path / "bench" / "small")  # the run whose idle repetition is timed
    done = run(tmp_path, "bench")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "bench" / "latest"
    document = json.loads((folder / "bench.json").read_bytes())
    assert document["could_not"] == {}
    assert set(document["seconds"]) == set(AREAS) - set(FULL_ONLY)
    goals = {figure["goal"].split()[0] for figure in document["figures"]}
    assert {"1", "3", "4", "5", "6"} <= goals
    assert ("2" in goals) == facts.multiplies_bfloat16()  # elsewhere --precision bf16 is refused
    for figure in document["figures"]:
        assert figure["formula"], figure["name"]
    names = [(figure["goal"], figure["name"]) for figure in document["figures"]]
    assert len(names) == len(set(names))
    assert "<svg" in (folder / "bench.html").read_text(encoding="utf-8")
