"""Every page of ours in Chromium: quiet, on a phone too, for a screen reader and the keyboard, and with no request."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from repro.audit.page import write_page
from repro.base.paths import Paths
from repro.bench import page as bench_page
from repro.bench.figure import AT_LEAST, Figure
from repro.explore.commands import Wanted, explore
from repro.explore.media import mu_law
from repro.explore.page import PAGE, Explored, write_pages
from repro.explore.utterances import FIRST_CLASSES, Detail, Utterance
from repro.guide.published import load_published
from repro.guide.verdict import verdict
from repro.report import write_report
from tests.integration._pages import NARROW, WIDE, opened

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = '</script><img src=x onerror=alert(1)>"\x1b[2J\u202e\u2028&'
SAFE = '</script><img src=x onerror=alert(1)>"\\x1b[2J\\u202e\\u2028&'
PHONES = ("aa", "ae", "ah", "b", "d", "dh", "eh", "er", "f", "g", "hh", "ih", "iy", "k", "l", "m", "n", "ow", "p", "r",
          "s", "sh", "sil", "t", "uw", "v", "w", "z")  # fmt: skip
MANY = 10_000


def report_of(document: dict[str, Any], folder: Path) -> Path:
    from tests.unit._record_cases import record_of

    record = record_of(document)
    write_report(record.judged(verdict(record, load_published(ROOT / "conf/published.toml"))), folder)
    return folder / "report.html"


def demo(folder: Path) -> Path:
    from tests.unit._record_cases import demo_record

    return report_of(demo_record(), folder)


def every_size(folder: Path) -> Path:
    from tests.unit._record_cases import demo_record

    document = demo_record()
    first, document["results"] = document["results"][0], []
    for size in (1, 4, 8, 16, 32, 64):
        document["results"].append({**first, "batch_size": size, "measured": {**first["measured"], "batch_size": size}})
    document["request"]["batch_sizes"] = [1, 4, 8, 16, 32, 64]
    return report_of(document, folder)


def failing(folder: Path) -> Path:
    from tests.unit._record_cases import published_record

    document = published_record()
    document["results"][1]["throughput_utterances_per_s"] = 20.0
    return report_of(document, folder)


def from_the_store(folder: Path) -> Path:
    from tests.unit._record_cases import demo_record

    document = demo_record()
    document["engine"]["name"] = "none"
    for made in (*document["stages"], *document["observations"]["steps"]):
        made["cached"] = True
    return report_of(document, folder)


def utterance(number: int, chance: random.Random, text: str = "") -> Utterance:
    said = [chance.choice(PHONES) for _ in range(38)]
    heard = [chance.choice(PHONES) if chance.random() < 0.05 else phone for phone in said]
    speaker = f"S{number % 60}"
    return Utterance(
        f"{speaker}_U{number}{text}", speaker, f"DR{number % 8}", f"words {text}", tuple(said), tuple(heard)
    )


def explored(count: int, text: str = "") -> Explored:
    chance = random.Random(20261128)
    return Explored(
        title=f"Explorer: a run {text}",
        notice=f"This is a demo {text}",
        names=["one"],
        facts=[("WER", ["5 %"])],
        changes=[],
        classes=[*FIRST_CLASSES, *PHONES],
        greedy=True,
        utterances=[utterance(number, chance, text) for number in range(count)],
    )


def details(count: int) -> Iterator[Detail]:
    """A network that is sure of one class per frame; half a second of a tone."""
    classes = len(FIRST_CLASSES) + len(PHONES)
    frames = [bytearray(classes) for _ in range(75)]
    for number, frame in enumerate(frames):
        frame[2 + number // 3 % len(PHONES) if number % 3 == 1 else 0] = 255
    levels = bytes(range(40)) * 150
    tone = mu_law(array("h", [(-1) ** (number // 20) * 3000 for number in range(48000)]))
    for number in range(count):
        yield Detail(75, b"".join(frames), *((levels, tone) if number < 100 else ()))


def explorer(folder: Path) -> Path:
    return write_pages(explored(60), details(60), folder)


def side_by_side(folder: Path) -> Path:
    """Beside a run that hears two of three utterances rightly."""
    one = explored(60)
    both = [replace(each, other=each.reference if n % 3 else each.hypothesis) for n, each in enumerate(one.utterances)]
    facts = [("WER", ["5 %", "2 %"]), ("device", ["cpu", "cpu"])]
    two = replace(one, names=["one", "two"], facts=facts, changes=["Forty are otherwise."], utterances=both)
    return write_pages(two, details(60), folder)


def an_audit(folder: Path) -> Path:
    from tests.unit._audit_cases import audit, make_run

    make_run(folder / "run")
    write_page(audit(folder / "run"), folder)
    return folder / "audit.html"


def a_bench(folder: Path) -> Path:
    figures = [Figure("1 goal", "a figure", value, "times", "this / that", AT_LEAST, 1.5, (1.0, 3.0), 3, "equal")
               for value in (1.0, 2.0)]  # fmt: skip
    document = {
        "kind": "quick", "figures": [figure.as_json() for figure in figures], "could_not": {}, "notes": [],
        "host": {"cpu": "a processor", "cores": 2, "architecture": "amd64", "os": "Debian"}, "finished": "today",
        "load_before": 0.1,
    }  # fmt: skip
    (folder / "bench.html").write_text(bench_page.html(document, []))
    return folder / "bench.html"


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """The list of a run with 10,000 utterances; its details lie in pages beside it."""
    return write_pages(explored(MANY), details(MANY), tmp_path_factory.mktemp("many"))


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("make", [demo, every_size, failing, from_the_store, explorer, side_by_side, an_audit, a_bench])
def test_a_page_is_quiet_fits_and_can_be_read_by_everybody(browser: Browser, tmp_path: Path, make: Callable, width):
    with opened(browser, make(tmp_path), width) as seen:
        if make in (explorer, side_by_side):
            seen.page.locator("#list button.name").first.click()
            expect(seen.page.locator("canvas")).to_have_count(2)
            expect(seen.page.locator("audio")).to_have_js_property("duration", 3)
        seen.fits()
        assert seen.serious() == []
        seen.keep(make.__name__)
        seen.finish()


@pytest.mark.parametrize("make", [demo, explorer])
def test_a_page_can_be_read_in_the_dark(browser: Browser, tmp_path: Path, make: Callable):
    with opened(browser, make(tmp_path), color_scheme="dark") as seen:
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 27)"
        assert seen.serious() == []


def test_a_report_needs_no_script_and_nothing_of_it_is_hidden_in_print(browser: Browser, tmp_path: Path):
    with opened(browser, demo(tmp_path), java_script_enabled=False) as seen:
        cell = seen.page.get_by_text("kernel", exact=True)
        expect(cell).not_to_be_visible()
        seen.page.get_by_role("heading", name="Engine and host").click()
        expect(cell).to_be_visible()
    with opened(browser, demo(tmp_path)) as seen:
        seen.page.emulate_media(media="print")
        box = seen.page.locator("td", has_text="kernel").first.bounding_box()
        assert box and box["height"] > 5


def test_a_report_opens_by_keyboard(browser: Browser, tmp_path: Path):
    with opened(browser, demo(tmp_path)) as seen:
        heading = seen.page.locator("summary", has_text="Engine and host")
        for _ in range(60):
            if heading.evaluate("element => element === document.activeElement"):
                break
            seen.page.keyboard.press("Tab")
        seen.page.keyboard.press("Enter")
        expect(seen.page.get_by_text("kernel", exact=True)).to_be_visible()


def poisoned_report(folder: Path) -> Path:
    from tests.unit._record_cases import demo_record

    document = demo_record()
    document["data"]["note"] += HOSTILE
    document["toolchain"][0]["component"] += HOSTILE
    document["results"][0]["complete"]["confusions"][0]["hypothesis"] += HOSTILE
    document["host"]["cpu"] += HOSTILE
    return report_of(document, folder)


def poisoned_explorer(folder: Path) -> Path:
    one = explored(3, HOSTILE)
    return write_pages(replace(one, classes=[name + HOSTILE for name in one.classes]), details(3), folder)


@pytest.mark.parametrize("make", [poisoned_report, poisoned_explorer])
def test_hostile_strings_are_text(browser: Browser, tmp_path: Path, make: Callable):
    with opened(browser, make(tmp_path), NARROW) as seen:
        if make is poisoned_explorer:
            seen.page.locator("#list button.name").first.click()
            expect(seen.page.locator("canvas")).to_have_count(2)
        text = seen.page.evaluate("document.body.textContent")
        assert SAFE in text and not set(HOSTILE) & {"\x1b", "\u202e", "\u2028"} & set(text)
        assert seen.page.locator("img").count() == 0
        seen.fits()
        seen.finish()


def test_the_explorer_s_edits_are_those_that_the_record_counts(browser: Browser, tmp_path: Path):
    from tests.unit._audit_cases import RUN, make_run

    run = make_run(tmp_path / "run")
    page = explore(Paths(ROOT), Wanted(str(tmp_path / "run/results/runs" / RUN), to=str(tmp_path / "page")))
    counts = run.record.results[0].complete.wer_counts
    with opened(browser, page) as seen:
        lists = seen.page.locator("#list")
        found = [lists.locator(kind).count() for kind in (".sub", ".extra", ".gone")]
        assert found == [counts.substitutions, counts.insertions, counts.deletions] and sum(found) > 0


def test_ten_thousand_utterances_are_found_sorted_and_opened(browser: Browser, many: Path):
    with opened(browser, many, NARROW) as seen:
        page = seen.page
        count, rows = page.locator("#count"), page.locator("#list > li")
        expect(count).to_contain_text(f"{MANY} of {MANY} utterances")
        assert rows.count() == 50
        seen.fits()
        assert seen.serious() == []
        page.get_by_role("button", name="Show 50 more").click()
        assert rows.count() == 100
        page.get_by_label("Search").fill("s7_u1207")
        expect(count).to_contain_text("1 of 10000 utterances")
        page.get_by_label("Search").fill("")
        page.get_by_label("Speaker").select_option("S3")
        page.get_by_label("Wrong phone").select_option("sil")
        page.get_by_label("Sort by").select_option("errors")
        edits = [int(text.split(", ")[1].split()[0]) for text in rows.locator(".rate").all_inner_texts()]
        assert edits == sorted(edits, reverse=True) and edits[-1] > 0
        assert {text.split(", ")[0] for text in rows.locator(".tags").all_inner_texts()} == {"S3"}
        seen.finish()
        link = rows.locator("a.name").first
        name = link.inner_text()
        link.click()
        expect(page.locator("button.name[aria-expanded=true]")).to_have_text(name)
        expect(page.locator("canvas")).not_to_have_count(0)
        page.get_by_role("link", name="All utterances").click()
        assert page.url.endswith(PAGE) and seen.said == []
        assert all(url.startswith(("file://", "blob:")) for url in seen.requests)


def test_two_runs_side_by_side_show_what_changed_first(browser: Browser, tmp_path: Path):
    changed = sum(n % 3 > 0 and one.reference != one.hypothesis for n, one in enumerate(explored(60).utterances))
    with opened(browser, side_by_side(tmp_path)) as seen:
        expect(seen.page.locator("#count")).to_contain_text(f"{changed} of 60 utterances")
        expect(seen.page.locator("#list > li").first).to_contain_text("beside B")
        seen.page.get_by_label("Show").select_option("all")
        expect(seen.page.locator("#list")).to_contain_text("B: the same")
