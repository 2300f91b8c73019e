"""Forged and malformed runs: what a forger changes, how he makes everything else fit, and which command finds it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _audit_cases import PATHS, RUN, SIZE, document_of, reopen, stage_of, stored
from _record_cases import identify

from repro.base.errors import VerificationFailed
from repro.base.files import pretty_json, sha256_bytes
from repro.graph.digests import FileDigest, digest_of_files
from repro.graph.store import fingerprint_of
from repro.guide import toolchain
from repro.guide.published import load_published
from repro.guide.verdict import verdict
from repro.record import Record, read_record, record_bytes
from repro.record.stage_files import ProbeFile, SustainedFile
from repro.report import write_report
from repro.run.record import sustained

VERIFY, RERUN, NOBODY = "verify", "rerun", "nobody"
Change = Callable[[Path], None]


@dataclass(frozen=True)
class Forgery:
    """A changed run.

    Attributes:
        found_by: the command that finds it, VERIFY or RERUN; NOBODY for what no command can find.
        claims: those that must not hold, by key (of RERUN: that of the comparison with a sound rerun).
    """

    name: str
    change: Change
    found_by: str
    claims: frozenset[str] = frozenset()


# ---- making everything fit


def settle(folder: Path) -> None:
    """Make digests, fingerprints, record, verdict, identity and reports fit what lies in the store."""
    document = document_of(reopen(folder))
    store, digests = folder / "results" / "store", {}
    for stage in document["stages"]:
        _settle_stage(store, stage, digests)
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        _settle_figures(store, document)
    identify(document)
    run = folder / "results" / "runs" / RUN
    (run / "record.json").write_bytes(json.dumps(document, sort_keys=True).encode())  # NaN too, as a forger may
    with contextlib.suppress(VerificationFailed):
        record = read_record((run / "record.json").read_bytes())
        judged = record.judged(verdict(record, load_published(PATHS.conf / "published.toml")))
        (run / "record.json").write_bytes(record_bytes(judged))
        write_report(judged, run)


def _settle_stage(store: Path, stage, digests) -> None:
    old = store / stage["fingerprint"][:2] / stage["fingerprint"]
    files = _digests(old / "out")
    stage["outputs"] = {
        "digest": digest_of_files(files),
        "files": {name: {"sha256": f.sha256, "size_bytes": f.size_bytes} for name, f in files.items()},
    }
    digests[stage["key"]] = stage["outputs"]["digest"]
    for entry in stage["inputs"].values():
        entry["digest"] = digests.get(entry["from"], entry["digest"])
    stage["observations"]["files"] = {name: f.sha256 for name, f in _digests(old / "obs").items()}
    try:
        told = json.loads((old / "result.json").read_bytes())
        told["key"].update(
            inputs={name: entry["digest"] for name, entry in stage["inputs"].items()},
            image=stage["image"], code=stage["code"], argv=stage["argv"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    told.update(outputs=stage["outputs"]["files"], observations=stage["observations"])
    (old / "result.json").write_bytes(pretty_json(told))
    stage["fingerprint"] = fingerprint_of(told["key"])
    new = store / stage["fingerprint"][:2] / stage["fingerprint"]
    new.parent.mkdir(parents=True, exist_ok=True)
    old.rename(new)


def _digests(folder: Path) -> dict[str, FileDigest]:
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                found[path.relative_to(folder).as_posix()] = FileDigest(sha256_bytes(data), len(data))
    return found


def _settle_figures(store: Path, document) -> None:
    def out(key: str, name: str, part: str = "out"):
        fingerprint = stage_of(document, key)["fingerprint"]
        return json.loads((store / fingerprint[:2] / fingerprint / part / name).read_bytes())

    probes = {
        name: msgspec.convert(out(f"probe:{name}", "probe.json"), ProbeFile) for name in document["images"]
    }  # fmt: skip
    rows = toolchain.compare(toolchain.load_components(PATHS.conf), probes, document["host"])
    document["toolchain"] = json.loads(msgspec.json.encode(rows))
    summary, result = out("corpus", "summary.json"), document["results"][0]
    splits = summary["splits"]
    document["data"].update(
        utterances={name: splits[name]["utterances"] for name in splits},
        phones={name: splits[name]["phones"] for name in splits},
        excluded=summary["excluded"],
        timit_counts_match=summary["timit"]["matches"],
        timit_deviations=summary["timit"]["deviations"],
        kind="timit" if summary["timit"]["matches"] else "user",
    )
    document["request"]["data"] = document["data"]["kind"]
    score = out(f"score@{SIZE}", "score.json")
    measured = out(f"measure@{SIZE}", "measure.json", "obs")
    result.update(
        published=score["protocols"]["published"], complete=score["protocols"]["complete"], decode=score["decode"],
        excluded=out(f"batches@{SIZE}", "manifest.json")["excluded"], comparison=out(f"compare@{SIZE}", "compare.json"),
        latency_ms=measured.pop("latency_ms"), throughput_utterances_per_s=measured["throughput_utterances_per_s"],
    )  # fmt: skip
    measured.pop("times_ms")
    result["measured"] = measured
    whole = msgspec.convert(out(f"measure@{SIZE}", "sustained.json", "obs"), SustainedFile)
    result["sustained"] = msgspec.to_builtins(sustained(whole))


# ---- single changes


def of_file(key: str, name: str, change: Callable[[bytes], bytes], part: str = "out", *, fit: bool = True) -> Change:
    """Change one file of a stage; with `fit`, everything else is made to fit it."""

    def forge(folder: Path) -> None:
        path = stored(folder, key) / part / name
        path.write_bytes(change(path.read_bytes()))
        if fit:
            settle(folder)

    return forge


def of_json(key: str, name: str, change: Callable[[Any], object], part: str = "out") -> Change:
    """Change one JSON file of a stage, and make everything else fit."""

    def rewrite(data: bytes) -> bytes:
        document = json.loads(data)
        change(document)
        return pretty_json(document)

    return of_file(key, name, rewrite, part)


def of_record(change: Callable[[Any], object], *, fit: bool = True) -> Change:
    """Change the record; with `fit`, its identity and reports are made to fit."""

    def forge(folder: Path) -> None:
        evidence = reopen(folder)
        document = document_of(evidence)
        change(document)
        if fit:
            identify(document)
        (evidence.run / "record.json").write_bytes(json.dumps(document, ensure_ascii=True).encode())
        if fit:
            write_report(msgspec.convert(document, Record), evidence.run)

    return forge


# ---- malformed stage files

_BREAKERS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "an empty object": lambda _: b"{}",
    "a list": lambda _: b"[]",
    "null": lambda _: b"null",
    "cut": lambda data: data[: len(data) // 2],
    "not UTF-8": lambda data: data[:20] + b"\xff\xfe" + data[20:],
    "NaN": lambda data: _first_number(data, b"NaN"),
    "1e999": lambda data: _first_number(data, b"1e999"),
    "-1": lambda data: _first_number(data, b"-1"),
    "a text for a number": lambda data: _first_number(data, b'"1"'),
    "a number of 5,000 digits": lambda data: _first_number(data, b"9" * 5000),
    "half a surrogate pair": lambda data: data.replace(b'": ', b'\\ud800": ', 1),
    "a member that is not known": lambda data: data.replace(b"{", b'{"invented": 1, ', 1),
    "a member twice": lambda data: data.replace(b"{", b'{"batch_size": 4, "batch_size": 4, ', 1),
    "nested 3,000 deep": lambda _: b'{"a": ' * 3000 + b"1" + b"}" * 3000,
}


_OF_NUMBERS = ("NaN", "1e999", "-1", "a text for a number", "a number of 5,000 digits")


def _first_number(data: bytes, text: bytes) -> bytes:
    import re

    return re.sub(rb"(?<=[:\[] )-?\d+(\.\d+)?(e-?\d+)?", lambda _: text, data, count=1)


JSON_FILES = (
    ("corpus", "summary.json", "out"), (f"batches@{SIZE}", "manifest.json", "out"),
    (f"score@{SIZE}", "score.json", "out"), (f"measure@{SIZE}", "measure.json", "obs"),
    (f"measure@{SIZE}", "sustained.json", "obs"), (f"measure@{SIZE}", "summary.json", "out"),
    (f"compare@{SIZE}", "compare.json", "out"), (f"infer@{SIZE}", "result_summary.json", "obs"),
    ("probe:base", "probe.json", "out"), ("corpus", "result.json", "."),
)  # fmt: skip


def _npy(values, **options) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


def malformed_stage_files() -> Iterator[Forgery]:
    """Files that no stage writes, each in a run in which all digests fit them."""
    for key, name, part in JSON_FILES:
        for what, breaker in _BREAKERS.items():
            if name == "probe.json" and what in _OF_NUMBERS:
                continue  # it holds none
            fit = name != "result.json"
            yield Forgery(f"{key}: {name}: {what}", of_file(key, name, breaker, part, fit=fit), VERIFY)
    arrays = {
        "NaN": _npy(np.full((195, SIZE, 41), np.nan, "<f4")),
        "infinite": _npy(np.full((195, SIZE, 41), np.inf, "<f4")),
        "no logarithms": _npy(np.full((195, SIZE, 41), 1e30, "<f4")),
        "float64": _npy(np.zeros((195, SIZE, 41))),
        "another shape": _npy(np.zeros((195, SIZE, 40), "<f4")),
        "an absurd shape": _npy(np.zeros(4, "<f4")).replace(b"(4,)", b"(9999999, 9999999,)"),
        "a pickle": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        + b" " * 60
        + b"\n",
        "a header of brackets": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        "empty": b"",
    }
    for key in (f"infer@{SIZE}", f"reference@{SIZE}"):
        for what, data in arrays.items():
            change = of_file(key, "result/inputs_1_0.npy", lambda _, data=data: data)
            yield Forgery(f"{key}: outputs: {what}", change, VERIFY)
    for name, what, change in (
        ("units", "empty", lambda _: b""),
        ("units", "a phone twice", lambda data: data + b"aa\n"),
        ("units", "one less", lambda data: data[3:]),
        ("units", "not UTF-8", lambda _: b"\xff\n"),
        ("dev/phn_text", "empty", lambda _: b""),
        ("dev/phn_text", "an utterance twice", lambda data: data + data),
        ("dev/phn_text", "an utterance less", lambda data: data.partition(b"\n")[2]),
        ("dev/phn_text", "not UTF-8", lambda data: b"\xff" + data),
    ):
        yield Forgery(f"corpus: {name}: {what}", of_file("corpus", name, change), VERIFY)
    for what, change in (
        ("empty", lambda _: b""),
        ("a line cut", lambda data: data[:-30]),
        ("a line less", lambda data: data[: data.rstrip().rindex(b"\n") + 1]),
        ("NaN", lambda data: data.replace(b'"phones": 8', b'"phones": NaN')),
        ("a blank line", lambda data: b"\n" + data),
    ):  # fmt: skip
        change = of_file(f"score@{SIZE}", "utterances.jsonl", change)
        yield Forgery(f"score: utterances.jsonl: {what}", change, VERIFY)


def odd_entries() -> Iterator[Forgery]:
    """What no list names, and what is no plain file."""

    def put(place: str, key: str = "corpus") -> Change:
        def forge(folder: Path) -> None:
            path = stored(folder, key) / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")

        return forge

    def in_place_of(make: Callable[[Path], None], key: str = "corpus", name: str = "out/units") -> Change:
        def forge(folder: Path) -> None:
            path = stored(folder, key) / name
            path.unlink()
            make(path)

        return forge

    for place in ("out/extra", "obs/extra", "extra", "code/extra.py", "out/a/b/c"):
        yield Forgery(f"an extra file {place} in a stored result", put(place), VERIFY, frozenset({"stage:corpus"}))
    for what, make in (
        ("a link to /etc/passwd", lambda path: path.symlink_to("/etc/passwd")),
        ("a link to itself", lambda path: path.symlink_to(path.name)),
        ("a FIFO", lambda path: os.mkfifo(path)),
        ("a folder", lambda path: path.mkdir()),
    ):
        for name in ("out/units", "result.json"):
            yield Forgery(f"{name} is {what}", in_place_of(make, name=name), VERIFY, frozenset({"stage:corpus"}))

    def beside(name: str) -> Change:
        return lambda folder: (reopen(folder).run / name).write_bytes(b"x") and None

    for name in ("requests.py", "record.json.bak", ".hidden"):
        yield Forgery(f"{name} beside the record", beside(name), VERIFY, frozenset({"folder"}))

    def received(folder: Path) -> None:
        evidence = reopen(folder)
        for stage in evidence.record.stages:
            shutil.copytree(stored(folder, stage.key), evidence.run / "r" / stage.key.replace(":", "-"))
        (evidence.run / "r" / "invented").mkdir()
        (evidence.run / "r").rename(evidence.run / "results")

    yield Forgery("a result of no stage in a received run", received, VERIFY, frozenset({"folder"}))


# ---- malformed records


def malformed_records(original) -> Iterator[Forgery]:
    """Records that are none: each must be a finding with its place."""

    def raw(change: Callable[[bytes], bytes]) -> Change:
        def forge(folder: Path) -> None:
            path = reopen(folder).run / "record.json"
            path.write_bytes(change(path.read_bytes()))

        return forge

    schema = frozenset({"schema"})
    for what, breaker in _BREAKERS.items():
        yield Forgery(f"record: {what}", raw(breaker), VERIFY, schema)
    for member in sorted(original):
        yield Forgery(
            f"record: {member} is missing", of_record(lambda d, m=member: d.pop(m), fit=False), VERIFY, schema
        )
        for what, value in (("null", None), ("a text", "x"), ("a list of lists", [[1]])):
            change = of_record(lambda d, m=member, v=value: d.update({m: v}), fit=False)
            yield Forgery(f"record: {member} is {what}", change, VERIFY, schema)
    places = [("request",), ("checkpoint",), ("results", 0), ("results", 0, "complete"), ("stages", 0),
              ("stages", 0, "outputs"), ("stages", 0, "observations"), ("host",), ("engine",), ("verdict",),
              ("observations",), ("image_layers", "base", 0), ("data",), ("identity",)]  # fmt: skip
    for place in places:

        def invent(document, place=place):
            for step in place:
                document = document[step]
            document["invented"] = 1

        yield Forgery(f"record: an invented member in {place}", of_record(invent, fit=False), VERIFY, schema)
    for name in ("/etc/hostname", "../../etc/passwd", "a/../../b", "", "a//b", "./a"):

        def rename(document, name=name):
            files = stage_of(document, "corpus")["outputs"]["files"]
            files[name] = files.pop("units")

        yield Forgery(f"record: an output named {name!r}", of_record(rename, fit=False), VERIFY)


# ---- lies that fit


def _lines(change: Callable[[list], None]) -> Callable[[bytes], bytes]:
    def rewrite(data: bytes) -> bytes:
        lines = [json.loads(line) for line in data.splitlines()]
        change(lines)
        return b"".join(json.dumps(line, sort_keys=True).encode() + b"\n" for line in lines)

    return rewrite


def _perfect(folder: Path, keys: tuple[str, ...]) -> None:
    """Outputs that decode to the labels, in every stage of `keys`; scores and agreement made from them."""
    from _audit_cases import UNITS, _Speech

    from stages.formats import bins  # noqa: F401 - the stage score is run below as it is

    speech = _Speech()
    for entry in speech.entries:
        values = speech.batches[entry["batch"]]
        values[:, entry["row"]] = -9.0
        values[:, entry["row"], 0] = -0.5
        for at, phone in enumerate(speech.labels[entry["id"]]):
            values[3 * at + 1, entry["row"], 2 + UNITS.index(phone)] = -0.1
    for key in keys:
        by = 1e-6 if key.startswith("reference") else 0.0
        for name, data in speech.arrays(by).items():
            (stored(folder, key) / "out" / name).write_bytes(data)
    for name, data in speech.score("Greedy").items():
        (stored(folder, f"score@{SIZE}") / "out" / name).write_bytes(data)
    if len(keys) == 2:
        (stored(folder, f"compare@{SIZE}") / "out" / "compare.json").write_bytes(pretty_json(speech.compare()))
    settle(folder)


def _exclude(document: Any) -> None:
    document["excluded"].append({"utterance": "FAKS0_SX1", "reason": "x"})


def lies() -> Iterator[Forgery]:
    """Runs in which everything that a forger can make fit fits."""
    infer, score, measure = f"infer@{SIZE}", f"score@{SIZE}", f"measure@{SIZE}"

    def fast(document):
        document["times_ms"] = [value * 0.875 for value in document["times_ms"]]
        for name in document["latency_ms"]:
            document["latency_ms"][name] *= 0.875
        for figures in (document, *document.get("each", ())):
            figures["throughput_utterances_per_s"] /= 0.875

    def both(folder: Path) -> None:
        for name in ("measure.json", "sustained.json"):
            path = stored(folder, measure) / "obs" / name
            document = json.loads(path.read_bytes())
            fast(document)
            path.write_bytes(pretty_json(document))
        settle(folder)

    def probe(name: str, **members) -> Change:
        return of_json(f"probe:{name}", "probe.json", lambda document: document.update(members))

    def shorter(document):
        stage_of(document, measure)["observations"]["wall_s"] = 1.0

    def walls(folder: Path) -> None:
        of_record(shorter, fit=False)(folder)
        settle(folder)

    def labels_as_heard(folder: Path) -> None:
        lines = (stored(folder, score) / "out" / "utterances.jsonl").read_bytes().splitlines()
        heard = {line["id"]: line["complete"]["hypothesis"] for line in map(json.loads, lines)}
        from _audit_cases import _Speech

        speech = _Speech()
        speech.labels = {name: heard[name].split() for name in speech.labels}
        (stored(folder, "corpus") / "out" / "dev" / "phn_text").write_bytes(speech.phn_text())
        for name, data in speech.score("Greedy").items():
            (stored(folder, score) / "out" / name).write_bytes(data)
        settle(folder)

    def dropped(document):
        document["utterances"].pop()

    verify = (
        ("infer alone made perfect", lambda f: _perfect(f, (infer,)), f"outputs-agree@{SIZE}"),
        ("labels set to what was heard", labels_as_heard, "labels"),
        ("a hard utterance dropped from the manifest", of_json(f"batches@{SIZE}", "manifest.json", dropped),
         f"score@{SIZE}"),
        ("a probe that says Python 3.7.5", probe("exporter", python="3.7.5"), "probe:exporter"),
        ("a probe that says another glibc", probe("base", glibc="2.17"), "probe:base"),
        ("a probe that says another PyTorch", probe("exporter", wheels={"torch": "1.8.0"}), "probe:exporter"),
        ("a probe that leaves a package out", probe("base", debs={}), "probe:base"),
        ("times of 12 s in a stage of 1 s", walls, f"speed@{SIZE}"),
        ("the first loop faster than all loops", of_json(measure, "measure.json", fast, "obs"), f"speed@{SIZE}"),
        ("another model timed", of_json(measure, "summary.json", lambda d: d.update(model_sha256="0" * 64)),
         f"speed@{SIZE}"),
        ("fewer executions than asked", of_json(measure, "measure.json", lambda d: d["times_ms"].pop(), "obs"),
         f"speed@{SIZE}"),
        ("an agreement that is not that of the outputs",
         of_json(f"compare@{SIZE}", "compare.json", lambda d: d["torch_converted"].update(max_abs=0.0)),
         f"outputs-agree@{SIZE}"),
        ("figures of ONNX that the others deny",
         of_json(f"compare@{SIZE}", "compare.json",
                 lambda d: [d[pair].update(max_abs=0.0, rmse=0.0) for pair in ("torch_onnx", "onnx_converted")]),
         f"outputs-agree@{SIZE}"),
        ("thresholds ten times as wide",
         of_json(f"compare@{SIZE}", "compare.json", lambda d: d["thresholds"]["at_most"].update(kl=0.05)),
         f"outputs-agree@{SIZE}"),
        ("counts that call themselves TIMIT's",
         of_json("corpus", "summary.json", lambda d: d["timit"].update(matches=True, deviations=[])), "labels"),
        ("an utterance excluded that is there", of_json("corpus", "summary.json", _exclude), "labels"),
        ("an exclusion that score.json alone tells", of_json(score, "score.json", _exclude), f"score@{SIZE}"),
        ("an exclusion that the results alone tell", of_record(lambda d: _exclude(d["results"][0])), f"score@{SIZE}"),
        ("an exclusion that the data alone tell", of_record(lambda d: _exclude(d["data"])), "data"),
        ("classes in another order",
         of_file("corpus", "units", lambda data: b"\n".join(sorted(data.split(), reverse=True)) + b"\n"), "labels"),
        ("a hypothesis that was not heard",
         of_file(score, "utterances.jsonl", _lines(lambda ls: ls[3]["complete"].update(hypothesis=ls[3]["reference"]))),
         f"symbols@{SIZE}"),
        ("edits fewer than there are",
         of_json(score, "score.json", lambda d: d["protocols"]["complete"]["edits"].update(wer=0)), f"rates@{SIZE}"),
    )  # fmt: skip
    for name, change, claim in verify:
        yield Forgery(name, change, VERIFY, frozenset({claim}))
    rerun = (
        ("infer and reference made perfect together", lambda f: _perfect(f, (infer, f"reference@{SIZE}")), infer),
        ("features of other speech", of_file("features", "dev/fbank.ark", lambda data: data[:-1] + b"\x40"),
         "features"),
        ("statistics of other speech",
         of_file("features", "global_fbank_cmvn.txt", lambda data: data.replace(b"2400000", b"2500000")), "features"),
        ("model inputs of other features", of_file(f"batches@{SIZE}", "bins/inputs_0.bin", lambda _: b"\1" * 16),
         f"batches@{SIZE}"),
        ("a network with other weights", of_file("export", "lstm_ctc.onnx", lambda _: b"another"), "export"),
    )  # fmt: skip
    for name, change, key in rerun:
        yield Forgery(name, change, RERUN, frozenset({f"made:{key}"}))
    yield Forgery("all times an eighth shorter", both, NOBODY)
    for member, value in (("cpu", "Kunpeng 920"), ("os", "openEuler"), ("kernel", "5.10"), ("python", "3.7.5"),
                          ("memory_bytes", 1)):  # fmt: skip
        change = of_record(lambda d, m=member, v=value: d["host"].update({m: v}))
        yield Forgery(f"another host: {member}", change, NOBODY)
    yield Forgery("another engine", of_record(lambda d: d["engine"].update(name="docker")), NOBODY)
    yield Forgery(
        "another day", of_record(lambda d: d["observations"].update(started_at="2026-01-01T00:00:00Z")), NOBODY
    )


def tampered_images() -> Iterator[Forgery]:
    """Layers whose bytes are others than the record's."""

    def of_layer(image: str, number: int, change: Callable[[bytes], bytes]) -> Change:
        def forge(folder: Path) -> None:
            evidence = reopen(folder)
            path = evidence.blobs / evidence.record.image_layers[image][number].diff_id[7:]
            path.write_bytes(change(path.read_bytes()))

        return forge

    def swapped(folder: Path) -> None:
        evidence = reopen(folder)
        one, two = (evidence.blobs / layer.diff_id[7:] for layer in evidence.record.image_layers["features"][:2])
        data = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(data)

    for image, number, name in (("base", 0, "debs:base"), ("features", 2, "wheels:features"),
                                ("exporter", 1, "wheels:exporter")):  # fmt: skip
        claim = frozenset({f"layer:{name}"})
        for what, change in (
            ("a byte of the same size", lambda data: data[:600] + bytes([data[600] ^ 1]) + data[601:]),
            ("cut", lambda data: data[:-512]), ("longer", lambda data: data + b"\0" * 512), ("empty", lambda _: b""),
        ):  # fmt: skip
            yield Forgery(f"layer {name}: {what}", of_layer(image, number, change), VERIFY, claim)
    yield Forgery("two layers swapped", swapped, VERIFY, frozenset({"layer:debs:base"}))
    for member, value in (("made_from", "sha256:" + "1" * 64), ("size_bytes", 1), ("kind", "files")):
        change = of_record(lambda d, m=member, v=value: d["image_layers"]["base"][0].update({m: v}))
        yield Forgery(f"a layer with another {member}", change, VERIFY)
    yield Forgery(
        "another manifest", of_record(lambda d: d["image_manifests"].update(base="sha256:" + "0" * 64)), VERIFY
    )
    yield Forgery("another image",
                  of_record(lambda d: d["images"].update(base="sha256:" + "0" * 64)), VERIFY)  # fmt: skip


def other_code() -> Iterator[Forgery]:
    """Code or configuration that is not the checkout's: left open, never proven."""
    for key in ("corpus", "features", f"infer@{SIZE}", f"score@{SIZE}"):

        def change(folder: Path, key=key) -> None:
            of_record(lambda d: stage_of(d, key).update(code="0" * 64), fit=False)(folder)
            settle(folder)

        yield Forgery(f"{key} ran other code", change, VERIFY, frozenset({"code"}))


def other_leaf(value, chance: random.Random):
    """Another value of the same JSON type, so that the type alone does not catch it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + chance.choice([1, 2, 10])
    if isinstance(value, float):
        return value * 1.01 + 0.001
    if isinstance(value, str) and value:
        at = chance.randrange(len(value))
        letter = chance.choice([c for c in "0123456789abcdef" if c != value[at]])
        return value[:at] + letter + value[at + 1 :]
    return "something" if value in ("", None) else ["something"]
