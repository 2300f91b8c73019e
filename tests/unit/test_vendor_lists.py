"""Driver, firmware and CANN held against each other by the vendor's own lists: a truth table over the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.machine.npu import DUO, Npu, examine
from repro.machine.npu_smi import parse_fields
from repro.machine.vendor_lists import cann_fits, covers, covers_branch, firmware_fits, older_cann_fits, pairs
from repro.run import host_fits
from tests.simulators.ascend.host import AscendHost

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
CORPUS = ROOT / "tests" / "data" / "ascend"
NO_CANN = "6.3.rc1"  # no public report shows its file: it is judged by its release


def fields(kind: str, name: str) -> dict[str, str]:
    return parse_fields((CORPUS / kind / f"{name}.txt").read_text(encoding="utf-8"))


# driver, firmware, CANN: do driver and firmware fit, and by which list; do driver and CANN fit, and by which list.
TRIPLES = [
    ("22.0.4", "22.0.4", NO_CANN, "yes", "package_version=22.0.4", "yes", "conf/compatibility.toml"),
    ("22.0.4", "24.1.rc3", NO_CANN, "no", "compatible_version_drv", "not known", ""),
    ("22.0.4", "without-a-release", "8.1.rc1", "not known", "", "not known", "compatible_version=[V100R001C15]"),
    ("23.0.rc1", "22.0.4", NO_CANN, "not known", "", "not known", "compatible_version=[V100R001C11]"),
    ("23.0.rc1", "23.0.7", "7.0.rc1", "no", "compatible_version_drv", "yes", "compatible_version=[V100R001C29]"),
    ("24.1.rc1", "23.0.7", "8.0.rc1", "yes", "[7.0.0,7.2.99]", "yes", "[V100R001C15,V100R001C18]"),
    ("24.1.rc1", "23.0.7", NO_CANN, "yes", "compatible_version_fw", "not known", "[V100R001C30]"),
    ("24.1.rc1", "24.1.rc3", "8.1.rc1", "yes", "compatible_version_drv", "yes", "[V100R001C15],[V100R001C18]"),
    ("24.1.rc1", "22.0.4", "9.1.0", "no", "compatible_version_fw", "not known", "innerversion=V100R001C11"),
    ("24.1.rc1", "25.0.rc1.1", "8.5.0", "yes", "[24.1,24.1.]", "yes", "[V100R001C15]"),
    ("24.1.rc2.2", "23.0.7", "8.0.rc1", "yes", "[7.0.0,7.2.99]", "yes", "[V100R001C15,V100R001C18]"),
    ("24.1.rc2.2", "24.1.rc3", "7.0.rc1", "yes", "[24.1,24.1.]", "yes", "[V100R001C30],[V100R001C13]"),
    ("24.1.rc2.2", "22.0.4", NO_CANN, "no", "[7.0.0,7.2.99]", "not known", "[V100R001C30]"),
    ("24.1.rc2.2", "25.0.rc1.1", "8.3.rc1-without-a-list", "yes", "[24.1,24.1.]", "not known", "innerversion="),
    ("24.1.rc3", "24.1.rc3", "8.0.rc3", "yes", "[7.0.0,7.5.99]", "yes", "[V100R001C13,V100R001C19]"),
    ("24.1.rc3", "24.1.rc3", NO_CANN, "yes", "[7.0.0,7.5.99]", "no", "[V100R001C13]"),
    ("24.1.rc3", "25.0.rc1.1", "8.1.rc1", "yes", "[24.1,24.1.]", "yes", "[V100R001C19]"),
    ("25.0.rc1.1", "25.0.rc1.1", "8.1.rc1", "yes", "[7.0.0,7.7.99]", "yes", "[V100R001C21]"),
    ("25.0.rc1.1", "25.0.rc1.1", NO_CANN, "yes", "[7.0.0,7.7.99]", "no", "[V100R001C17]"),
    ("25.0.rc1.1", "22.0.4", "7.0.rc1", "no", "[6.4.0,6.4.99]", "no", "[V100R001C17]"),
    ("25.0.rc1.1", "without-a-release", "8.5.0", "no", "[6.4.0,6.4.99]", "yes", "[V100R001C21]"),
    ("25.0.rc1.1", "24.1.rc3", "8.0.rc3", "yes", "[7.0.0,7.7.99]", "yes", "[V100R001C17],[V100R001C18]"),
    ("25.3.rc1", "25.0.rc1.1", "8.5.0", "yes", "[7.0.0,8.9.9]", "yes", "[V100R001C23]"),
    ("25.3.rc1", "24.1.rc3", "8.0.rc1", "yes", "[7.0.0,8.9.9]", "no", "[V100R001C19]"),
    ("25.3.rc1", "25.0.rc1.1", NO_CANN, "yes", "[7.0.0,8.9.9]", "no", "[V100R001C19]"),
    ("25.3.rc1", "25.0.rc1.1", "9.1.0", "yes", "[7.0.0,8.9.9]", "not known", "innerversion=V100R001C11"),
    ("25.3.rc1", "22.0.4", "7.0.rc1", "no", "[7.0.0,8.9.9]", "no", "[V100R001C19]"),
]  # fmt: skip


@pytest.mark.parametrize(("driver", "firmware", "cann", "first", "first_line", "second", "second_line"), TRIPLES)
def test_the_truth_table(driver, firmware, cann, first, first_line, second, second_line):
    npu = Npu(
        driver=fields("driver", driver)["Version"],
        firmware=fields("firmware", firmware).get("package_version", ""),
        driver_info=fields("driver", driver),
        firmware_info=fields("firmware", firmware),
    )
    of_firmware = host_fits.firmware_fit(npu)
    assert (of_firmware.answer, first_line in of_firmware.line) == (first, True)
    installed = None if cann == NO_CANN else fields("cann", cann)
    of_cann = host_fits.cann_fit(npu, CONF, installed["version"] if installed else "6.3.RC1", installed)
    assert (of_cann.answer, second_line in of_cann.line) == (second, True)
    for fit in (of_firmware, of_cann):
        assert fit.why and str(fit).startswith(f"{fit.answer}: ") and (fit.line or fit.answer == "not known"), fit


def test_the_truth_table_has_enough_triples():
    assert len({row[:3] for row in TRIPLES}) == len(TRIPLES) >= 20


def test_what_public_reports_show_of_a_release_answers_as_its_installed_file_does():
    for name in ("7.0.rc1", "8.0.rc1", "8.0.rc3", "8.1.rc1", "8.5.0"):
        installed = fields("cann", name)
        for driver in ("24.1.rc1", "24.1.rc3", "25.0.rc1.1", "25.3.rc1"):
            npu = Npu(driver=driver, driver_info=fields("driver", driver))
            before = host_fits.cann_fit(npu, CONF, installed["version"].lower())
            assert before.answer == host_fits.cann_fit(npu, CONF, installed["version"], installed).answer, (
                name,
                driver,
            )
    npu = Npu(driver="25.3.rc1", driver_info=fields("driver", "25.3.rc1"))
    assert host_fits.cann_fit(npu, CONF, "9.2.0").answer == "not known"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("[7.0.0,7.2.99]", (("7.0.0", "7.2.99"),)),
        ("[A],[B,C]", (("A", "A"), ("B", "C"))),
        ("", None),
        ("7.0.0", None),
        ("[7.0.0", None),
        ("[7.0.0],", None),
        ("[7.0.0] [7.1.0]", None),
        ("[,7.1.0]", None),
        ("[7.0.0,7.1.0,7.2.0]", None),
        ("[[7.0.0]]", None),
    ],
)
def test_a_list_is_read_strictly(text, read):
    assert pairs(text) == read


@pytest.mark.parametrize(
    ("listed", "version", "answer"),
    [
        ("[24.1,24.1.]", "24.1.rc2.2", True),
        ("[24.1,24.1.]", "24.1", True),
        ("[24.1,24.1.]", "24.10.0", False),
        ("[23.0.rc3,23.0.rc3.]", "23.0.RC3.b033", True),
        ("[23.0.rc3,23.0.rc3.]", "23.0.0", False),
        ("[23.0.0,23.0.0.]", "23.0.rc3", False),
        ("[23.0.0,23.0.0.]", "23.0.3", False),
        ("[7.0.0,7.2.99]", "7.1.0.11.220", True),
        ("[7.0.0,7.2.99]", "7.3.0.1.231", False),
        ("[7.0.0,7.2.99]", "7.10.0.1", None),  # as texts it lies within, as versions it does not
        ("[6.4.0,6.4.99],[7.0.0,7.7.99]", "6.4.12.1.241", True),
        ("not a list", "7.0.0", None),
    ],
)
def test_a_version_in_a_list(listed, version, answer):
    assert covers(listed, version) is answer


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.sampled_from(["V100R001", "V100R003"]))
def test_a_release_line_lies_within_its_range_and_its_own_family_alone(first, last, branch, family):
    low, high = sorted((first, last))
    within = covers_branch(f"[V100R001C{low:02},V100R001C{high:02}]", f"{family}C{branch:02}")
    assert within is (family == "V100R001" and low <= branch <= high)


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_read_without_an_error(listed, version):
    assert covers(listed, version) in (True, False, None)
    assert covers_branch(listed, version) in (True, False, None)
    told = {"Version": version, "compatible_version": listed, "compatible_version_fw": listed, "innerversion": version}
    for fit in (firmware_fits(told, told), cann_fits(told, told, "a file"), older_cann_fits(told, {version: "8.0"})):
        assert fit.answer in ("yes", "no", "not known")


@pytest.mark.parametrize("spelt", ["23.0.rc1", "23.0.RC1"])
def test_a_duo_of_the_footnote_fits_the_tables_cann(tmp_path, spelt):
    npu = examine(AscendHost(smi="duo", devices=(0, 1), driver=spelt, firmware=spelt).make(tmp_path))
    assert npu.product == DUO
    fit = host_fits.cann_fit(npu, CONF, "6.3.RC1")
    assert fit.answer == "yes" and "published table" in fit.why and "conf/published.toml" in fit.line
    assert host_fits.facts(npu, CONF, "6.3.RC1")["cann_and_driver"].startswith("yes: ")
    assert host_fits.facts(Npu(), CONF, "6.3.RC1") == {}
