"""An audit of a run as one call that returns its outcome."""

from __future__ import annotations

from pathlib import Path

from repro.audit.claims import Outcome
from repro.audit.evidence import Evidence
from repro.audit.verify import examine_run


def verify_run(evidence: Evidence, data: Path | None = None, checkpoint: Path | None = None) -> Outcome:
    """Examine every claim of a run; `data` and `checkpoint` are the user's, if they are here."""
    outcome = Outcome("verify", f"record.json sha256 {evidence.sha256}")
    examine_run(outcome, evidence, data, checkpoint)
    return outcome
