"""Where a run goes: options refused, what a container gets of the NPU, who may be called pinned, what is compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from repro.base.errors import CouldNotRun, UsageError
from repro.base.paths import Paths
from repro.container.job import Job
from repro.engines.bubblewrap import closed_args
from repro.engines.closed import check_job, device_paths, group, passwd
from repro.engines.npu_access import access_for
from repro.graph.pipeline import STAGES, Request, build_graph
from repro.guide import published, toolchain
from repro.guide.conditions import is_excepted
from repro.guide.toolchain import PINNED_DEVIATING
from repro.guide.verdict import verdict
from repro.machine.npu import Host, choose_chips, examine
from repro.record.document import Host as RecordedHost
from repro.record.stage_files import ProbeFile
from repro.run.options import Options
from repro.run.target import Target, parse_devices, settle
from tests.simulators.ascend.host import AscendHost
from tests.unit._graph_cases import image
from tests.unit._record_cases import demo_record, document_of, published_record, record_of

ROOT = Path(__file__).resolve().parent.parent.parent
CONF = ROOT / "conf"
TABLE = published.load_published(CONF / "published.toml")
COMPONENTS = toolchain.load_components(CONF)
EVERYTHING = {
    "exporter-pinned": {"python": "3.7.5", "wheels": {"torch": "1.8.0+cpu", "numpy": "1.20.3"}},
    "kaldi": {"found": {"kaldi": "Kaldi with OpenBLAS"}},
    "cann": {"found": {"cann": "6.3.RC1"}, "wheels": {"ais-bench": "0.0.2"}},
    "base": {"wheels": {"kaldiio": "2.18.1", "rapidfuzz": "3"}},
    "runtime": {"wheels": {"onnx": "1.19.1", "onnxruntime": "1.23.2"}},
}
HOST = {"driver": "22.0.4", "chip": "Ascend310P3", "card": "Atlas 300I Pro"}


def typed_probes(probes):
    empty = {
        "python": "", "implementation": "CPython", "glibc": "2.36", "wheels": {}, "debs": {}, "found": {},
        "simulator": False,
    }  # fmt: skip
    return {name: msgspec.convert({**empty, **probe}, ProbeFile) for name, probe in probes.items()}


def typed_host(host):
    return msgspec.convert({**demo_record()["host"], **host}, RecordedHost)


@pytest.mark.parametrize(("text", "devices"), [("", ()), ("0", (0,)), ("1,0", (1, 0))])
def test_devices_are_read(text, devices):
    assert parse_devices(text) == devices


@pytest.mark.parametrize("text", ["x", "0,0", "-1", "256", "0,", "all"])
def test_what_is_no_list_of_devices_is_wrong_use(text):
    with pytest.raises(UsageError, match="not a list of NPU device numbers"):
        parse_devices(text)


@pytest.mark.parametrize(
    ("toolchain_name", "device", "devices", "said"),
    [("best", "cpu", (), "--toolchain best"), ("auto", "tpu", (), "--device tpu"), ("auto", "cpu", (0,), "--devices")],
)
def test_options_that_do_not_fit_are_wrong_use(toolchain_name, device, devices, said):
    with pytest.raises(UsageError, match=said):
        aim_at(toolchain_name, device, devices=devices)


def aim_at(toolchain_name: str, device: str = "cpu", host: Host | None = None, **more: object) -> Target:
    options = Options(Request((8,), device=device), toolchain=toolchain_name, **more)
    return settle(Paths(ROOT), "amd64", options if host is None else replace(options, ascend_host=host))


def test_disk_is_asked_for_before_it_is_spent(tmp_path, monkeypatch):
    from repro.run.target import _cost

    (tmp_path / "conf").symlink_to(CONF)
    (tmp_path / "docker").symlink_to(ROOT / "docker")
    package = tmp_path / "data" / "sources" / "Ascend-cann-kernels-310p_6.3.RC1_linux.run"
    package.parent.mkdir(parents=True)
    package.write_bytes(bytes(1000))
    monkeypatch.setattr("repro.run.target.known_images", lambda *_: {})
    (line,) = _cost(Paths(tmp_path), "amd64", "cann")
    assert "is built first" in line
    monkeypatch.setattr("repro.run.target._UNPACKED_FACTOR", 1e15)
    with pytest.raises(CouldNotRun, match="GB are free"):
        _cost(Paths(tmp_path), "amd64", "cann")
    monkeypatch.setattr("repro.run.target.known_images", lambda *_: {"cann": image("cann")})
    assert _cost(Paths(tmp_path), "amd64", "cann") == []


def test_a_container_gets_the_chosen_nodes_and_the_driver_and_nothing_else(tmp_path):
    host = AscendHost("duo", devices=(0, 1)).make(tmp_path)
    npu = examine(host)
    access = access_for(npu, choose_chips(npu, [1]), host, "docker", {})
    assert [device_paths(device)[1] for device in access.devices] == [
        "/dev/davinci1", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"
    ]  # fmt: skip
    assert sorted(mount.target for mount in access.mounts) == [
        "/etc/ascend_install.info", "/usr/local/Ascend/driver/lib64", "/usr/local/Ascend/driver/version.info",
        "/usr/local/bin/npu-smi", "/usr/local/dcmi",
    ]  # fmt: skip
    assert not any(mount.writable for mount in access.mounts)
    assert (access.shares_ipc, access.runtime, access.env) == (True, "", {})


def test_nodes_that_only_a_group_may_open_bring_that_group(tmp_path):
    host = AscendHost().make(tmp_path)
    node = tmp_path / "dev" / "davinci0"
    node.unlink()
    node.write_bytes(b"")
    node.chmod(0o660)
    npu = examine(host)
    assert access_for(npu, npu.chips, host, "docker", {}).groups == (node.stat().st_gid,)


def test_a_node_that_this_user_may_not_open_is_refused_where_no_engine_can_help(tmp_path, monkeypatch):
    host = AscendHost().make(tmp_path)
    npu = examine(host)
    monkeypatch.setattr("repro.engines.npu_access.os.access", lambda path, mode: not str(path).endswith("devmm_svm"))
    access_for(npu, npu.chips, host, "docker", {})
    with pytest.raises(CouldNotRun, match="may not open /dev/devmm_svm") as caught:
        access_for(npu, npu.chips, host, "sandbox", {})
    assert "HwHiAiUser" in caught.value.hint


def test_a_node_that_went_away_is_named(tmp_path):
    host = AscendHost().make(tmp_path)
    npu = examine(host)
    (tmp_path / "dev" / "hisi_hdc").unlink()
    for engine in ("docker", "podman", "sandbox"):
        with pytest.raises(CouldNotRun, match="/dev/hisi_hdc is not there any more"):
            access_for(npu, npu.chips, host, engine, {})


def test_the_ascend_runtime_is_used_where_docker_has_it(tmp_path):
    host = AscendHost("duo", devices=(0, 1)).make(tmp_path)
    npu = replace(examine(host), simulator=False)
    access = access_for(npu, npu.chips, host, "docker", {"runtimes": "ascend, runc"})
    assert (access.runtime, access.env) == ("ascend", {"ASCEND_VISIBLE_DEVICES": "0,1"})
    assert (access.devices, access.mounts, access.shares_ipc) == ((), (), False)


def test_only_a_job_with_devices_may_share_the_hosts_ipc():
    job = Job(image(), ("true",), shares_ipc=True)
    with pytest.raises(CouldNotRun, match="only a job with devices"):
        check_job(job)
    with pytest.raises(CouldNotRun, match="the device node /dev/nowhere is not there"):
        check_job(replace(job, devices=("/dev/nowhere:/dev/davinci0",)))
    check_job(replace(job, devices=("/dev/null:/dev/davinci0",)))


def test_the_sandbox_of_a_job_with_devices_is_closed_in_all_but_ipc():
    plain = closed_args(Job(image(), ("true",)))
    shared = closed_args(Job(image(), ("true",), devices=("/dev/null",), shares_ipc=True))
    assert "--unshare-all" in plain
    assert "--unshare-ipc" not in shared
    assert {
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--disable-userns",
        "--cap-drop",
    } <= set(shared)


def test_the_vendors_user_is_named_in_every_container():
    for uid in (0, 999):
        assert b"HwHiAiUser:x:1000:1000:" in passwd(uid, uid)
        assert b"HwHiAiUser:x:1000:" in group(uid)


def test_on_the_npu_three_stages_change_and_their_steps_keep_their_names():
    request = Request((8,), device="npu", soc_version="Ascend310P3", precision_mode="force_fp16", num_devices=2)
    nodes = build_graph(request, CONF, Path("demo"))
    assert set(nodes) == set(build_graph(Request((8,)), CONF, Path("demo")))
    assert [nodes[f"{name}@8"].stage.name for name in ("convert", "infer", "measure")] == [
        "convert_npu", "infer_npu", "measure_npu"
    ]  # fmt: skip
    assert nodes["convert@8"].parameters == {
        "bs": "8", "soc-version": "Ascend310P3", "precision-mode": "force_fp16"
    }  # fmt: skip
    assert nodes["infer@8"].parameters == {"bs": "8", "num-devices": "2"}
    assert {name for name, stage in STAGES.items() if stage.accelerator} == {"infer_npu", "measure_npu"}
    assert nodes == {**build_graph(replace(request, device="npu-simulator"), CONF, Path("demo"))}


def rows(probes=EVERYTHING, host=HOST):
    return toolchain.compare(COMPONENTS, typed_probes(probes), host)


def named(found, host=HOST):
    return toolchain.name_of(("features",), "", found, lambda row: is_excepted(row, typed_host(host), TABLE))


def test_pinned_is_earned_by_every_row_of_the_table_and_requirements_are_only_shown():
    found = rows()
    assert named(found) == "pinned"
    assert {row.component for row in found if row.status != "same"} == {
        "kaldiio", "onnx", "onnxruntime", "editdistance", "torchvision", "Pillow", "pyyaml", "tensorboard"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("image_name", "change"),
    [
        ("exporter-pinned", {"python": "3.7.16"}),
        ("exporter-pinned", {"wheels": {"torch": "1.8.1", "numpy": "1"}}),
        ("kaldi", {"found": {"kaldi": "Kaldi without OpenBLAS"}}),
        ("cann", {"found": {"cann": "6.3.RC2"}}),
        ("cann", {"wheels": {}}),
    ],
)
def test_one_row_that_deviates_takes_the_name_away(image_name, change):
    assert named(rows({**EVERYTHING, image_name: {**EVERYTHING[image_name], **change}})) == PINNED_DEVIATING


@pytest.mark.parametrize("driver", ["23.0.RC1", "23.0.rc1"])
def test_another_driver_takes_the_name_away_except_for_the_footnotes_card(driver):
    newer = {**HOST, "driver": driver}
    assert named(rows(host=newer), newer) == PINNED_DEVIATING
    duo = {**newer, "card": "Atlas 300I Duo"}
    assert named(rows(host=duo), duo) == "pinned"


@pytest.mark.parametrize("driver", ["23.0.rc1", "6.3.Rc1"])
def test_the_footnotes_versions_are_excused_however_they_are_spelt(driver: str):
    duo = {**HOST, "driver": driver, "card": "Atlas 300I Duo"}
    assert named(rows(host=duo), duo) == "pinned"


@pytest.mark.parametrize("driver", ["23.0.rc2", "24.1.rc1", "driver 23.0.rc1, firmware 22.0.4", ""])
def test_the_footnote_does_not_excuse_every_driver_of_its_card(driver: str):
    duo = {**HOST, "driver": driver, "card": "Atlas 300I Duo"}
    assert named(rows(host=duo), duo) == PINNED_DEVIATING


NO_KALDI = {"kaldi": "image kaldi: sources are missing"}
NO_PYTHON = {"exporter-pinned": "image exporter-pinned: sources are missing"}


@pytest.mark.parametrize(
    ("lacking", "taken"),
    [
        ({}, ("features", "export", "reference")),
        (NO_PYTHON, ("features",)),
        (NO_KALDI, ("export", "reference")),
        ({**NO_KALDI, **NO_PYTHON}, ()),
    ],
)
def test_auto_takes_every_pinned_image_that_can_be_made_with_and_without_an_npu(lacking, taken, tmp_path, monkeypatch):
    monkeypatch.setattr("repro.run.target._lacking", lambda *_: lacking)
    for host in (AscendHost().make(tmp_path / "ascend"), Host(tmp_path / "none", search=())):
        target = aim_at("auto", host=host)
        assert target.pinned == taken
        said = " ".join(target.said)
        assert all(f"pinned: {stage} runs in image" in said for stage in taken)
        if taken or host.root.name == "ascend":
            assert all(why in said for why in lacking.values())
        else:
            assert said == ""
        assert aim_at("portable", host=host).pinned == ()
        if lacking:
            with pytest.raises(CouldNotRun, match="not complete") as caught:
                aim_at("pinned", host=host)
            assert all(why in caught.value.detail for why in lacking.values())
        else:
            assert aim_at("pinned", host=host).pinned == taken


@pytest.mark.parametrize("spelt", ["23.0.rc1", "23.0.RC1", "6.3.rc1"])
def test_the_pinned_toolchain_takes_a_duo_of_the_footnote_and_no_other_cann(spelt, tmp_path, monkeypatch):
    monkeypatch.setattr("repro.run.target._lacking", lambda *_: {})
    monkeypatch.setattr("repro.run.target._cost", lambda *_: [])
    host = AscendHost(smi="duo", devices=(0, 1), driver=spelt, firmware=spelt).make(tmp_path)
    target = aim_at("pinned", "npu", host)
    assert (target.npu.product, len(target.pinned), target.cann) == ("Atlas 300I Duo", 3, "")
    assert not any(line.startswith(("deviates", "driver and")) for line in target.said)
    with pytest.raises(CouldNotRun, match=r"not the pinned toolchain: --cann 8\.1\.RC1"):
        aim_at("pinned", "npu", host, cann="8.1.RC1")
    assert aim_at("auto", "npu", host, cann="8.1.RC1").cann == "8.1.RC1"
    with pytest.raises(UsageError, match="--cann is for --device npu"):
        aim_at("auto", "cpu", host, cann="8.1.RC1")


def test_what_the_vendors_lists_exclude_is_said_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("repro.run.target._lacking", lambda *_: {})
    monkeypatch.setattr("repro.run.target._cost", lambda *_: [])
    host = AscendHost(driver="25.0.rc1.1", firmware="25.0.rc1.1", cann="8.1.RC1").make(tmp_path)
    assert any(
        line.startswith("driver and CANN 6.3.RC1 fit each other: no") for line in aim_at("auto", "npu", host).said
    )
    lent = aim_at("auto", "npu", host, cann="host")
    assert not any("fit each other" in line for line in lent.said)
    ((image_name, (mount,)),) = lent.mounts.items()
    assert (image_name, mount.target, mount.writable) == ("cann-host-py311", "/usr/local/Ascend", False)


def test_stages_asked_for_by_name_are_pinned_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr("repro.run.target._lacking", lambda *asked: NO_PYTHON if len(asked[2]) > 1 else {})
    host = Host(tmp_path, search=())
    assert aim_at("portable", host=host, pinned=("features",)).pinned == ("features",)
    assert aim_at("auto", host=host, pinned=()).pinned == ()
    with pytest.raises(CouldNotRun, match="not complete"):
        aim_at("portable", host=host, pinned=("features", "export"))


def test_a_portable_run_is_never_called_pinned():
    assert toolchain.name_of((), "", rows(), lambda _: True) == "portable"


def test_another_cann_takes_the_name_pinned_away_though_its_version_is_the_tables():
    assert toolchain.name_of(("features",), "host 6.3.RC1", rows(), lambda _: True) == "pinned-deviating"
    assert toolchain.name_of(("features",), "", rows(), lambda _: True) == "pinned"


def test_the_table_is_shown_with_what_stands_in():
    text = toolchain.describe(rows({"features": {"wheels": {"llvmlite": "0.44"}}}, {}))
    assert "kernels of our own, compiled by llvmlite 0.44" in text
    assert "The guide's requirements.txt" in text
    assert "found:cann in image cann" in text


def run_on(device, **request):
    document = published_record(sizes=(8,))
    document["request"].update(device=device, **request)
    document["host"].update(HOST)
    document["toolchain"] = document_of(rows())
    return record_of(document)


@pytest.mark.parametrize(
    ("record", "status", "said"),
    [
        (run_on("npu"), "reproduced", ""),
        (run_on("npu-simulator"), "not-comparable", "ran on the NPU-SIMULATOR"),
        (run_on("npu", num_devices=2), "not-comparable", "shared by 2 chips"),
        (run_on("npu", precision_mode="force_fp32"), "not-comparable", "atc's force_fp32"),
        (run_on("npu", cann="8.1.RC1"), "not-comparable", "CANN 8.1.RC1, as was asked for"),
        (run_on("cpu"), "not-comparable", "ran on the CPU"),
    ],
)
def test_only_one_real_chip_at_the_vendors_precision_is_compared(record, status, said):
    (speed,) = [check for check in verdict(record, TABLE).checks if check.metric.startswith("throughput")]
    assert speed.status == status
    assert said in " ".join(speed.reasons)
