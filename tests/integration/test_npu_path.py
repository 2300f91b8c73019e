"""`--device npu` from speech to report, in real containers, against the simulator: commands, figures, failures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from auditing import verify_run

from repro.audit.claims import REFUTED
from repro.audit.evidence import open_run
from repro.base.errors import BundleError, CouldNotRun, VerificationFailed
from repro.base.paths import Paths
from repro.graph.pipeline import BATCH_SIZES, PINNED_IMAGES, Request
from repro.images.build import build_images
from repro.images.layer_tars import tar_of
from repro.machine import facts as host_facts
from repro.machine.npu import Host
from repro.record import load_record
from repro.report import terminal_summary
from repro.run.engine_choice import compiling_engine, probe_all
from repro.run.options import Options
from repro.run.target import Target, settle
from tests.forms import FULL, only_in_full
from tests.integration._ascend import checkout, run
from tests.integration._runs import GOLDEN, ROOT, store_of
from tests.simulators.ascend.host import AscendHost
from tests.simulators.ascend.packages import LAYOUTS, write_packages, zipped

ARCHITECTURE = host_facts.architecture()
# The vendor's own wheel, where a person has it: then its front end runs in place of the stand-in.
SIZES = BATCH_SIZES if FULL else (8, 16)  # golden's ten utterances fill a batch of 8, and none of 16
WHEEL = Path(os.environ.get("AIS_BENCH_WHEEL", ROOT / "data/sources/ais_bench-0.0.2-py3-none-any.whl"))


def build_cann(paths):
    """Image cann of this architecture, whatever IDs are pinned."""
    engine_for = compiling_engine(paths)
    built = build_images(paths, ["cann"], ARCHITECTURE, lambda _: None, engine_for=engine_for, check_pins=False)
    return built["cann"]


@pytest.fixture(scope="module")
def paths(finished: Path, tmp_path_factory) -> Paths:
    """Where the stages before conversion are taken from a finished run, which the CPU made."""
    made = checkout(tmp_path_factory.mktemp("ascend"), versions=tuple(LAYOUTS))
    store_of(finished, made.artifacts)
    return made


def aim_at(paths: Paths, toolchain: str, device: str, host: Host) -> Target:
    options = Options(Request((8,), device=device), toolchain=toolchain, ascend_host=host)
    return settle(paths, ARCHITECTURE, options)


def engine(name: str) -> str:
    found = {item.name: item for item in probe_all(Paths.of_checkout({}))}[name]
    if not found.usable:
        pytest.skip(f"{name}: {found.reason}")
    return name


def commands(document, key):
    return [c["argv"] for stage in document["stages"] if stage["key"] == key for c in stage["observations"]["commands"]]


def test_published_batch_sizes_in_docker_equal_the_cpu_s_and_take_the_guides_commands(paths):
    name = engine("docker")
    document = run(paths, AscendHost(), name, *SIZES)
    on_cpu = run(paths, None, name, *SIZES)
    for size, npu, cpu in zip(SIZES, document["results"], on_cpu["results"]):
        assert npu["published"] == cpu["published"]
        assert npu["complete"] == cpu["complete"]
        assert npu["comparison"]["within_thresholds"]
        assert commands(document, f"convert@{size}") == [
            ["atc", "--input_format=ND", "--framework=5", "--model=lstm_ctc.onnx",
             f"--input_shape=actual_input_1:{size},390,243", f"--output=lstm_ctc_bs{size}", "--log=info",
             "--soc_version=Ascend310P3"]
        ]  # fmt: skip
        inference = ["python3", "-m", "ais_bench", f"--model=lstm_ctc_bs{size}.om", f"--input=lstm_bin_bs{size}",
                     "--output=result", f"--output_dirname=bs{size}", "--outfmt=NPY"]  # fmt: skip
        assert (inference in commands(document, f"infer@{size}")) == (size <= 10)  # golden's dev set has 10 utterances
        assert commands(document, f"measure@{size}") == [
            ["python3", "-m", "ais_bench", f"--model=lstm_ctc_bs{size}.om", "--loop=2", f"--batchsize={size}"]
        ]


def test_no_simulated_figure_can_be_taken_for_an_npus(paths):
    host = AscendHost(common="310p3-pro-at-work-throttled")
    document = run(paths, host, engine("sandbox"), 8, loop=3)  # not the loop of the run in Docker: measured anew
    assert document["request"]["device"] == "npu-simulator"
    assert any("device 0 was throttled: its clock was 648 of 1080 MHz" in why for why in document["verdict"]["reasons"])
    assert document["results"][0]["while_measuring"]["seen_by"].startswith("npu-smi")
    assert document["host"]["npu_simulator"].startswith("yes")
    assert {check["status"] for check in document["verdict"]["checks"]} == {"not-comparable"}
    reasons = document["verdict"]["checks"][-1]["reasons"]
    assert any("NPU-SIMULATOR" in reason for reason in reasons)
    assert "simulator" in terminal_summary(load_record(paths.runs / "latest" / "record.json")).lower()
    for name in ("report.md", "report.html"):
        assert "This is a test: it ran on a simulator" in (paths.runs / "latest" / name).read_text()
    trust = {source["name"]: (source["trust"], source["licence"]) for source in document["sources"]}
    assert trust["ais_bench"][0].startswith("trusted on first use")
    assert "accepted by the user (CANN)" in trust["cann-kernels-310p"][1]
    probe = next(stage for stage in document["stages"] if stage["key"] == "probe:cann")
    found = paths.store / probe["fingerprint"][:2] / probe["fingerprint"] / "out" / "probe.json"
    assert json.loads(found.read_bytes())["simulator"] is True


def test_two_chips_of_one_card_share_the_batches_and_compare_with_nothing(paths):
    host = AscendHost(smi="duo", devices=(0, 1), driver="23.0.rc1", firmware="23.0.rc1")
    document = run(paths, host, engine("sandbox"), 4, devices=(0, 1))
    assert document["request"]["num_devices"] == 2
    assert {words[-1] for words in commands(document, "infer@4")} >= {"--device=0", "--device=1"}
    assert {words[-1] for words in commands(document, "measure@4")} == {"--device=0", "--device=1"}
    assert any("shared by 2 chips" in reason for reason in document["verdict"]["reasons"])
    alone = run(paths, AscendHost(), engine("sandbox"), 4)
    assert document["results"][0]["published"] == alone["results"][0]["published"]


def in_layout(paths: Paths, engine_name: str, cann: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A run with another CANN than the table's, and its row: the commands are the guide's, and nothing is compared.

    The full form forces every stage: what the other engine stored would be taken.
    """
    host = AscendHost(driver="25.0.rc1.1", firmware="25.0.rc1.1", cann="8.5.0" if cann == "host" else "")
    document = run(paths, host, engine(engine_name), 8, cann=cann, force=FULL)
    assert {stage["observations"]["engine"] for stage in document["stages"] if stage["name"].endswith("_npu")} == {
        engine_name
    }
    assert document["results"][0]["comparison"]["within_thresholds"]
    assert commands(document, "convert@8")[0][-1] == "--soc_version=Ascend310P3"
    assert any(f"CANN {document['request']['cann']}" in reason for reason in document["verdict"]["reasons"])
    row = next(row for row in document["toolchain"] if row["component"] == "CANN")
    assert (row["status"], document["host"]["firmware_and_driver"][:4]) == ("deviates", "yes:")
    assert document["host"]["cann_and_driver"].startswith("yes: ")
    return document, row


@pytest.mark.parametrize(
    ("version", "engine_name"),
    [
        ("8.1.RC1", "docker"),
        ("8.5.0", "sandbox"),
        pytest.param("8.1.RC1", "sandbox", marks=only_in_full),
        pytest.param("8.5.0", "docker", marks=only_in_full),
    ],
)
def test_another_cann_runs_in_the_layout_that_its_files_show(paths, version, engine_name):
    document, row = in_layout(paths, engine_name, version)
    assert (row["found"], row["probe"]) == (version, f"found:cann in image cann-{version.lower()}")
    assert {source["name"] for source in document["sources"]} >= {f"cann-toolkit-any-{ARCHITECTURE}@{version.lower()}"}


@pytest.mark.parametrize("engine_name", ["docker", pytest.param("sandbox", marks=only_in_full)])
def test_the_hosts_own_cann_is_lent_to_the_stages(paths, engine_name):
    document, row = in_layout(paths, engine_name, "host")
    assert document["request"]["cann"] == "host 8.5.0 V100R001C25SPC001B220"
    assert row["probe"] == "found:cann in image cann-host-py311"
    assert not any(source["name"].startswith("cann-") for source in document["sources"])
    folder = (paths.runs / "latest").resolve()
    outcome = verify_run(open_run(folder, paths), GOLDEN / "TIMIT", paths.data / "demo" / "checkpoint.pth")
    assert outcome.of_status(REFUTED) == []


def test_the_vendors_own_front_end_is_satisfied_by_the_simulated_runtime(tmp_path):
    if not WHEEL.exists():
        pytest.skip("the vendor's ais_bench 0.0.2 is not given: data/sources, or AIS_BENCH_WHEEL")
    document = run(checkout(tmp_path, WHEEL), AscendHost(), engine("sandbox"), 8)
    assert document["results"][0]["comparison"]["within_thresholds"]
    assert len(commands(document, "infer@8")) == 2


@pytest.mark.parametrize(
    ("host", "said", "remedy"),
    [
        (AscendHost(smi="dcmi_8005"), "dcmi cannot be initialised", "restart the host"),
        (AscendHost(smi="dcmi_8020"), "in use by another container", "stop the container"),
        (AscendHost(smi="busy"), r"busy: device 0 by python3 \(pid 48213\)", "wait until"),
        (AscendHost(smi="unhealthy"), "is not healthy: Alarm", "npu-smi info -t health"),
        (AscendHost(control=("davinci_manager", "hisi_hdc")), "/dev/devmm_svm is not there", "install it again"),
    ],
)
def test_an_npu_that_cannot_be_used_is_refused_before_anything_runs(paths, host, said, remedy, tmp_path):
    with pytest.raises(CouldNotRun, match=said) as caught:
        aim_at(paths, "portable", "npu", host.make(tmp_path))
    assert remedy in caught.value.hint


@pytest.mark.parametrize(
    ("fault", "said", "remedy"),
    [
        ("dcmi-8005", "dcmi cannot be initialised", "npu-smi info"),
        ("busy", "the NPU is busy", "--devices"),
        ("open-device", "the NPU could not be opened", "HwHiAiUser"),
    ],
)
def test_a_driver_that_fails_inside_the_container_is_explained(paths, fault, said, remedy):
    host = AscendHost(fault=fault, firmware=f"of a host with {fault}")  # nothing is stored for such a host
    with pytest.raises(BundleError, match=said) as caught:
        run(paths, host, engine("sandbox"), 8)
    assert remedy in caught.value.hint


def test_a_chip_that_is_not_the_one_converted_for_is_explained(paths):
    with pytest.raises(BundleError, match="converted for another chip"):
        run(paths, AscendHost(chip="Ascend310P1", firmware="of another host"), engine("sandbox"), 8)


def test_pinned_refuses_to_be_called_so_where_firmware_or_sources_deviate(paths, tmp_path, monkeypatch):
    with pytest.raises(CouldNotRun, match="not complete here") as caught:
        aim_at(paths, "pinned", "cpu", Host(tmp_path, search=()))
    assert "exporter-pinned" in caught.value.detail
    assert "Python-3.7.5.tar.xz" in caught.value.detail
    monkeypatch.setattr("repro.run.target.lacking_for_pinned", lambda *_: {})
    host = AscendHost(driver="23.0.0").make(tmp_path)
    with pytest.raises(CouldNotRun, match=r"has driver 23\.0\.0; the compatibility table requires 22.0.4"):
        aim_at(paths, "pinned", "npu", host)
    target = aim_at(paths, "auto", "npu", host)
    assert (set(target.pinned), any("deviates" in line for line in target.said)) == (set(PINNED_IMAGES), True)


def test_auto_is_portable_where_no_ascend_card_is(paths, tmp_path):
    assert aim_at(paths, "auto", "cpu", Host(tmp_path, search=())).pinned == ()


def test_a_packages_other_bytes_are_held_to_the_first_seen_and_the_licence_is_asked_for(tmp_path):
    paths = checkout(tmp_path)
    build_cann(paths)
    wheel = paths.data / "sources" / "ais_bench-0.0.2-py3-none-any.whl"
    lock = json.loads((paths.data / "user.lock.json").read_bytes())
    assert wheel.name in lock["sources"]
    assert "accepted" in lock["licences"]["CANN"]
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    (paths.data / "sources" / "Ascend-cann-kernels-310p_6.3.RC1_linux.run").touch()
    lock["sources"]["Ascend-cann-kernels-310p_6.3.RC1_linux.run"] = "0" * 64
    del lock["licences"]
    (paths.data / "user.lock.json").write_text(json.dumps(lock))
    with pytest.raises(CouldNotRun, match="accepts Huawei's licence") as caught:
        build_images(
            paths, ["cann"], ARCHITECTURE, lambda _: None, check_pins=False, engine_for=compiling_engine(paths)
        )
    assert "accept-cann-licence" in caught.value.hint
    lock["licences"] = {"CANN": "accepted"}
    (paths.data / "user.lock.json").write_text(json.dumps(lock))
    with pytest.raises(VerificationFailed, match=r"data/user.lock.json says 0{64}"):
        build_images(
            paths, ["cann"], ARCHITECTURE, lambda _: None, check_pins=False, engine_for=compiling_engine(paths)
        )


def test_the_cann_layer_is_the_same_twice_and_holds_nothing_of_where_it_was_made(paths, tmp_path):
    found = []
    for where in (paths, checkout(tmp_path)):
        image = build_cann(where)
        found.append(image.config_digest)
        blob = b"".join(tar_of(image.layers[-1]))
        assert b"/run/out" not in blob
        assert b"install_of_" not in blob
        assert b"HwHiAiUser:x:1000:1000" in blob
    assert found[0] == found[1]


def test_a_zip_that_is_not_the_published_one_is_refused(tmp_path):
    paths = checkout(tmp_path)
    package = next((paths.data / "sources").glob("Ascend-cann-toolkit*.run"))
    zipped(package)
    package.unlink()
    with pytest.raises(VerificationFailed, match=r"conf/sources\.toml says 996f9a5f"):
        build_images(
            paths, ["cann"], ARCHITECTURE, lambda _: None, check_pins=False, engine_for=compiling_engine(paths)
        )
    write_packages(paths.data / "sources")
    assert build_images(
        paths, ["cann"], ARCHITECTURE, lambda _: None, check_pins=False, engine_for=compiling_engine(paths)
    )
