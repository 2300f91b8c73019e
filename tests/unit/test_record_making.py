"""Making a record: nothing that was asked, found or measured is lost, renamed or taken for something else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from _record_cases import demo_record, document_of

from repro.base.errors import VerificationFailed
from repro.base.files import pretty_json
from repro.container.image import Layer
from repro.container.job import Availability
from repro.graph.digests import FileDigest
from repro.graph.making import Done
from repro.graph.pipeline import ISA_EXACT, Request, build_graph
from repro.graph.store import Result
from repro.guide.published import load_published
from repro.images.oci import compute_image
from repro.locks.archives import SourceArchive
from repro.record import read_record, record_bytes
from repro.record.document import EngineUsed, Host, Observations, ToolchainRow
from repro.record.identity import identity_of, same_everywhere
from repro.run.inputs import Checkpoint
from repro.run.record import Parts, make_record
from repro.run.reproduce import engine_used

ROOT = Path(__file__).parents[2]
TABLE = load_published(ROOT / "conf" / "published.toml")
DEMO = demo_record()
LATENCY = {"mean": 1.0, "median": 2.0, "min": 3.0, "max": 4.0, "p50": 5.0, "p90": 6.0, "p99": 7.0}
SPEED = {
    "batch_size": 8, "formula": "f", "loop": 7, "provider": "p", "threads": 2, "throughput_utterances_per_s": 21.5,
    "latency_ms": LATENCY, "times_ms": [1.0],
}  # fmt: skip
COUNTS = {
    "train": {"speakers": 1, "utterances": 11, "phones": 111},
    "dev": {"speakers": 2, "utterances": 22, "phones": 222},
    "test": {"speakers": 3, "utterances": 33, "phones": 333},
}


def written(size):
    """What each stage leaves that a record is made of: out/ or obs/, file, content."""
    demo = DEMO["results"][0]
    return {
        "corpus": ("out/summary.json", {
            "splits": COUNTS, "excluded": [{"utterance": "A", "reason": "corpus"}], "second_copies_ignored": 4,
            "timit": {"matches": False, "deviations": ["a deviation"]},
        }),
        f"score@{size}": ("out/score.json", {
            "batch_size": size, "split": "dev", "decode": {"type": "Greedy"}, "excluded": [],
            "protocols": {"published": demo["published"], "complete": demo["complete"]},
        }),
        f"measure@{size}": ("obs/measure.json", SPEED),
        f"batches@{size}": ("out/manifest.json", {
            "batch_size": size, "columns": 243, "rows": 390, "num_batches": 0, "num_tail_batches": 0, "split": "dev",
            "utterances": [], "excluded": [{"utterance": "B", "reason": "batches"}],
        }),
        f"compare@{size}": ("out/compare.json", demo["comparison"]),
    }  # fmt: skip


def hexed(number):
    return f"{number:064x}"


@dataclass
class Made:
    """The parts of a record and the results of its graph, before anything is changed."""

    parts: Parts
    done: dict[str, Done]

    def record(self):
        record = make_record(self.parts, self.done, TABLE)
        assert read_record(record_bytes(record)) == record
        return record

    def rewrite(self, key, name, change):
        """Change what a stage wrote."""
        path = self.done[key].result.folder / name
        document = msgspec.json.decode(path.read_bytes())
        change(document)
        path.write_bytes(pretty_json(document))

    def result(self, key, **changes):
        self.done[key] = replace(self.done[key], result=replace(self.done[key].result, **changes))


@pytest.fixture
def made(tmp_path):
    def make(**asked):
        request = Request(**{"batch_sizes": (8,), "loop": 7, **asked})
        done = {}
        for number, (key, node) in enumerate(build_graph(request, ROOT / "conf", Path("demo")).items()):
            folder = tmp_path / key
            for part in ("out", "obs"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            for size in request.batch_sizes:
                if key in written(size):
                    name, content = written(size)[key]
                    (folder / name).write_bytes(pretty_json(content))
            inputs = {name: hexed(1000 * number + place) for place, name in enumerate(sorted(node.inputs))}
            result_key = {"image": f"sha256:{hexed(number)}", "code": hexed(2000 + number), "argv": ["run", key],
                          "inputs": inputs}  # fmt: skip
            observations = {"engine": "sandbox", "wall_s": 1.5, "limits": {"network": "enforced"}, "files": {}}
            outputs = {"b": FileDigest(hexed(1), 10), "a": FileDigest(hexed(2), 20)}
            result = Result(hexed(3000 + number), folder, result_key, outputs, hexed(4000 + number), observations)
            done[key] = Done(node, result, number % 2 == 0, 1.0, 2.0)
        layers = [Layer("debs:base", "debs", f"sha256:{hexed(5)}", 123, tmp_path / "x", f"sha256:{hexed(6)}")]
        parts = Parts(
            request=request,
            toolchain_name="portable",
            data_kind="demo",
            checkpoint=Checkpoint(Path("weights"), "demo", hexed(7), "pinned"),
            images={"base": compute_image("base", "amd64", layers, {}, "3.11", "a test")},
            toolchain=tuple(msgspec.convert(row, ToolchainRow) for row in DEMO["toolchain"]),
            engine=EngineUsed(name="sandbox", facts={}, limits={}, passed_over=()),
            host=msgspec.convert(DEMO["host"], Host),
            observations=msgspec.convert(DEMO["observations"], Observations),
        )
        return Made(parts, done)

    return make


def test_what_was_asked_on_the_cpu_stands_in_the_request(made):
    asked = made(batch_sizes=(4, 8), decode="Beam", beam_width=3, lm_alpha=0.25, split="test", loop=9, skip_bad=True,
                 precision="bf16").record().request  # fmt: skip
    assert document_of(asked) == {
        "batch_sizes": [4, 8], "device": "cpu", "toolchain": "portable", "data": "demo", "checkpoint": "demo",
        "decode": {"type": "Beam", "beam_width": 3, "lm_alpha": 0.25}, "split": "test", "loop": 9, "skip_bad": True,
        "precision": "bf16",
    }  # fmt: skip


def test_a_plain_request_names_no_special_and_no_pinned_stage(made):
    asked = document_of(made().record().request)
    assert not {"precision", "pinned", "soc_version", "precision_mode", "num_devices", "cann"} & set(asked)


def test_a_second_measurement_is_named_in_the_request_and_shares_the_identity_of_results(made):
    once, again = made().record(), made(sample="repeat 2").record()
    assert document_of(again.request)["sample"] == "repeat 2" and "sample" not in document_of(once.request)
    assert again.identity.results == once.identity.results
    assert identity_of(again) == again.identity


def test_what_was_asked_on_an_npu_stands_in_the_request(made):
    found = made(device="npu", soc_version="Ascend310P3", precision_mode="", num_devices=2, pinned=("features",),
                 cann="8.1.RC1")  # fmt: skip
    found.parts = replace(found.parts, toolchain_name="pinned")
    asked = document_of(found.record().request)
    assert (asked["device"], asked["toolchain"]) == ("npu", "pinned")
    assert (asked["soc_version"], asked["precision_mode"], asked["num_devices"]) == ("Ascend310P3", "", 2)
    assert (asked["pinned"], asked["cann"]) == (["features"], "8.1.RC1")
    assert "precision" not in asked


def test_counts_exclusions_and_deviations_of_the_data_are_those_of_the_corpus(made):
    found = made()
    data = found.record().data
    assert document_of(data.utterances) == {"train": 11, "dev": 22, "test": 33}
    assert document_of(data.phones) == {"train": 111, "dev": 222, "test": 333}
    assert (data.timit_counts_match, data.timit_deviations) == (False, ("a deviation",))
    assert [(entry.utterance, entry.reason) for entry in data.excluded] == [("A", "corpus")]
    assert data.fingerprint == found.done["corpus"].result.key["inputs"]["data"]
    assert "says nothing" not in data.note and "say nothing about TIMIT" in data.note


@pytest.mark.parametrize("kind", ["timit", "user"])
def test_only_the_demos_data_and_weights_are_called_so(made, kind):
    found = made()
    found.parts = replace(found.parts, data_kind=kind, checkpoint=replace(found.parts.checkpoint, kind="user"))
    record = found.record()
    assert (record.data.kind, record.data.note) == (kind, "")
    assert (record.checkpoint.kind, record.checkpoint.note, record.checkpoint.trust) == ("user", "", "pinned")
    assert (record.request.data, record.request.checkpoint, record.is_demo) == (kind, "user", False)
    assert "not the published model" in made().record().checkpoint.note


def test_figures_are_taken_with_their_units_and_names(made):
    (result,) = made().record().results
    demo = DEMO["results"][0]
    assert document_of(result.published) == demo["published"]
    assert document_of(result.complete) == demo["complete"]
    assert document_of(result.latency_ms) == LATENCY
    assert result.throughput_utterances_per_s == 21.5
    assert document_of(result.measured) == {k: v for k, v in SPEED.items() if k not in ("latency_ms", "times_ms")}
    assert document_of(result.comparison) == demo["comparison"]
    assert [(entry.utterance, entry.reason) for entry in result.excluded] == [("B", "batches")]


def test_all_loops_and_what_was_read_meanwhile_are_taken_where_they_were_observed(made):
    found = made()
    (plain,) = found.record().results
    assert not plain.sustained and not plain.while_measuring
    folder = found.done["measure@8"].result.folder / "obs"
    each = [{"loop": 100, "throughput_utterances_per_s": speed} for speed in (20.0, 24.0)]
    written = {
        "sustained.json": {"batch_size": 8, "each": each, "figures": {}, "formula": "f", "latency_ms": LATENCY,
                           "least_seconds": 10.0, "loop": 100, "loops": 2, "throughput_utterances_per_s": 22.0,
                           "times_ms": []},
        "load.json": {"cores": 2, "readings": [
            {"executions": 0, "wall_s": 0.0, "own_s": 0.0, "busy_s": 0.0, "stolen_s": 0.0},
            {"executions": 100, "wall_s": 5.0, "own_s": 4.0, "busy_s": 6.0, "stolen_s": 0.0}]},
        "machine.json": {"cost_share": 0.001, "problems": [], "readings": [], "seen_by": "the kernel",
                         "throttle_events": 2},
    }  # fmt: skip
    for name, content in written.items():
        (folder / name).write_bytes(pretty_json(content))
    observed = {**found.done["measure@8"].result.observations, "files": dict.fromkeys(written, hexed(9))}
    found.result("measure@8", observations=observed)
    (result,) = found.record().results
    whole = result.sustained
    assert (whole.executions, whole.throughput_utterances_per_s) == (200, 22.0)
    assert whole.timed_s == pytest.approx(200 * LATENCY["mean"] / 1000)
    assert whole.spread_percent == pytest.approx(100 * 4 / 22)
    assert result.while_measuring.cost_percent == pytest.approx(0.1)
    assert result.while_measuring.disturbances == (
        "the processor was throttled 2 times because it was too hot",
        "other work took 20 % of the cores' time in the first loop",
    )


def test_each_batch_size_has_the_results_of_its_own_stages(made):
    found = made(batch_sizes=(4, 8))
    found.rewrite("measure@4", "obs/measure.json", lambda speed: speed.update(throughput_utterances_per_s=4.5))
    record = found.record()
    assert [(r.batch_size, r.throughput_utterances_per_s) for r in record.results] == [(4, 4.5), (8, 21.5)]
    assert record.result(4) == record.results[0] and record.result(5) is None


def test_a_stage_is_recorded_with_everything_that_made_it(made):
    found = made()
    record = found.record()
    assert [stage.key for stage in record.stages] == list(found.done)
    for key, done in found.done.items():
        stage, result = record.stage(key), done.result
        assert (stage.name, stage.batch_size) == (done.node.stage.name, done.node.batch_size)
        assert (stage.fingerprint, stage.image, stage.code) == (
            result.fingerprint, result.key["image"], result.key["code"])  # fmt: skip
        assert stage.argv == ("run", key)
        assert stage.outputs.digest == result.output_digest
        assert document_of(stage.outputs.files) == {
            "a": {"sha256": hexed(2), "size_bytes": 20}, "b": {"sha256": hexed(1), "size_bytes": 10}
        }  # fmt: skip
        assert (stage.cached, stage.host_bound) == (done.cached, key.startswith("measure"))
        assert stage.exactness == done.node.stage.exactness
        assert {name: entry.digest for name, entry in stage.inputs.items()} == result.key["inputs"]
        assert document_of(stage.observations) == result.observations
    assert record.stage("features").inputs["corpus"].origin == "corpus"
    assert record.stage("features").inputs["conf"].origin == "conf/features"
    assert record.stage("nothing") is None


def test_images_and_layers_are_named_by_what_they_are(made):
    found = made()
    record = found.record()
    image = found.parts.images["base"]
    assert record.images == {"base": image.config_digest}
    assert record.image_manifests == {"base": image.manifest_digest}
    assert document_of(record.image_layers) == {
        "base": [{"name": "debs:base", "kind": "debs", "diff_id": f"sha256:{hexed(5)}", "size_bytes": 123,
                  "made_from": f"sha256:{hexed(6)}"}]
    }  # fmt: skip


@pytest.mark.parametrize(("accept", "licence"), [("", "MIT"), ("CANN", "MIT, accepted by the user (CANN)")])
def test_a_source_is_recorded_with_what_it_was_held_to_and_the_licence_accepted(made, accept, licence):
    found = made()
    archive = SourceArchive("kaldi", "Kaldi", "k.tar", "MIT", "page", (), sha256=hexed(8), accept=accept)
    found.parts = replace(found.parts, sources=(archive,))
    (source,) = found.record().sources
    assert document_of(source) == {
        "name": "kaldi", "title": "Kaldi", "digest": f"file:{hexed(8)}", "trust": archive.trust, "licence": licence
    }  # fmt: skip


IDENTITY = {
    "request": lambda made: setattr(made, "parts", replace(made.parts, toolchain_name="pinned")),
    "data": lambda made: made.done["corpus"].result.key["inputs"].update(data=hexed(99)),
    "weights": lambda made: setattr(
        made, "parts", replace(made.parts, checkpoint=replace(made.parts.checkpoint, sha256=hexed(99)))
    ),
    "image": lambda made: setattr(
        made, "parts", replace(made.parts, images={"base": compute_image("base", "arm64", [], {}, "3.11", "other")})
    ),
    "fingerprint": lambda made: made.result("export", fingerprint=hexed(99)),
    "outputs": lambda made: made.result("score@8", output_digest=hexed(99)),
}
NOT_IDENTITY = {
    "engine": lambda made: setattr(made, "parts", replace(made.parts, engine=replace_struct(made.parts.engine))),
    "host": lambda made: setattr(
        made, "parts", replace(made.parts, host=msgspec.structs.replace(made.parts.host, cpu="another"))
    ),
    "cached": lambda made: made.done.update(export=replace(made.done["export"], cached=False)),
    "speed": lambda made: made.rewrite("measure@8", "obs/measure.json", lambda s: s.update(threads=9)),
}


def replace_struct(engine):
    return msgspec.structs.replace(engine, name="docker")


@pytest.mark.parametrize("change", IDENTITY)
def test_identity_covers_request_data_weights_images_stages_and_outputs(made, change):
    before, other = made().record(), made()
    IDENTITY[change](other)
    assert other.record().identity.sha256 != before.identity.sha256


@pytest.mark.parametrize(
    ("change", "results", "environment"),
    [
        ("image", False, True),
        ("fingerprint", False, False),
        ("outputs", True, False),
        ("data", True, False),
        ("weights", True, False),
    ],
)
def test_results_are_those_of_any_machine_and_the_environment_is_the_images(made, change, results, environment):
    before, other = made().record().identity, made()
    IDENTITY[change](other)
    after = other.record().identity
    assert (after.results != before.results) == results
    assert (after.environment != before.environment) == environment


def test_results_hold_no_stage_that_differs_between_processors_nor_what_follows_from_one(made):
    stages = made().record().stages
    found = same_everywhere(stages)
    assert {"corpus", "features", "batches@8", "export", "convert@8", "infer@8", "score@8"} <= set(found)
    assert not {name.partition("@")[0] for name in found} & {"reference", "compare", "measure", "probe"}
    by_kaldi = [
        msgspec.structs.replace(stage, exactness=ISA_EXACT) if stage.key == "features" else stage for stage in stages
    ]
    assert {"corpus", "export", "convert@8"} <= set(same_everywhere(by_kaldi))
    assert not {"features", "batches@8", "infer@8", "score@8"} & set(same_everywhere(by_kaldi))


@pytest.mark.parametrize("change", NOT_IDENTITY)
def test_identity_covers_no_engine_host_cache_or_time(made, change):
    before, other = made().record(), made()
    NOT_IDENTITY[change](other)
    assert other.record().identity == before.identity
    assert other.record() != before


@pytest.mark.parametrize(
    ("key", "name", "change", "place"),
    [
        ("score@8", "out/score.json", lambda d: d.update(invented=1), "score@8: score.json: $: Object contains"),
        ("score@8", "out/score.json", lambda d: d["protocols"]["complete"].update(phones=-1),
         "score@8: score.json: $.protocols.complete.phones"),
        ("measure@8", "obs/measure.json", lambda d: d.update(times_ms="x"), "measure@8: measure.json: $.times_ms"),
        ("compare@8", "out/compare.json", lambda d: d["torch_onnx"].update(kl=None),
         "compare@8: compare.json: $.torch_onnx.kl"),
        ("batches@8", "out/manifest.json", lambda d: d.pop("excluded"), "batches@8: manifest.json: $: Object missing"),
        ("corpus", "out/summary.json", lambda d: d["splits"].pop("dev"), "corpus: summary.json: $.splits"),
    ],
)  # fmt: skip
def test_what_a_stage_wrote_is_read_strictly(made, key, name, change, place):
    found = made()
    found.rewrite(key, name, change)
    with pytest.raises(VerificationFailed) as caught:
        found.record()
    assert caught.value.message.startswith(place)


def test_a_stages_file_that_is_no_json_is_named(made):
    found = made()
    (found.done["corpus"].result.out / "summary.json").write_text("{")
    with pytest.raises(VerificationFailed, match=r"^corpus: summary\.json: it is not JSON"):
        found.record()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda p: replace(p, request=replace(p.request, lm_alpha=1e300)), "the request: $.decode.lm_alpha: "),
        (lambda p: replace(p, request=replace(p.request, lm_alpha=float("nan"))), "the request: $.decode.lm_alpha: "),
        (lambda p: replace(p, checkpoint=replace(p.checkpoint, sha256="x")), "the checkpoint: $.sha256: "),
        (lambda p: replace(p, images={"base": replace(p.images["base"], layers=(odd_layer(),))}),
         "image base: $.kind: "),
    ],
)  # fmt: skip
def test_what_a_record_cannot_hold_is_refused_before_it_is_written(made, change, place):
    found = made()
    found.parts = change(found.parts)
    with pytest.raises(VerificationFailed) as caught:
        found.record()
    assert caught.value.message.startswith(place)


def odd_layer():
    return Layer("debs:base", "odd", f"sha256:{hexed(5)}", 1, Path("x"), f"sha256:{hexed(6)}")


def test_observations_that_no_stage_makes_are_refused(made):
    found = made()
    found.result("export", observations={"engine": "sandbox", "wall_s": 1.0, "limits": {}, "files": {}, "odd": 1})
    with pytest.raises(VerificationFailed, match="export: observations"):
        found.record()


@dataclass
class Choice:
    engine: object
    availability: Availability
    passed_over: tuple


@dataclass
class Named:
    name: str
    reason: str = ""


def limited(made, **limits):
    found = made()
    for key, of_stage in limits.items():
        found.result(key, observations={"engine": "sandbox", "wall_s": 1.0, "limits": of_stage, "files": {}})
    return found.done


@pytest.mark.parametrize("order", [("corpus", "export"), ("export", "corpus")])
def test_a_limit_is_called_enforced_only_where_it_was_for_every_result(made, order):
    lax, strict = {"memory": "not enforced: no group", "network": "enforced"}, {"memory": "enforced"}
    used = engine_used(None, limited(made, **dict(zip(order, (lax, strict)))))
    assert used.limits == {"memory": "not enforced: no group", "network": "enforced"}
    assert (used.name, used.facts, used.passed_over) == ("none", {}, ())


def test_the_engine_that_was_chosen_is_named_with_its_facts_and_with_those_passed_over(made):
    choice = Choice(Named("podman"), Availability("podman", True, facts={"version": "4"}), (Named("docker", "gone"),))
    used = document_of(engine_used(choice, made().done))
    assert used == {
        "name": "podman", "facts": {"version": "4"}, "limits": {"network": "enforced"},
        "passed_over": [{"name": "docker", "reason": "gone"}],
    }  # fmt: skip
