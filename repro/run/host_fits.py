"""Whether a host's driver, firmware and CANN fit each other: by the vendor's lists, then by the published table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from repro.base import versions
from repro.base.toml import read_toml
from repro.guide import published, toolchain
from repro.machine import npu as ascend
from repro.machine import vendor_lists
from repro.machine.vendor_lists import Fit

KNOWN_RELEASES = "ascend.toml"
INNER, DRIVERS = "innerversion", "compatible_version"


def table_cann(conf: Path) -> str:
    """The compatibility table's CANN, such as '6.3.RC1'."""
    return next(row.required for row in toolchain.load_components(conf) if row.source == "found:cann")


def firmware_deviation(npu: ascend.Npu, conf: Path) -> str:
    """Firmware and driver held against the card's entry in the compatibility table, in a sentence; '' when right."""
    required = next(row.required for row in toolchain.load_components(conf) if row.source == "host:driver")
    exceptions = published.load_published(conf / "published.toml").card_exceptions
    for_duo = [version for item in exceptions if item.card == ascend.DUO for version in item.accepts]
    return ascend.deviation(npu, required, for_duo) if npu.driver or npu.chips else ""


def firmware_fit(npu: ascend.Npu) -> Fit:
    """Whether driver and firmware of this host fit each other."""
    return vendor_lists.firmware_fits(npu.driver_info, npu.firmware_info)


def cann_fit(npu: ascend.Npu, conf: Path, version: str, installed: Mapping[str, str] | None = None) -> Fit:
    """Whether a CANN fits this host's driver.

    Args:
        npu: as examined.
        conf: the repository's conf/.
        version: such as '6.3.RC1'.
        installed: the fields of its ascend_toolkit_install.info, where it is installed and they were read.
    """
    releases = read_toml(conf / KNOWN_RELEASES)["release"]
    known: Mapping[str, str] = next((told for name, told in releases.items() if versions.same(name, version)), {})
    if installed and installed.get(INNER):
        fit = vendor_lists.cann_fits(installed, npu.driver_info, f"CANN {version}: ascend_toolkit_install.info")
    elif known:
        fit = vendor_lists.cann_fits(known, npu.driver_info, f'conf/{KNOWN_RELEASES}, release "{version}"')
    elif _is_older(version, releases):
        newer = {fields[INNER]: name for name, fields in releases.items()}
        fit = vendor_lists.older_cann_fits(npu.driver_info, newer)
    else:
        fit = Fit("not known", f"no public report shows which release line CANN {version} is of")
    if fit.answer == "not known" and versions.same(version, table_cann(conf)) and not firmware_deviation(npu, conf):
        return Fit("yes", f"the published table has CANN {version} with driver {npu.driver} on this card",
                   "conf/compatibility.toml, conf/published.toml")  # fmt: skip
    return fit


def _is_older(version: str, releases: Mapping[str, object]) -> bool:
    """Whether a version came before every release that is known."""
    found, known = versions.parse(version), [versions.parse(name) for name in releases]
    return found is not None and all(other is not None and found < other for other in known)


def facts(npu: ascend.Npu, conf: Path, version: str, installed: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the record says of it; nothing for a host without an NPU."""
    if not npu.driver_info:
        return {}
    return {
        "firmware_and_driver": str(firmware_fit(npu)),
        "cann_and_driver": str(cann_fit(npu, conf, version, installed)),
    }
