"""The simulator is as strict as what it stands in for: an argument that CANN does not know is refused here too."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

import pytest

from tests.simulators.ascend.packages import CORPUS, PAYLOAD, write_packages, zipped

GUIDE = ["--input_format=ND", "--framework=5", "--model=m.onnx", "--input_shape=actual_input_1:8,390,243",
         "--output=m_bs8", "--log=info", "--soc_version=Ascend310P3"]  # fmt: skip


def atc(folder, *words, devlib=True):
    (folder / "m.onnx").write_bytes(b"actual_input_1")
    if not (folder / "simulated").exists():
        shutil.copytree(CORPUS / "errors", folder / "simulated")
    libraries = f"{folder}/{platform.machine()}-linux/devlib" if devlib else "/usr/lib"
    env = {**os.environ, "ASCEND_TOOLKIT_HOME": str(folder), "LD_LIBRARY_PATH": libraries, "HOME": str(folder)}
    return subprocess.run([sys.executable, str(PAYLOAD / "atc"), *words], cwd=folder, env=env, capture_output=True,
                          text=True, check=False)  # fmt: skip


def test_the_guides_command_is_taken(tmp_path):
    done = atc(tmp_path, *GUIDE)
    assert (done.returncode, "ATC run success" in done.stdout) == (0, True)
    assert (tmp_path / "m_bs8.om").exists()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--soc_version=310P3", "Value [310P3] for parameter [--soc_version] is invalid"),
        ("--soc_version=Ascend910", "E10001"),
        ("--framework=3", "E10001"),
        ("--input_format=NDHWC", "E10001"),
        ("--log=verbose", "E10001"),
        ("--precision_mode=fp16", "E10001"),
        ("--input_shape=actual_input_1:8,390,", "E10011"),
        ("--input_shape=other:8,390,243", "E10016"),
        ("--model=absent.onnx", "E10041"),
        ("--batch=8", "unknown command line flag 'batch'"),
        ("info", "unknown command line flag"),
    ],
)
def test_another_flag_or_value_is_refused(tmp_path, word, said):
    done = atc(tmp_path, *[w for w in GUIDE if w.split("=")[0] != word.split("=")[0]], word)
    assert done.returncode != 0
    assert said in done.stdout
    assert not (tmp_path / "m_bs8.om").exists()


@pytest.mark.parametrize("missing", ["--framework", "--model", "--output", "--soc_version"])
def test_a_required_flag_that_is_missing_is_named(tmp_path, missing):
    done = atc(tmp_path, *[word for word in GUIDE if not word.startswith(missing + "=")])
    assert "E10007: " in done.stdout and f"[{missing}] is required" in done.stdout


def test_atc_needs_the_stub_libraries_first(tmp_path):
    assert "libascend_hal.so" in atc(tmp_path, *GUIDE, devlib=False).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--install"], "accept the EULA"),
        (["--quiet", "--install", "--whitelist=atc"], "Unrecognized flag"),
        (["--quiet"], "nothing to do"),
        (["--check"], "All good"),
    ],
)
def test_the_installer_knows_cann_s_flags_alone(tmp_path, words, said):
    write_packages(tmp_path)
    package = next(tmp_path.glob("Ascend-cann-toolkit_6.3.RC1_linux-*.run"))
    done = subprocess.run(["sh", str(package), *words], capture_output=True, text=True, check=False)
    assert said in done.stdout
    assert (done.returncode == 0) == (words == ["--check"])


def test_the_packages_have_the_vendors_names(tmp_path):
    write_packages(tmp_path, "aarch64")
    toolkit = tmp_path / "Ascend-cann-toolkit_6.3.RC1_linux-aarch64.run"
    zipped(toolkit)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Ascend-cann-kernels-310p_6.3.RC1_linux.run",
        "Ascend-cann-toolkit_6.3.RC1_linux-aarch64.run",
        "Ascend-cann-toolkit_6.3.RC1_linux-aarch64.zip",
        "aclruntime-0.0.2-cp37-cp37m-linux_aarch64.whl",
        "ais_bench-0.0.2-py3-none-any.whl",
    ]
