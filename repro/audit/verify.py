"""`invoke audit.verify`: a run proven or refuted from its bytes, claim by claim; nothing that it says is believed."""

from __future__ import annotations

from pathlib import Path

from repro.audit.claims import Outcome
from repro.audit.evidence import RECEIVED, RECORD, Evidence
from repro.audit.images import examine_images
from repro.audit.inputs import examine_inputs, examine_sources
from repro.audit.judgement import REPORTS, examine_judgement
from repro.audit.leaves import differences
from repro.audit.results import examine_results
from repro.audit.stages import examine_code, examine_graph, examine_stages
from repro.base import confined
from repro.record.document import Record
from repro.record.identity import identity_of
from repro.report.crate import METADATA, WORKFLOW

# What `reproduce` writes into a run's folder, and `bundle.pack` beside a run that it carries.
_CONTENTS = "contents.json"
_KNOWN_FILES = {RECORD, *REPORTS, METADATA, WORKFLOW, _CONTENTS}


def examine_run(outcome: Outcome, evidence: Evidence, data: Path | None, checkpoint: Path | None) -> None:
    """Add every claim of a run to an outcome.

    Args:
        outcome: gets the claims.
        evidence: the run, and the checkout that it is held against.
        data: the user's data set, if it is here; the demo's needs none.
        checkpoint: likewise.
    """
    _add_facts(outcome, evidence.record)
    with outcome.examine("identity", "the record's identity is the digest of what it names") as it:
        identity = identity_of(evidence.record)
        it.wrong += differences(evidence.record.identity, identity, "identity")
        it.evidence.append(f"identity {identity.sha256}")
    _examine_folder(outcome, evidence)
    nodes = examine_graph(outcome, evidence)
    examine_stages(outcome, evidence, nodes)
    examine_code(outcome, evidence)
    examine_inputs(outcome, evidence, data, checkpoint)
    examine_images(outcome, evidence)
    examine_sources(outcome, evidence)
    examine_results(outcome, evidence)
    examine_judgement(outcome, evidence)


def _add_facts(outcome: Outcome, record: Record) -> None:
    outcome.fact("record's identity", record.identity.sha256)
    outcome.fact("verdict claimed", record.verdict.outcome)
    outcome.fact("data", f"{record.data.kind}, {record.data.fingerprint}")
    outcome.fact("checkpoint", f"{record.checkpoint.kind}, {record.checkpoint.sha256}")
    outcome.fact("batch sizes", ", ".join(str(size) for size in record.request.batch_sizes))
    outcome.fact("made on", f"{record.host.cpu}, {record.engine.name}")


def _examine_folder(outcome: Outcome, evidence: Evidence) -> None:
    """Claim: nothing lies in the run's folder that nothing names."""
    with outcome.examine("folder", "the run's folder holds what a run writes, and nothing else") as it:
        tree = confined.list_tree(evidence.run)
        for path in sorted({path for path in tree.files if "/" not in path} - _KNOWN_FILES):
            it.wrong.append(f"{path} lies beside the record, and nothing names it")
        for path in sorted({path for path in tree.folders if "/" not in path} - {RECEIVED}):
            it.wrong.append(f"the folder {path} lies beside the record, and no run writes it")
        received = {stage.key.replace(":", "-") for stage in evidence.record.stages}
        inside = {path.split("/")[1] for path in (*tree.files, *tree.folders) if path.startswith(f"{RECEIVED}/")}
        for name in sorted(inside):
            if name not in received or f"{RECEIVED}/{name}" in tree.files:
                it.wrong.append(f"{RECEIVED}/{name} is the result of no stage of the record")
        if _CONTENTS in tree.files:
            it.open_to.append(f"another {_CONTENTS}: no claim reads it; in a bundle, the signed list vouches for it")
        it.evidence.append(f"{len(tree.files)} files")
