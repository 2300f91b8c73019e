"""The bench's arithmetic for inference and pipeline: shares, ratios, bounds, and what it refuses to show."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from repro.base.errors import VerificationFailed
from repro.bench import inference, pipeline
from repro.bench.inference import ONE_AT_A_TIME, OURS, SIDE_BY_SIDE, sizes_of

CHECKS = {
    "utterances": 80,
    "utterances_with_other_symbols": {"torch": 0, "plain graph": 0},
    "timed_largest_from_torch": {"ours": 3e-5, "ONNX Runtime": 1e-5},
    "timed_utterances": {"ours": 256, "ONNX Runtime": 256},
    "timed_not_the_untimed_bytes": 0,
}


def times(ours_s: float = 0.5, peer_s: float = 1.0) -> dict:
    """A processor of 100 FLOP/s by its best product, and a model of 10 FLOP an utterance: at most 10 a second."""
    ways = {"utterances": 4, "seconds": [ours_s] * 3}
    return {
        "flop_an_utterance": 10,
        "product_flop": 50,
        "sizes": {
            "8": {
                "peak": {
                    "OpenBLAS": {"products": 2, "seconds": [2.0, 2.0, 2.0]},
                    "ours": {"products": 2, "seconds": [1.0, 0.5, 1.0]},
                },
                "runs": {
                    "ours": {SIDE_BY_SIDE: ways, ONE_AT_A_TIME: {"utterances": 4, "seconds": [1.0] * 3}},
                    "ONNX Runtime": {
                        SIDE_BY_SIDE: {"utterances": 4, "seconds": [peer_s] * 3},
                        ONE_AT_A_TIME: {"utterances": 4, "seconds": [9.0] * 3},
                    },
                },
            }
        },
    }


def test_the_share_is_of_the_highest_peak_whoever_s_it_is():
    (size,) = sizes_of(times())
    assert size.peak == (100.0, 200.0, 100.0)
    assert size.share(size.run(OURS, SIDE_BY_SIDE)) == pytest.approx(0.8)  # 8 utterances/s x 10 / 100
    assert size.library_share(size.run(OURS, SIDE_BY_SIDE)) == pytest.approx(1.6)  # of OpenBLAS's 50


def test_a_clock_that_changes_between_rounds_moves_neither_share_nor_ratio():
    document = times()
    size = document["sizes"]["8"]
    size["peak"]["ours"]["seconds"] = [1.0, 0.5, 0.5]  # 100, 200 and 200 FLOP/s
    size["runs"]["ours"][SIDE_BY_SIDE] = {"utterances": 4, "seconds": [0.5, 0.25, 0.3]}
    size["runs"]["ONNX Runtime"][SIDE_BY_SIDE] = {"utterances": 4, "seconds": [1.0, 0.5, 0.9]}
    found = figures(document)
    assert found["batches of 8, share of the matrix peak"].value == pytest.approx(0.8)  # of medians: 0.67
    ratio = found["batches of 8, times the best of ONNX Runtime and OpenVINO"]
    assert ratio.value == pytest.approx(2.0) and ratio.spread == (pytest.approx(2.0), pytest.approx(3.0))


def test_a_peer_counts_in_its_better_way():
    (size,) = sizes_of(times())
    assert (size.best_peer().name, size.best_peer().way) == ("ONNX Runtime", SIDE_BY_SIDE)


def figures(document: dict) -> dict:
    (size,) = sizes_of(document)
    return {figure.name: figure for figure in inference.figures_of(size, [1.0, 3.0], "checked")}


def test_the_ratios_to_the_peer_and_to_torch():
    found = figures(times())
    assert found["batches of 8, times the best of ONNX Runtime and OpenVINO"].value == pytest.approx(2.0)
    assert found["batches of 8, times PyTorch eager"].value == pytest.approx(4.0)


@pytest.mark.parametrize(("peer_s", "bound"), [(1.0, 1.15), (0.49, 1.0)])
def test_more_is_asked_where_the_peer_is_far_from_the_peak(peer_s: float, bound: float):
    assert figures(times(peer_s=peer_s))["batches of 8, times the best of ONNX Runtime and OpenVINO"].bound == bound


def test_the_bound_of_the_peak_is_held_against_side_by_side_alone():
    found = figures(times(ours_s=0.4))
    assert found["batches of 8, share of the matrix peak"].met is True
    assert found["batches of 8, one at a time on all cores, share of the matrix peak"].met is None
    assert figures(times())["batches of 8, share of the matrix peak"].met is False


@pytest.mark.parametrize(("size", "bound"), [(1, 0.55), (4, None), (8, 0.9), (64, 0.9)])
def test_what_is_asked_of_the_peak_at_each_batch_size(size: int, bound: float | None):
    assert inference.bound_of_share(size, 2 << 20) == bound
    assert inference.bound_of_share(size, 1 << 20) == (0.5 if size == 1 else bound)


@pytest.mark.parametrize(
    ("change", "torch", "says"),
    [
        ({"utterances_with_other_symbols": {"torch": 1, "plain graph": 0}}, 0.0, "symbols are not those of torch"),
        ({"timed_not_the_untimed_bytes": 2}, 0.0, "2 outputs"),
        ({"timed_largest_from_torch": {"ours": 3e-5, "OpenVINO": 6e-5}}, 0.0, "OpenVINO"),
        ({}, 6e-5, "PyTorch"),
    ],
)
def test_times_of_wrong_outputs_are_not_shown(change: dict, torch: float, says: str):
    with pytest.raises(VerificationFailed, match=says):
        inference.check({**CHECKS, **change}, torch)


def test_the_check_says_how_many_outputs_were_looked_at():
    assert "all 256 timed outputs" in inference.check(CHECKS, 0.0)


def test_start_up_is_in_one_ratio_and_left_out_of_the_other():
    # 100 batches of 1 s, 2 of them in a run of 7 s: 5 s to start and nothing else lost
    assert pipeline.ratios(105.0, 7.0, 100, 2, 1.0) == (pytest.approx(1.05), pytest.approx(1.0))


def dev_set(folder: Path, batches: int) -> Path:
    (folder / "bins").mkdir(parents=True)
    for number in range(batches):
        (folder / "bins" / f"inputs_{number}.bin").write_bytes(b"%d" % number)
    places = [(number, row) for number in range(batches + 1) for row in range(8)][:-3]
    utterances = [{"id": f"U{batch}{row}", "batch": batch, "row": row} for batch, row in places]
    manifest = {"num_batches": batches, "num_tail_batches": 1, "utterances": utterances}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_linked_batches_repeat_the_whole_ones_and_their_utterances(tmp_path: Path):
    target = tmp_path / "links"
    target.mkdir()
    links = pipeline.link_batches(dev_set(tmp_path / "dev", 3), target, 7)
    assert links.different == 3
    assert [(target / "bins" / f"inputs_{number}.bin").read_bytes() for number in range(7)] == [
        b"0", b"1", b"2", b"0", b"1", b"2", b"0",
    ]  # fmt: skip
    assert len({os.stat(path).st_ino for path in (target / "bins").iterdir()}) == 3
    manifest = json.loads((target / "manifest.json").read_bytes())
    assert (manifest["num_batches"], manifest["num_tail_batches"]) == (7, 0)
    assert len({item["id"] for item in manifest["utterances"]}) == 56


def test_an_output_with_other_bytes_is_found(tmp_path: Path):
    links = pipeline.Links(tmp_path, 3, 2)
    for folder, count in (("computed", 2), ("stage", 3)):
        (tmp_path / folder / "result").mkdir(parents=True)
        for number in range(count):
            (tmp_path / folder / "result" / f"inputs_{number}_0.npy").write_bytes(b"%d" % (number % 2))
    pipeline.check_outputs(links, tmp_path / "stage", tmp_path / "computed")
    (tmp_path / "stage" / "result" / "inputs_2_0.npy").write_bytes(b"1")
    with pytest.raises(VerificationFailed, match="inputs_2_0"):
        pipeline.check_outputs(links, tmp_path / "stage", tmp_path / "computed")
    (tmp_path / "stage" / "result" / "inputs_2_0.npy").unlink()
    with pytest.raises(VerificationFailed, match="2 outputs for 3 batches"):
        pipeline.check_outputs(links, tmp_path / "stage", tmp_path / "computed")


def speech():
    return pytest.importorskip("stages.bench.speech", reason="needs NumPy")


def test_the_model_s_work_is_the_measured_one():
    assert speech().flop_an_utterance() == pytest.approx(7.198e9, rel=1e-3)


@pytest.mark.parametrize(
    ("size", "side_by_side", "count"),
    [(1, True, 16), (8, True, 2), (64, True, 2), (1, False, 16), (8, False, 2), (64, False, 1)],
)
def test_every_core_computes_as_much_in_either_way(size: int, side_by_side: bool, count: int):
    assert speech().batches_in_a_round(size, 2, side_by_side=side_by_side) == count


def test_runners_share_the_items_and_outputs_keep_their_order():
    both = threading.Barrier(2, timeout=30)

    def runner(item):
        if item < 2:
            both.wait()  # passes only where two runners are at work at the same time
        return -item

    _, outputs = speech().timed([runner, runner], list(range(9)))
    assert outputs == [-item for item in range(9)]


def test_a_runner_that_fails_is_not_timed():
    def broken(_item):
        raise ValueError("no output")

    with pytest.raises(ValueError, match="no output"):
        speech().timed([broken, broken], [1, 2, 3])


@pytest.mark.parametrize(("pure_s_a_batch", "utterances"), [(0.1, 10_000), (0.36, 8_000), (1.25, 2_240), (60.0, 960)])
def test_a_slow_processor_is_given_fewer_utterances(pure_s_a_batch, utterances):
    assert pipeline.utterances_within(360.0, pure_s_a_batch) == utterances
