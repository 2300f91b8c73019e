"""The audit of a bundle: its signature and every byte first, then each run that it carries, from those bytes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.audit.claims import ATTESTED, PROVEN, REFUTED, Examination, Outcome
from repro.audit.evidence import RECORD, Evidence, examine_record, record_digest
from repro.audit.verify import examine_run
from repro.base.errors import CouldNotVerify
from repro.base.files import sha256_file
from repro.base.paths import Paths
from repro.base.temporary import temporary_folder
from repro.machine.facts import architecture
from repro.packing.installer.listing import INSTALLED
from repro.packing.runs import RECEIVED
from repro.packing.verify import (
    NOBODY,
    BundleReport,
    Rebuilders,
    fingerprints,
    is_installed,
    verify_bundle,
    verify_installed,
    write_files,
)

_TRUSTED = ("pinned", "first use")


def is_run(path: Path) -> bool:
    """Whether a path is a run's folder or its record."""
    return path.name == RECORD or (path / RECORD).is_file()


@dataclass(frozen=True)
class Given:
    """What the auditor has beside the bundle.

    Attributes:
        data, checkpoint: as of `examine_run`.
        keys: fingerprints of keys to trust; none for those trusted on this machine.
        earlier: bundles or installed folders that a difference was made since.
        rebuilders: whose word on rebuilt images counts, and where statements beside the bundle lie.
        examine: what is done with each run; None to verify it.
    """

    data: Path | None = None
    checkpoint: Path | None = None
    keys: Sequence[str] = ()
    earlier: Sequence[Path] = ()
    rebuilders: Rebuilders = NOBODY
    examine: Callable[[Outcome, Evidence], None] | None = None


def verify_a_bundle(path: Path, scratch: Path, given: Given) -> Outcome:
    """Examine a bundle, and each run in it, against the bundle's own checkout.

    Args:
        path: a bundle's file, the first of its parts, or a folder that was installed from one.
        scratch: where a file's content is written while it is examined; nothing of it is run.
        given: keys, and what the bundle does not carry.

    Raises:
        UsageError: a key is no fingerprint.
    """
    keys = fingerprints(given.keys)
    outcome = Outcome("verify", f"bundle {path.resolve().name}")
    found: list[BundleReport] = []
    text = "every byte of the bundle is as its list says, nothing missing, no more"
    with outcome.examine("bundle-bytes", text) as it:
        if is_installed(path):
            report = verify_installed(path, keys, given.rebuilders)
        else:
            report = verify_bundle(path, keys, given.rebuilders)
        it.wrong += report.failures
        it.evidence.append(f"{report.files} files, {report.size_bytes} bytes; list sha256 {report.list_sha256}")
        it.evidence += [f"not covered by the list: {place}" for place in report.not_covered]
        it.read(f"list of {path.resolve().name}", report.list_sha256)
        found.append(report)
    if not found:
        if path.is_file():  # no list can be believed: the outcome is of the file as it lies there
            outcome.subjects[path.resolve().name] = sha256_file(path)
        return outcome
    report = found[0]
    outcome.subjects[f"list of {path.resolve().name}"] = report.list_sha256
    with outcome.examine("bundle-signature", "the bundle's list is signed by a key that is trusted here") as it:
        _examine_signature(it, report)
    signer = f"key {report.relied_on} ({report.trust})" if report.relied_on else "nobody: the bundle is not signed"
    outcome.fact("attested by", signer)
    if outcome.of_status(REFUTED):
        return outcome  # bytes that are not the listed ones are looked at no further
    _examine_statements(outcome, report, given.rebuilders)
    if is_installed(path):
        _examine_runs(outcome, report, path, given)
        return outcome
    with temporary_folder(scratch, "audit") as folder:
        tree = folder / "inside" / "tree"  # the folder itself is locked by this process
        with outcome.examine("bundle-files", "every listed file can be written as it is listed") as it:
            if report.about["base"] and not given.earlier:
                it.missing.append(
                    f"the bundle is a difference: give the one whose list has sha256 {report.about['base']}, or the "
                    "folder that was installed from it, with --base"
                )
            else:
                write_files(path, tree, given.earlier)
        if outcome.claims[-1].status != PROVEN:
            return outcome
        if given.examine is not None:
            _adopt(outcome, tree)
        _examine_runs(outcome, report, tree, given)
    return outcome


def _adopt(outcome: Outcome, tree: Path) -> None:
    """Claim: the layers are the images; from then on they count as built, so that a run in the bundle can run again."""
    from repro.packing.adopt import adopt_layers  # noqa: PLC0415 - Docker's client: 0.2 s

    with outcome.examine("bundle-images", "the bundle's layers make the images that it lists") as it:
        images = adopt_layers(Paths(tree), architecture())
        it.evidence += [f"{name}: {image.config_digest}" for name, image in sorted(images.items())]


def _examine_signature(it: Examination, report: BundleReport) -> None:
    if not report.relied_on:
        it.missing.append("nobody signed it")
    elif report.trust not in _TRUSTED:
        it.missing.append(
            f"it is signed by {report.relied_on}, which is not trusted on this machine: learn the fingerprint from the "
            "maker by another way, and give it with --key"
        )
    it.evidence.append(f"signer {report.relied_on or 'none'}, trust: {report.trust}")
    it.evidence += [f"the list is also signed by {key}" for key in report.also]


def _examine_statements(outcome: Outcome, report: BundleReport, rebuilders: Rebuilders) -> None:
    """Claims: what others signed; and that so many rebuilders confirm each image, where they are named."""
    if report.statements:
        text = "each statement that the bundle carries is signed, and none contradicts the bundle"
        with outcome.examine("statements", text, ATTESTED) as it:
            for statement in report.statements:
                said = f"{statement.result()}, " if statement.result() else ""
                it.evidence.append(f"{statement.name}: {said}signed by {statement.signer or 'nobody'}")
                it.read(f"statement {statement.name}", statement.sha256)
    if rebuilders.keys:
        text = f"each image is confirmed by {rebuilders.threshold} rebuilders"
        with outcome.examine("rebuilders", text, ATTESTED) as it:
            it.evidence += [item.sentence() for item in report.rebuilt]
            rebuilders.insist(report)


def _examine_runs(outcome: Outcome, report: BundleReport, root: Path, given: Given) -> None:
    paths = Paths(root)
    runs = sorted(folder.parent for folder in (root / RECEIVED).glob(f"*/{RECORD}"))
    with outcome.examine("runs", "the bundle carries a run that can be audited") as it:
        if not runs:
            raise CouldNotVerify("it carries none: its maker packs one with --run")
        for run in runs:
            if f"{INSTALLED}{RECEIVED}/{run.name}/{RECORD}" not in report.entries:
                it.wrong.append(f"run {run.name} lies beside the signed ones, and the list does not name it")
        it.evidence += [f"run {run.name}" for run in runs]
    if outcome.of_status(REFUTED):
        return
    for run in runs:
        examined = Outcome(outcome.kind, outcome.subject)
        outcome.subjects[f"{run.name}/{RECORD}"] = record_digest(run)
        evidence = examine_record(examined, run, paths, f"run {run.name}")
        if evidence is not None and given.examine is not None:
            given.examine(examined, evidence)
        elif evidence is not None:
            examine_run(examined, evidence, given.data, given.checkpoint)
        outcome.looked_at.update({f"{run.name}: {name}": sha256 for name, sha256 in examined.looked_at.items()})
        outcome.facts += [(f"{run.name}: {name}", value) for name, value in examined.facts]
        outcome.claims += [replace(claim, key=f"{run.name}: {claim.key}") for claim in examined.claims]
