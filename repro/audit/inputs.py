"""Claims about what a run was made from: data set, labels, checkpoint, the archives of compiled layers."""

from __future__ import annotations

import os
from pathlib import Path

from repro.audit.claims import Examination, Outcome
from repro.audit.evidence import Evidence
from repro.audit.labels import examine_labels
from repro.audit.leaves import differences
from repro.base.errors import CouldNotVerify
from repro.base.files import sha256_bytes
from repro.base.toml import read_toml
from repro.graph.cache import StatCache
from repro.graph.sources import digest_source
from repro.images.archives import source_names
from repro.locks.archives import load_sources
from repro.record.document import CheckpointUsed, Data, Splits
from repro.record.stage_files import CorpusFile
from repro.run.inputs import DEMO, demo_checkpoint_path

_DEMO_DATA = "The demo corpus: synthetic speech in TIMIT's layout; its error rates say nothing about TIMIT."
_DEMO_CHECKPOINT = "The demo checkpoint: trained on the demo corpus; it is not the published model."


def examine_inputs(outcome: Outcome, evidence: Evidence, data: Path | None, checkpoint: Path | None) -> None:
    """Claims about the data set and the checkpoint; `data` and `checkpoint` are the user's, where they are here."""
    record = evidence.record
    demo = read_toml(evidence.paths.conf / "demo.toml")
    with outcome.examine("data", "what the record says of the data set is what the stage corpus found") as it:
        summary = evidence.read(evidence.stage("corpus"), "summary.json", CorpusFile)
        it.wrong += differences(record.data, _expected_data(evidence, summary), "data")
        it.evidence.append("corpus: summary.json, by digest")
    if record.stage("demo_corpus") is not None:
        with outcome.examine("demo-data", "the demo corpus is the one that the repository pins") as it:
            _examine_demo_corpus(it, evidence, demo["corpus"]["sha256"])
    else:
        with outcome.examine("data-bytes", "the data set here is the one that was used") as it:
            _examine_source(it, data, "data set", record.data.fingerprint, "--data")
    with outcome.examine("labels", "labels, classes and counts are those that the data set's .PHN files give") as it:
        examine_labels(it, evidence, data)
    pinned = demo["checkpoint"]["sha256"]
    found = record.checkpoint
    kind = DEMO if found.sha256 == pinned else "user"
    with outcome.examine("checkpoint", "what the record says of the checkpoint is what the repository pins") as it:
        note = _DEMO_CHECKPOINT if kind == DEMO else ""
        expected = CheckpointUsed(kind=kind, sha256=found.sha256, trust=found.trust, note=note)  # type: ignore[arg-type]
        it.wrong += differences(found, expected, "checkpoint")
        it.evidence.append(f"conf/demo.toml pins {pinned}")
    with outcome.examine("checkpoint-bytes", "the checkpoint here is the one that was used") as it:
        place = demo_checkpoint_path(evidence.paths) if kind == DEMO else checkpoint
        _examine_source(it, place, "checkpoint", found.sha256, "--checkpoint")


def _examine_source(it: Examination, place: Path | None, what: str, expected: str, option: str) -> None:
    if place is None or not place.exists():
        it.missing.append(f"the {what} is not here; give it with {option} (the record wants {expected})")
        return
    found = digest_source(place, StatCache(None), what)
    if found != expected:
        it.wrong.append(f"the {what} given has the digest {found}; the record says {expected}")
    it.evidence.append(f"{what}: {found}")


def _examine_demo_corpus(it: Examination, evidence: Evidence, pins: str | dict[str, str]) -> None:
    """The corpus's digest as conf/demo.toml states it: over `SHA256  PATH` lines in byte order of PATH."""
    architecture = evidence.record.host.architecture
    pinned = pins if isinstance(pins, str) else pins.get(architecture)
    if pinned is None:
        raise CouldNotVerify(f"conf/demo.toml pins no demo corpus for {architecture}")
    files = evidence.stage("demo_corpus").outputs.files
    lines = [f"{files[path].sha256}  {path}\n" for path in sorted(files, key=os.fsencode)]
    found = sha256_bytes("".join(lines).encode())
    if found != pinned:
        it.wrong.append(f"the demo corpus has the digest {found}; conf/demo.toml pins {pinned}")
    it.evidence.append(f"{len(files)} files: {found}")


def _expected_data(evidence: Evidence, summary: CorpusFile) -> Data:
    demo = evidence.record.stage("demo_corpus") is not None
    splits = summary.splits
    return Data(
        kind=DEMO if demo else "timit" if summary.timit.matches else "user",  # type: ignore[arg-type]
        fingerprint=evidence.stage("corpus").inputs["data"].digest,
        utterances=Splits(train=splits.train.utterances, dev=splits.dev.utterances, test=splits.test.utterances),
        phones=Splits(train=splits.train.phones, dev=splits.dev.phones, test=splits.test.phones),
        timit_counts_match=summary.timit.matches,
        timit_deviations=summary.timit.deviations,
        excluded=summary.excluded,
        note=_DEMO_DATA if demo else "",
    )


def examine_sources(outcome: Outcome, evidence: Evidence) -> None:
    """Archives known by first use alone have no digest to be held to here; which ones there are is known."""
    record, paths = evidence.record, evidence.paths
    with outcome.examine("sources", "compiled layers are made from the archives that conf/sources.toml names") as it:
        known = load_sources(paths.conf)
        listed = {item.name: item for item in record.sources}
        if len(listed) != len(record.sources):
            it.wrong.append("sources names an archive twice")
        expected = source_names(paths, record.images, record.host.architecture)
        it.wrong += differences(sorted(listed), sorted(expected), "sources")
        for name in sorted(set(listed) & set(known)):
            pinned, found = known[name], listed[name]
            if not pinned.first_use and found.digest != pinned.digest:
                it.wrong.append(f"sources: {name} is {found.digest}; conf/sources.toml has {pinned.digest}")
            licence = pinned.licence + (f", accepted by the user ({pinned.accept})" if pinned.accept else "")
            if (found.title, found.licence) != (pinned.title, licence):
                it.wrong.append(f"sources: title or licence of {name} are not those of conf/sources.toml")
        it.evidence.append(f"{len(expected)} archives")
