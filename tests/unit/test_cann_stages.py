"""The NPU stages outside their image: the guide's exact commands, and a message for each thing that goes wrong."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from stages import convert_npu, infer_npu, measure_npu
from stages.npu import ascend
from stages.shared.stage import StageError
from tests.simulators.ascend.packages import CORPUS, PAYLOAD

B = 2
FIGURES = (
    "[INFO] NPU_compute_time (ms): min = 13.5, max = 14.25, mean = 13.755440711975098, median = 13.75, "
    "percentile(99%) = 14.1",
    "[INFO] throughput 1000*batchsize.mean(8)/NPU_compute_time.mean(13.755440711975098): 581.5880543206025",
)
# Stands in for ais_bench: does what FAULT says to outputs, and is otherwise as it should be.
AIS_BENCH = """
import os, sys, numpy
given = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
fault = os.environ.get("FAULT", "")
print("[WARNING] device log on the same stream")
print("[INFO] try get model batchsize:" + ("8" if fault == "batch" else "2"))
if fault.startswith("say "):
    print(fault[4:])
    sys.exit(1)
folder = os.path.join(given["output"], given["output_dirname"])
os.makedirs(folder)
names = sorted(os.listdir(given["input"]))
for name in names[1:] if fault == "missing" else names:
    shape = (195, 3 if fault == "shape" else 2, 41)
    values = numpy.full(shape, numpy.nan if fault == "nan" else -1.0, dtype=numpy.float32)
    numpy.save(os.path.join(folder, ("x" if fault == "renamed" else "") + name.split(".")[0] + "_0.npy"), values)
if fault == "surplus":
    numpy.save(os.path.join(folder, "inputs_99_0.npy"), values)
open(folder + "_summary.json", "w").write('{"args": "%s"}' % given["output_dirname"])
"""


@pytest.fixture
def cann(tmp_path, monkeypatch):
    """A CANN below tmp_path with the simulator's atc, and an ais_bench that does as it is told."""
    root = tmp_path / "Ascend"
    toolkit = root / "ascend-toolkit" / "latest"
    machine = f"{platform.machine()}-linux"
    for folder in (toolkit / "bin", toolkit / machine / "devlib", root / "python", tmp_path / "home"):
        folder.mkdir(parents=True)
    shutil.copyfile(PAYLOAD / "atc", toolkit / "bin" / "atc")
    shutil.copytree(CORPUS / "errors", toolkit / "simulated")
    (toolkit / "bin" / "atc").chmod(0o755)
    (toolkit / machine / "ascend_toolkit_install.info").write_text("version=6.3.RC1\n")
    (root / "python" / "ais_bench.py").write_text(AIS_BENCH)
    (root / "ascend-toolkit" / "set_env.sh").write_text(
        f"export ASCEND_TOOLKIT_HOME={toolkit} PATH={toolkit}/bin:$PATH PYTHONPATH={root}/python\n"
    )
    monkeypatch.setattr(ascend, "ROOT", str(root))
    monkeypatch.setattr(ascend, "PYTHON", sys.executable)
    monkeypatch.setattr(ascend.tempfile, "tempdir", str(tmp_path))  # the working folders go with the test's own
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name in ("out", "obs", "export"):
        (tmp_path / name).mkdir()
    (tmp_path / "export" / "lstm_ctc.onnx").write_bytes(b"a graph with actual_input_1 in it")
    return tmp_path


def convert(folder, *more):
    words = ["--onnx", str(folder / "export"), "--bs", str(B), "--soc-version", "Ascend310P3", *more]
    convert_npu.main([*words, "--out", str(folder / "out"), "--obs", str(folder / "obs")])


def infer(folder, num_whole=3, num_tail=1, *more):
    (folder / "model").mkdir()
    (folder / "model" / f"lstm_ctc_bs{B}.om").write_bytes(b"om")
    batches = folder / "batches"
    for source, first, count in (("bins", 0, num_whole), ("tail", num_whole, num_tail)):
        (batches / source).mkdir(parents=True)
        for index in range(first, first + count):
            (batches / source / f"inputs_{index}.bin").write_bytes(b"")
    manifest = {"batch_size": B, "rows": 390, "columns": 243, "num_batches": num_whole, "num_tail_batches": num_tail,
                "split": "dev", "utterances": [], "excluded": []}  # fmt: skip
    (batches / "manifest.json").write_text(json.dumps(manifest))
    infer_npu.main(["--model", str(folder / "model"), "--batches", str(batches), "--bs", str(B), *more,
                    "--out", str(folder / "out"), "--obs", str(folder / "obs")])  # fmt: skip


def commands(folder):
    return [item["argv"] for item in json.loads((folder / "obs" / "commands.json").read_text())["commands"]]


def test_atc_gets_the_guides_arguments_and_no_other(cann):
    convert(cann)
    assert commands(cann) == [
        ["atc", "--input_format=ND", "--framework=5", "--model=lstm_ctc.onnx", "--input_shape=actual_input_1:2,390,243",
         "--output=lstm_ctc_bs2", "--log=info", "--soc_version=Ascend310P3"]
    ]  # fmt: skip
    summary = json.loads((cann / "out" / "summary.json").read_text())
    assert (summary["cann"], summary["precision_mode"]) == ("6.3.RC1", "the vendor's default")
    assert (cann / "out" / "lstm_ctc_bs2.om").read_bytes().startswith(b"SIMULATED OM\n")


def test_a_precision_mode_is_one_more_argument_and_recorded(cann):
    convert(cann, "--precision-mode", "must_keep_origin_dtype")
    assert commands(cann)[0][-1] == "--precision_mode=must_keep_origin_dtype"
    assert json.loads((cann / "out" / "summary.json").read_text())["precision_mode"] == "must_keep_origin_dtype"


def test_an_unknown_precision_mode_never_reaches_atc(cann):
    with pytest.raises(SystemExit):
        convert(cann, "--precision-mode", "fp32")


def test_a_wrong_soc_version_is_explained(cann):
    with pytest.raises(StageError, match=r"atc does not know the chip.*Value \[Ascend310P9\]") as caught:
        convert(cann, "--soc-version", "Ascend310P9")
    assert "kernels package" in caught.value.hint


def test_stub_libraries_are_seen_by_atc_alone(cann, monkeypatch):
    seen = []
    original = ascend.Commands._run

    def spy(self, name, words, libraries, recorded=True):
        seen.append((name, libraries))
        return original(self, name, words, libraries, recorded=recorded)

    monkeypatch.setattr(ascend.Commands, "_run", spy)
    convert(cann)
    shutil.rmtree(cann / "out")
    (cann / "out").mkdir()
    infer(cann)
    assert [(name, any("devlib" in path for path in libraries)) for name, libraries in seen] == [
        ("atc", True), ("ais_bench_result", False), ("ais_bench_tail", False)
    ]  # fmt: skip


def test_an_image_without_cann_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(ascend, "ROOT", "/nowhere")
    with pytest.raises(StageError, match="there is no CANN in /nowhere"):
        ascend.Commands(str(tmp_path))


def test_ais_bench_gets_the_guides_arguments_and_the_tail_a_folder_of_its_own(cann):
    infer(cann)
    assert [words[1:] for words in commands(cann)] == [
        ["-m", "ais_bench", "--model=lstm_ctc_bs2.om", "--input=lstm_bin_bs2", "--output=result",
         "--output_dirname=bs2", "--outfmt=NPY"],
        ["-m", "ais_bench", "--model=lstm_ctc_bs2.om", "--input=lstm_bin_tail_bs2", "--output=result",
         "--output_dirname=tail_bs2", "--outfmt=NPY"],
    ]  # fmt: skip
    assert sorted(path.name for path in (cann / "out" / "result").iterdir()) == [f"inputs_{i}_0.npy" for i in range(3)]
    assert [path.name for path in (cann / "out" / "tail").iterdir()] == ["inputs_3_0.npy"]
    assert json.loads((cann / "obs" / "result_summary.json").read_text()) == {"args": "bs2"}
    assert json.loads((cann / "obs" / "tail_summary.json").read_text()) == {"args": "tail_bs2"}


def test_two_devices_share_the_batches_each_with_its_process_and_folder(cann):
    infer(cann, 3, 1, "--num-devices", "2")
    assert [words[4:] for words in commands(cann) if words[-1].startswith("--device")] == [
        [
            "--input=lstm_bin_bs2_device0",
            "--output=result",
            "--output_dirname=bs2_device0",
            "--outfmt=NPY",
            "--device=0",
        ],
        [
            "--input=lstm_bin_bs2_device1",
            "--output=result",
            "--output_dirname=bs2_device1",
            "--outfmt=NPY",
            "--device=1",
        ],
    ]
    assert sorted(path.name for path in (cann / "out" / "result").iterdir()) == [f"inputs_{i}_0.npy" for i in range(3)]
    assert {path.name for path in (cann / "obs").glob("*summary*")} == {
        "result_summary.device0.json", "result_summary.device1.json", "tail_summary.json"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("batch", "the model takes batches of 8, not 2"),
        ("missing", "ais_bench made 2 outputs for 3 inputs .first difference: inputs_0_0.npy"),
        ("surplus", "ais_bench made 4 outputs for 3 inputs .first difference: inputs_99_0.npy"),
        ("shape", r"is not a float32 array of shape \(195, 2, 41\)"),
        ("nan", "holds values that are not finite"),
        ("say [ERROR] arg0 tensorsize: 3032640 filesize: 1000 not match", "takes 3032640 bytes, a file has 1000"),
        ("say [ERROR] lstm_bin_bs2 of input args not find valid file", "found no input file"),
        ("say dcmi module initialize failed. ret is -8020", "another container or virtual machine"),
        ("say dcmi module initialize failed. ret is -8005", "dcmi cannot be initialised"),
        ("say EL0005: device is busy", "the NPU is busy"),
        ("say EL0004: Failed to allocate memory.", "no memory left"),
        ("say [ERROR] acl open device 0 failed", "could not be opened"),
        ("say [ERROR] socVersion of om Ascend310P1 not match with device Ascend310P3", "converted for another chip"),
        ("say ImportError: libascend_hal.so: cannot open shared object file", "driver's libraries are not in"),
        ("renamed", r"ais_bench made 3 outputs for 3 inputs .first difference: inputs_0_0.npy"),
        ("say something else", "exit code 1: something else"),
    ],
)
def test_what_goes_wrong_in_inference_is_said(cann, monkeypatch, fault, said):
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(StageError, match=said) as caught:
        infer(cann)
    assert caught.value.hint or fault in ("shape", "nan")


def test_a_fallback_to_another_way_of_running_is_refused_though_ais_bench_goes_on(cann):
    script = cann / "Ascend" / "python" / "ais_bench.py"
    script.write_text('print("[WARNING] aclruntime version:None is lower please update")\n' + AIS_BENCH)
    with pytest.raises(StageError, match="silently run another way") as caught:
        infer(cann)
    assert "pkg_resources" in caught.value.hint


def test_a_stale_output_folder_is_never_taken_for_a_result(cann, monkeypatch):
    work = cann / "work"
    stale = work / "result" / "bs2"
    stale.mkdir(parents=True)
    np.save(stale / "inputs_0_0.npy", np.zeros((195, 2, 41), dtype=np.float32))
    monkeypatch.setattr(ascend.tempfile, "mkdtemp", lambda prefix: str(work))
    with pytest.raises(StageError, match="is there before the run"):
        infer(cann)
    assert not list((cann / "out" / "result").iterdir())


def test_every_run_has_a_working_folder_of_its_own(cann):
    assert ascend.Commands(str(cann / "obs")).folder != ascend.Commands(str(cann / "obs")).folder


def test_figures_are_found_among_device_logs():
    lines = ["[EVENT] something", *FIGURES, "a log line after the end"]
    throughput, latency, mean_ms = measure_npu.read_figures(lines, 8)
    assert (throughput, mean_ms) == (581.5880543206025, 13.755440711975098)
    assert latency == {"min": 13.5, "max": 14.25, "mean": 13.755440711975098, "median": 13.75, "p50": 13.75,
                       "p90": None, "p99": 14.1}  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["nothing of use"], "printed no figures"),
        ([FIGURES[0], FIGURES[1].replace("(8)", "(4)")], "is not 1000"),
        ([FIGURES[0], FIGURES[1].replace("581.58", "681.58")], "is not 1000"),
    ],
)
def test_figures_that_are_not_ais_benchs_formula_are_refused(lines, said):
    with pytest.raises(StageError, match=said):
        measure_npu.read_figures(lines, 8)


def test_a_model_of_another_batch_size_is_not_timed(cann, monkeypatch):
    (cann / "model").mkdir()
    (cann / "model" / "summary.json").write_text('{"model_sha256": "00"}')
    (cann / "model" / "lstm_ctc_bs8.om").write_bytes(b"om")
    monkeypatch.setattr(ascend.Commands, "model_batch_size", lambda self, model: 4)
    with pytest.raises(StageError, match="takes batches of 4, not 8"):
        measure_npu.main(["--model", str(cann / "model"), "--bs", "8", "--out", str(cann / "out"), "--obs",
                          str(cann / "obs")])  # fmt: skip
    assert not (cann / "obs" / "commands.json").exists()


def test_the_guides_measuring_command():
    assert measure_npu.measure_words(8, 100) == ["--model=lstm_ctc_bs8.om", "--loop=100", "--batchsize=8"]


@pytest.mark.parametrize("code", ["E16005", "E19999", "E20001", "E40021", "E90003", "EZ3003", "EC0010", "EE1001"])
def test_first_line_with_an_error_code_is_in_the_message(code):
    """The vendor's tools print the cause first, and the innermost line of a trace-back last."""
    lines = [
        "ATC start working now, please wait for a moment.",
        "ATC run failed, Please check the detail log",
        f"{code}: [PID: 7] 2026-01-01 The cause.",
        "        Possible Cause: a cause.",
        "        Solution: Do this.",
        "        TraceBack (most recent call last):",
        "        build graph failed, ret:-1[FUNC:Build][FILE:x.cc][LINE:1]",
    ]
    error = ascend._failure(["atc"], 255, lines)
    assert f"{code}: [PID: 7] 2026-01-01 The cause." in error.message
    assert "the vendor's advice: Do this." in error.hint.splitlines()


def test_explanation_by_a_later_line_keeps_the_first_error():
    lines = ["E77777: [PID: 7] No supported Ops kernel.", "    TraceBack:", "    device is busy"]
    error = ascend._failure(["atc"], 1, lines)
    assert "the NPU is busy" in error.message
    assert "E77777: [PID: 7] No supported Ops kernel." in error.message


def test_output_without_a_code_is_told_by_its_last_line():
    error = ascend._failure([sys.executable, "-m", "ais_bench"], 1, ["at address 0xE16005A and LE16005", "last", ""])
    assert error.message == "ais_bench ended with exit code 1: last"


@pytest.mark.parametrize(
    ("loop", "mean_ms", "runs"),
    [(100, 100.0, []), (100, 99.9, [100]), (100, 13.75, [100] * 7), (100, 1.0, [1300] * 9), (99, 1.0, []),
     (500, 10.0, [500] * 2)],
)  # fmt: skip
def test_further_runs_make_ten_seconds_in_whole_loops_and_are_at_most_nine(loop, mean_ms, runs):
    assert measure_npu.further_runs(loop, mean_ms) == runs
    if runs:
        assert (loop + sum(runs)) * mean_ms >= 10_000.0


def timed(folder, monkeypatch, loop, means_ms):
    """Run measure_npu with an ais_bench that prints these means, one after the other; returns the words it got."""
    (folder / "model").mkdir()
    (folder / "model" / "summary.json").write_text('{"model_sha256": "00"}')
    (folder / "model" / "lstm_ctc_bs8.om").write_bytes(b"om")
    given, means = [], list(means_ms)

    def ais_bench(self, log_name, words):
        given.append((log_name, words))
        mean = means.pop(0)
        return [
            f"NPU_compute_time (ms): min = {mean}, max = {mean}, mean = {mean}, median = {mean}, "
            f"percentile(99%) = {mean}",
            f"throughput 1000*batchsize.mean(8)/NPU_compute_time.mean({mean}): {8000.0 / mean}",
        ]

    monkeypatch.setattr(ascend.Commands, "model_batch_size", lambda self, model: 8)
    monkeypatch.setattr(ascend.Commands, "ais_bench", ais_bench)
    measure_npu.main(["--model", str(folder / "model"), "--bs", "8", "--loop", str(loop), "--out",
                      str(folder / "out"), "--obs", str(folder / "obs")])  # fmt: skip
    return given


def test_npu_is_timed_by_the_guides_command_again_and_again_until_a_figure_is_long_enough(cann, monkeypatch):
    given = timed(cann, monkeypatch, 100, [40.0, 30.0, 50.0])
    assert given == [
        ("ais_bench_measure", measure_npu.measure_words(8, 100)),
        ("ais_bench_sustained1", measure_npu.measure_words(8, 100)),
        ("ais_bench_sustained2", measure_npu.measure_words(8, 100)),
    ]
    measured, every = (json.loads((cann / "obs" / f"{name}.json").read_text()) for name in ("measure", "sustained"))
    assert (measured["loop"], measured["latency_ms"]["mean"]) == (100, 40.0)
    assert measured["throughput_utterances_per_s"] == 200.0
    assert (every["loop"], every["loops"], every["latency_ms"]["mean"]) == (100, 3, 40.0)
    assert (every["latency_ms"]["min"], every["latency_ms"]["median"], every["latency_ms"]["max"]) == (30.0, 40.0, 50.0)
    assert [each["throughput_utterances_per_s"] for each in every["each"]] == [200.0, 8000 / 30.0, 160.0]
    assert every["throughput_utterances_per_s"] == pytest.approx(200.0)
    assert "figures" not in measured


def test_npu_is_timed_once_for_a_quick_look(cann, monkeypatch):
    assert len(timed(cann, monkeypatch, 2, [12.5])) == 1
    assert json.loads((cann / "obs" / "sustained.json").read_text())["loops"] == 1
