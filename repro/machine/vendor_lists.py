"""Whether driver, firmware and CANN fit each other, by the lists that the vendor's own files hold.

A driver's version.info names the firmware that it takes (compatible_version_fw) and the CANN release lines that it
serves (compatible_version); a firmware's names drivers (compatible_version_drv), a CANN's ascend_toolkit_install.info
the driver release lines that it works with. Lists are read strictly: what is not of the form answers nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from repro.base import versions

Answer = Literal["yes", "no", "not known"]
Fields = Mapping[str, str]
"""NAME=VALUE lines of one of the vendor's files."""
DRIVER = "usr/local/Ascend/driver/version.info"
FIRMWARE = "usr/local/Ascend/firmware/version.info"
_FIRST_WITH_LISTS = "6.4"  # firmware before it fits no driver that has a list: the vendor's dcmi has the same rule
_ITEM = r"\[([^\[\],\s]+)(?:,([^\[\],\s]+))?\]"
_LIST = re.compile(rf"{_ITEM}(?:,{_ITEM})*")
_BRANCH = re.compile(r"(V\d{3}R\d{3})C(\d{1,3})")
_PART = re.compile(r"([a-z]*)(\d*)$")
_Part = tuple[int, str, int]


@dataclass(frozen=True)
class Fit:
    """Whether two of the three fit each other.

    Attributes:
        answer: 'no' only where a list that could say yes is there and says no.
        why: a sentence.
        line: of the file that says so, and the file; '' where no file says anything.
    """

    answer: Answer
    why: str
    line: str = ""

    def __str__(self) -> str:
        return f"{self.answer}: {self.why}" + (f" ({self.line})" if self.line else "")


def pairs(text: str) -> tuple[tuple[str, str], ...] | None:
    """A vendor's list '[A],[B,C]' as (first, last) pairs; None where the text is not of this form."""
    if _LIST.fullmatch(text) is None:
        return None
    return tuple((first, last or first) for first, last in re.findall(_ITEM, text))


def firmware_fits(driver: Fields, firmware: Fields) -> Fit:
    """Whether this firmware and this driver fit each other.

    The order is that of the vendor's dcmi, which prints `Compatibility` in `npu-smi info -t board`: the driver's list
    first; where that does not name the firmware, the firmware's own list decides.

    Args:
        driver: of the driver's version.info.
        firmware: of the firmware's.
    """
    release, number = driver.get("Version", ""), firmware.get("Version", "")
    if not release or not number:
        absent = [name for name, found in ((DRIVER, release), (FIRMWARE, number)) if not found]
        return Fit("not known", f"/{' and /'.join(absent)} {'is' if len(absent) == 1 else 'are'} not there or no use")
    of_driver = _line(DRIVER, driver, "compatible_version_fw")
    of_firmware = _line(FIRMWARE, firmware, "compatible_version_drv")
    by_driver = covers(driver.get("compatible_version_fw", ""), number)
    if of_driver and _before(number, _FIRST_WITH_LISTS):
        why = f"firmware {number} is older than {_FIRST_WITH_LISTS}, and fits no driver that lists what it takes"
        return Fit("no", why, of_driver)
    if by_driver:
        return Fit("yes", f"the driver takes firmware {number}", of_driver)
    if of_firmware:
        by_firmware = covers(firmware["compatible_version_drv"], release)
        if by_firmware is None:
            return Fit("not known", f"the firmware's list says nothing certain of driver {release}", of_firmware)
        why = f"the firmware {'takes' if by_firmware else 'does not take'} driver {release}"
        return Fit("yes" if by_firmware else "no", why, of_firmware)
    if of_driver:
        why = f"the driver's list does not name firmware {number}, and the firmware has no list of its own"
        return Fit("not known", why, of_driver)
    package = firmware.get("package_version", "")
    if package and versions.same(package, driver.get("package_version", "") or release):
        return Fit("yes", "both are of one release", _line(FIRMWARE, firmware, "package_version"))
    return Fit("not known", "neither file has a list")


def cann_fits(cann: Fields, driver: Fields, file: str) -> Fit:
    """Whether this CANN and this driver fit each other: where one of them names the other's release line.

    A CANN without a list answers nothing, though the driver's list may name its line: with CANN 9 the vendor began to
    count the lines anew, and such a CANN has no list.

    Args:
        cann: of CANN's ascend_toolkit_install.info, or what is known of its release.
        driver: of the driver's version.info.
        file: where the first comes from, for people.
    """
    ours, theirs = _inner(cann), _inner(driver)
    of_cann, of_driver = _line(file, cann, "compatible_version"), _line(DRIVER, driver, "compatible_version")
    if not ours:
        return Fit("not known", f"{file} does not tell its innerversion")
    if not of_cann:
        return Fit("not known", f"{file} has no list of drivers", _line(file, cann, "innerversion"))
    if theirs and covers_branch(cann["compatible_version"], theirs):
        return Fit("yes", f"CANN works with drivers of {theirs}", of_cann)
    if not of_driver or not theirs:
        return Fit("not known", "the driver's version.info has no list and no Innerversion", of_cann)
    answer = covers_branch(driver["compatible_version"], ours)
    if answer:
        return Fit("yes", f"the driver serves CANN of {ours}", of_driver)
    if answer is None or covers_branch(cann["compatible_version"], theirs) is None:
        return Fit("not known", "a list is not of the vendor's form", f"{of_driver}; {of_cann}")
    return Fit("no", f"neither names the other: the driver is of {theirs}, CANN of {ours}", f"{of_driver}; {of_cann}")


def older_cann_fits(driver: Fields, newer: Mapping[str, str]) -> Fit:
    """What a driver's list says of a CANN whose own release line no public report shows.

    Args:
        driver: of the driver's version.info.
        newer: the release by its line, of releases that came after that CANN, the oldest first.
    """
    line = _line(DRIVER, driver, "compatible_version")
    if not line:
        return Fit("not known", "the driver's version.info has no list of CANN")
    listed = pairs(driver["compatible_version"])
    if listed is None:
        return Fit("not known", "the driver's list is not of the vendor's form", line)
    unknown = [first for first, last in listed if first != last or first not in newer]
    if unknown:
        return Fit("not known", f"the driver's list names {', '.join(unknown)}, which may be this CANN's line", line)
    oldest = next(release for branch, release in newer.items() if branch in dict(listed))
    return Fit("no", f"the driver serves CANN {oldest} and later alone", line)


def covers(text: str, version: str) -> bool | None:
    """Whether a list of versions has one; None where that is not certain.

    The vendor's tools compare texts, cut to the length of the longer bound; so '[24.1,24.1.]' has every 24.1.x. Where
    this and the order of the versions disagree (7.10 lies below 7.2 as a text), nothing is certain.
    """
    listed = pairs(text)
    if listed is None:
        return None
    answers = {_within(version.lower(), first.lower(), last.lower()) for first, last in listed}
    return True if True in answers else None if None in answers else False


def covers_branch(text: str, branch: str) -> bool | None:
    """Whether a list of release lines has one such as 'V100R001C21'; None where that is not certain."""
    listed, found = pairs(text), _BRANCH.fullmatch(branch)
    if listed is None or found is None:
        return None
    for first, last in listed:
        ends = [_BRANCH.fullmatch(end) for end in (first, last)]
        if ends[0] is None or ends[1] is None:
            return None
        of_family = ends[0][1] == ends[1][1] == found[1]
        if of_family and int(ends[0][2]) <= int(found[2]) <= int(ends[1][2]):
            return True
    return False


def _within(version: str, first: str, last: str) -> bool | None:
    by_text = first <= version[: max(len(first), len(last))] <= last
    low, found, high = (_parts(text) for text in (first, version, last))
    if low is None or found is None or high is None:
        return None
    by_order = low <= found[: len(low)] and found[: len(high)] <= high
    return by_text if by_text == by_order else None


def _parts(text: str) -> list[_Part] | None:
    """'23.0.rc3' in the order of versions: a release candidate lies before every number in its place."""
    found = []
    for piece in text.rstrip(".").split("."):
        match = _PART.match(piece)
        if match is None or not piece:
            return None
        found.append((0 if match[1] else 1, match[1], int(match[2] or 0)))
    return found


def _before(number: str, other: str) -> bool:
    one, two = _parts(number.lower()), _parts(other)
    return one is not None and two is not None and one < two


def _inner(fields: Fields) -> str:
    """The release line of 'V100R001C21SPC002B220'; '' where none is told."""
    told = next((value for name, value in fields.items() if name.lower() == "innerversion"), "")
    found = re.match(r"V\d{3}R\d{3}C\d{1,3}", told)
    return found[0] if found else ""


def _line(file: str, fields: Fields, name: str) -> str:
    shown = file if " " in file else "/" + file.lstrip("/")
    return f"{name}={fields[name]} in {shown}" if fields.get(name) else ""
