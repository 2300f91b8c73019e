"""Audits of an NPU's run on a machine without one: what needs the NPU is left open, never refuted and never proven."""

from __future__ import annotations

from pathlib import Path

import pytest
from auditing import verify_run

from repro.audit import speed_checks
from repro.audit.claims import PROVEN, REFUTED, UNVERIFIED, Outcome
from repro.audit.evidence import open_run
from repro.audit.rerun import Rerun, rerun
from repro.base.paths import Paths
from repro.display.console import Console
from repro.run.engine_choice import probe_all
from tests.integration._ascend import checkout, run
from tests.integration._runs import GOLDEN, store_of
from tests.simulators.ascend.host import AscendHost

OF_THE_NPU = {f"made:{stage}@8" for stage in ("convert", "infer", "measure", "compare")}


@pytest.fixture(scope="module")
def evidence(finished: Path, tmp_path_factory):
    """A run on the simulated NPU, read as an auditor reads it."""
    if not {engine.name: engine.usable for engine in probe_all(Paths.of_checkout({}))}["sandbox"]:
        pytest.skip("no sandbox here")
    paths = checkout(tmp_path_factory.mktemp("ascend"))
    store_of(finished, paths.artifacts)
    run(paths, AscendHost(), "sandbox", 8)
    return open_run(paths.runs / "latest", paths)


def test_what_needs_the_npu_could_not_be_verified_and_its_outputs_meet_the_vendors_thresholds(evidence, monkeypatch):
    monkeypatch.setattr(speed_checks, "MOST_TRIES", 1)  # nothing here looks at what they decide
    outcome = Outcome("rerun", "a run")
    rerun(outcome, evidence, Rerun(str(GOLDEN / "TIMIT"), engine="sandbox", rounds=10), Console())
    found = {claim.key: claim for claim in outcome.claims}
    assert outcome.of_status(REFUTED) == [], [claim.findings for claim in outcome.of_status(REFUTED)]
    unverified = {claim.key for claim in outcome.of_status(UNVERIFIED)}
    assert unverified >= {*OF_THE_NPU, "device", "same-environment"}
    assert unverified - {*OF_THE_NPU, "device", "same-environment"} <= {
        "speed-valid@8", "own-speed-valid@8", "no-caching@8", "no-shortcut@8", "made:probe:cann",
    }  # fmt: skip
    proven = {claim.key for claim in outcome.of_status(PROVEN)}
    assert {"made:corpus", "made:features", "made:batches@8", "made:export", "made:reference@8"} <= proven
    assert {"made:score@8", "figures"} <= proven  # of outputs that decode to the same symbols on either device
    evidence_of_outputs = " ".join(found["made:infer@8"].evidence)
    assert "cosine 1.000000" in evidence_of_outputs and "relative_euclidean" in evidence_of_outputs
    assert "cann: " in " ".join(found["same-environment"].findings)


def test_its_figures_are_attested_its_symbols_and_rates_proven(evidence):
    outcome = verify_run(evidence, GOLDEN / "TIMIT")
    assert outcome.of_status(REFUTED) == [], [claim.findings for claim in outcome.of_status(REFUTED)]
    status = {claim.key: claim.status for claim in outcome.claims}
    assert status["symbols@8"] == status["score@8"] == PROVEN
    assert status["speed@8"] == "attested"
