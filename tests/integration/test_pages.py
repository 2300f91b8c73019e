"""Every page of ours in Chromium: quiet, on a phone too, for a screen reader, and with no request."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from repro.guide.published import load_published
from repro.guide.verdict import verdict
from repro.report import write_report
from tests.integration._pages import NARROW, WIDE, opened
from tests.unit._record_cases import demo_record, published_record, record_of

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


def report_of(document, folder: Path) -> Path:
    record = record_of(document)
    write_report(record.judged(verdict(record, load_published(ROOT / "conf/published.toml"))), folder)
    return folder / "report.html"


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("make", [demo_record, published_record])
def test_a_report_is_quiet_fits_and_can_be_read_by_everybody(browser: Browser, tmp_path: Path, make, width):
    with opened(browser, report_of(make(), tmp_path), width) as seen:
        seen.fits()
        assert seen.serious() == []
        seen.finish()
