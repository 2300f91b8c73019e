"""Claims about what was concluded: toolchain, verdict, formulas, reports, crate; and what only the runner saw."""

from __future__ import annotations

import os

import msgspec

from repro.audit import times
from repro.audit.claims import ATTESTED, Examination, Outcome
from repro.audit.evidence import Evidence, digest_below
from repro.audit.leaves import differences, is_observation, leaves
from repro.base.errors import CouldNotVerify
from repro.base.files import sha256_bytes, sha256_file
from repro.guide import toolchain
from repro.guide.conditions import is_excepted
from repro.guide.published import Published, load_published
from repro.guide.verdict import verdict
from repro.record.stage_files import ProbeFile
from repro.report.crate import METADATA, WORKFLOW, crate_files, described_files
from repro.report.writer import render_html, render_markdown
from repro.run import record as records

REPORTS = ("report.md", "report.html")  # what a crate describes beside the record


def examine_judgement(outcome: Outcome, evidence: Evidence) -> None:
    """Add the claims; see the module."""
    record, paths = evidence.record, evidence.paths
    table = load_published(paths.conf / "published.toml")
    with outcome.examine("toolchain", "the toolchain is what the probes found in the images") as it:
        _examine_toolchain(it, evidence, table)
    with outcome.examine("verdict", "the verdict follows from the published table") as it:
        expected = verdict(record, table)
        it.wrong += differences(record.verdict, expected, "verdict")
        it.read("conf/published.toml", sha256_file(paths.conf / "published.toml"))
        it.evidence.append(f"recomputed: {expected.outcome}; conf/published.toml sha256 "
                           f"{sha256_file(paths.conf / 'published.toml')}")  # fmt: skip
    with outcome.examine("formulas", "the record states the formulas and units of its metrics") as it:
        it.wrong += differences(record.metrics, records.METRICS, "metrics")
        it.evidence.append(f"{len(records.METRICS)} metrics")
    with outcome.examine("reports", "report.md and report.html say what the record says") as it:
        _examine_reports(it, evidence)
    if any(os.path.lexists(evidence.run / name) for name in (METADATA, WORKFLOW)):  # one alone is no crate
        with outcome.examine("crate", "the run's RO-Crate says what the record says") as it:
            _examine_crate(it, evidence)
    text = "times, host and engine were observed as the record says, and the times do not contradict each other"
    with outcome.examine("observations", text, ATTESTED) as it:
        times.examine_spans(it, evidence)
        observed = [path for path, _ in leaves(msgspec.to_builtins(record)) if is_observation(path)]
        it.evidence.append(f"{len(observed)} values that only the machine of the run could see")
        it.open_to.append("another host, engine or time than the true one: nobody can find that in a file")


def _examine_toolchain(it: Examination, evidence: Evidence, table: Published) -> None:
    record, paths = evidence.record, evidence.paths
    probes = {name: evidence.read(evidence.stage(f"probe:{name}"), "probe.json", ProbeFile) for name in record.images}
    host = {name: str(value) for name, value in msgspec.to_builtins(record.host).items()}
    rows = toolchain.compare(toolchain.load_components(paths.conf), probes, host)
    it.wrong += differences(record.toolchain, rows, "toolchain")
    asked = record.request
    name = toolchain.name_of(
        asked.pinned or (), asked.cann or "", rows, lambda row: is_excepted(row, record.host, table)
    )
    if record.request.toolchain != name:
        it.wrong.append(f"request.toolchain is {record.request.toolchain!r}; recomputed: {name!r}")
    if any(row.found and row.probe.endswith(" in this host") for row in record.toolchain):
        it.kind = ATTESTED
        it.evidence.append("driver, firmware and chip are attested by the run")
    it.evidence.append(f"{len(rows)} components of conf/compatibility.toml, {len(probes)} probes by digest")


def _examine_reports(it: Examination, evidence: Evidence) -> None:
    made = {
        "report.md": render_markdown(evidence.record).encode(),
        "report.html": render_html(evidence.record).encode(),
    }
    _hold(it, evidence, made, "the record gives when it is drawn again")


def _examine_crate(it: Examination, evidence: Evidence) -> None:
    """A report that is missing is a matter of the claim before: the crate is made of both."""
    missing = [name for name in REPORTS if not (evidence.run / name).is_file()]
    if missing:
        raise CouldNotVerify(f"{', '.join(missing)} is not here, and the crate describes it")
    made = crate_files(evidence.record, described_files(evidence.run))
    _hold(it, evidence, made, "record and reports give when it is made again")


def _hold(it: Examination, evidence: Evidence, made: dict[str, bytes], what: str) -> None:
    for name, data in sorted(made.items()):
        try:
            found = digest_below(evidence.run, name)
        except FileNotFoundError:
            it.missing.append(f"{name} is not here")
            continue
        if found.sha256 != sha256_bytes(data):
            it.wrong.append(f"{name} is not what {what}")
        it.evidence.append(f"{name} made again: sha256 {sha256_bytes(data)}")
