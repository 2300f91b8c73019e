"""A host with an Ascend card, stood in for: a folder with npu-smi, driver files and things named as device nodes are.

Its driver carries the word `simulator`, so that no record made with it can be taken for an NPU's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.machine.npu import Host
from tests.simulators.ascend.packages import install_on

_CORPUS = Path(__file__).resolve().parents[2] / "data" / "ascend"
_TOOL = """#!/bin/sh
# Answers as npu-smi does, from outputs that were printed by real ones.
folder=$(dirname "$0")
case "$*" in
    info) cat "$folder/npu-smi.info"; exit "$(cat "$folder/npu-smi.code")" ;;
    "info -t board -i "*) cat "$folder/npu-smi.board" ;;
    "info -t product -i "*) [ -f "$folder/npu-smi.product" ] && cat "$folder/npu-smi.product" ;;
    "info -t common -i "*) [ -f "$folder/npu-smi.common" ] && cat "$folder/npu-smi.common" ;;
    "info -m") [ -f "$folder/npu-smi.mapping" ] && cat "$folder/npu-smi.mapping" ;;
    *) echo "Usage: npu-smi info <watch|proc|-h|-m|-l|-t type> [Options...]"; exit 1 ;;
esac
"""
_SIMULATED = """simulator=lstm-ctc-bundle
fault={fault}
chip={chip}
"""


@dataclass(frozen=True)
class AscendHost:
    """What the card and its driver say.

    Attributes:
        smi: the recorded output of `npu-smi info`, a file of tests/data/ascend/info without .txt.
        driver, firmware: releases; those of tests/data/ascend have the file that a host of theirs has.
        product: the card's name on its board.
        product_type: a file of tests/data/ascend/product; '' for a tool that does not know `-t product`.
        common: a file of tests/data/ascend/common; '' for a tool that does not know `-t common`.
        devices: N of each /dev/davinciN.
        tool_folder: where npu-smi lies, below the root.
        fault: what opening a device fails with: a file of tests/data/ascend/errors.
        cann: the version of a CANN that is installed on the host, one of the simulator's layouts.
        chip: what the driver says it drives, where that is not what npu-smi shows.
    """

    smi: str = "one_chip"
    driver: str = "22.0.4"
    firmware: str = "22.0.4"
    product: str = "NA"
    product_type: str = ""
    common: str = ""
    devices: Sequence[int] = (0,)
    control: Sequence[str] = ("davinci_manager", "devmm_svm", "hisi_hdc")
    tool_folder: str = "usr/local/bin"
    fault: str = ""
    chip: str = "Ascend310P3"
    cann: str = ""

    def make(self, root: Path) -> Host:
        """Write the host's files below `root`; nothing of them is a device."""
        tools = root / self.tool_folder
        for folder in (tools, root / "dev", root / "etc", root / "usr/local/dcmi", root / "usr/local/Ascend/firmware"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("common", "driver"):
            (root / "usr/local/Ascend/driver/lib64" / name).mkdir(parents=True, exist_ok=True)
        tool = tools / "npu-smi"
        tool.write_text(_TOOL)
        tool.chmod(0o755)
        shutil.copyfile(_CORPUS / "info" / f"{self.smi}.txt", tools / "npu-smi.info")
        (tools / "npu-smi.code").write_text("1" if self.smi.startswith("dcmi") else "0")
        board = (_CORPUS / "board" / "22.0.4-name-not-available.txt").read_text().replace("22.0.4", self.driver)
        (tools / "npu-smi.board").write_text(re.sub(r"(Product Name +: ).*", rf"\g<1>{self.product}", board))
        if self.common:
            shutil.copyfile(_CORPUS / "common" / f"{self.common}.txt", tools / "npu-smi.common")
        if self.product_type:
            shutil.copyfile(_CORPUS / "product" / f"{self.product_type}.txt", tools / "npu-smi.product")
        told = _SIMULATED.format(fault=self.fault, chip=self.chip)
        (root / "usr/local/Ascend/driver/version.info").write_text(_version_info("driver", self.driver) + told)
        firmware = _version_info("firmware", self.firmware or "without-a-release")
        (root / "usr/local/Ascend/firmware/version.info").write_text(firmware)
        (root / "etc/ascend_install.info").write_text("UserName=HwHiAiUser\nUserGroup=HwHiAiUser\n")
        if self.cann and not (root / "usr/local/Ascend/SIMULATOR").exists():
            install_on(root / "usr/local/Ascend", self.cann)
        for name in [f"davinci{number}" for number in self.devices] + list(self.control):
            node = root / "dev" / name
            node.unlink(missing_ok=True)
            node.symlink_to("/dev/null")  # engines pass on device nodes alone
        return Host(root, search=(), run=run)


def _version_info(kind: str, release: str) -> str:
    """A file of the corpus; of a release that it does not have, 22.0.4's with that release's name."""
    recorded = _CORPUS / kind / f"{release.lower()}.txt"
    if recorded.is_file():
        return recorded.read_text().replace(release.lower(), release)
    return (_CORPUS / kind / "22.0.4.txt").read_text().replace("22.0.4", release)


def run(argv: Sequence[str]) -> tuple[int, str]:
    """Start a command of the simulated host."""
    done = subprocess.run(list(argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode()
