"""Reports: what they must say, that they say it of the record alone, and that nothing of a record becomes markup."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from _record_cases import demo_record, document_of, published_record, record_of
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.base.errors import VerificationFailed
from repro.guide.published import load_published
from repro.guide.verdict import verdict
from repro.packing.installer.provenance import run_statement
from repro.record import read_record, record_bytes
from repro.report import terminal_summary, write_report
from repro.report.crate import crate_files
from repro.report.markdown import escape
from repro.report.plots import draw
from repro.report.timeline import IMAGE, LAYER, PHASE, STAGE, accounted, spans_of
from repro.report.writer import render_html, render_markdown

ROOT = Path(__file__).parents[2]
PUBLISHED = load_published(ROOT / "conf/published.toml")
RENDERERS = [terminal_summary, render_markdown, render_html]
FILES = [render_markdown, render_html]


def judged(document):
    record = record_of(document)
    return record.judged(verdict(record, PUBLISHED))


class Page(HTMLParser):
    """Checks that tags are balanced, and gathers the text that a reader sees."""

    VOID = ("meta",)

    def __init__(self, html):
        super().__init__()
        self.open, self.words, self.attributes, self.tags = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def plain(render, record):
    """What a reader reads, without the escapes."""
    text = render(record)
    if render is render_html:
        return Page(text).text
    return " ".join(re.sub(r"\\([\\`*_{}\[\]<>#|~!&$])", r"\1", text).split())


@pytest.mark.parametrize("render", RENDERERS)
@pytest.mark.parametrize("make", [demo_record, published_record])
def test_same_record_gives_the_same_bytes_and_is_not_changed(render, make):
    record = judged(make())
    before = copy.deepcopy(record)
    assert render(record) == render(read_record(record_bytes(record)))
    assert record == before


@pytest.mark.parametrize("render", RENDERERS)
def test_every_reason_for_not_comparing_is_said_before_the_details(render):
    record = judged(demo_record())
    text = plain(render, record)
    details = len(text) if render is terminal_summary else text.index("What ran, and when")
    assert "Not comparable with the published table" in text
    for reason in record.verdict.reasons:
        assert text.index(re.sub("^(toolchain|device): ", "", reason)) < details


@pytest.mark.parametrize("render", FILES)
def test_a_verdict_says_how_many_reasons_it_has_of_each_kind_before_any_figure(render):
    record = judged(demo_record())
    text = plain(render, record)
    assert text.index("reasons: device 1, toolchain 2, data and model 6.") < re.search(r"\d\.\d{4}", text).start()
    kinds = [text.index(kind) for kind in ("Device", "Toolchain", "Data and model")]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize("render", RENDERERS)
def test_what_was_compared_is_said_claim_by_claim(render):
    text = plain(render, judged(published_record()))
    assert "Reproduced: every published figure" in text
    assert "throughput at batch size 8: reproduced" in text
    assert "no hash of the published checkpoint is published" in text
    assert "Not comparable" not in text


@pytest.mark.parametrize("render", RENDERERS)
def test_a_figure_outside_its_tolerance_is_named_at_the_top(render):
    record = published_record()
    record["results"][1]["throughput_utterances_per_s"] = 20.0
    text = plain(render, judged(record))
    assert "Not reproduced" in text
    assert "batch size 8: throughput 20.0000 utterances/s, published 42.0914: 22.0914 below" in text


@pytest.mark.parametrize("render", RENDERERS)
def test_every_number_of_a_demo_is_called_one(render):
    text = plain(render, judged(demo_record()))
    assert "This is a demo" in text
    found = ["4.2105", "4.1456", "6.2500", "4.7273", "18.4000", "20.4000", "434.78", "3137.25"]
    for figure in found:
        places = [m.end() for m in re.finditer(re.escape(figure), text)]
        assert places
        for place in places:
            after = text[place : place + 30]
            # A plot's label names the series, which is called a demo, before the number.
            assert "(demo)" in after or "(demo)" in text[place - 60 : place], text[place - 60 : place + 30]


@pytest.mark.parametrize("render", RENDERERS)
def test_a_real_run_is_never_called_a_demo(render):
    assert "demo" not in plain(render, judged(published_record())).lower()


@pytest.mark.parametrize("render", FILES)
def test_toolchain_images_stages_and_formulas_are_all_there(render):
    record = judged(demo_record())
    text = plain(render, record)
    for row in record.toolchain:
        assert row.component in text and row.required in text and row.probe in text
    for metric in record.metrics.values():
        assert metric.formula in text and metric.unit in text
    whole = render(record)
    digests = [*record.images.values(), record.identity.sha256, record.data.fingerprint]
    digests += [digest for stage in record.stages for digest in (stage.fingerprint, stage.image, stage.outputs.digest)]
    digests += [layer.diff_id for layers in record.image_layers.values() for layer in layers]
    for digest in digests:
        assert digest in whole
    assert "not enforced: no delegated cgroup" in text
    assert "2.71 to 5.71" in text


def test_page_is_one_file_that_asks_for_nothing():
    page = Page(render_html(judged(demo_record())))
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "xlink:href") or name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", render_html(judged(demo_record())))
    assert page.tags.count("svg") == 4


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)> | `x` [a](javascript:b)'


def places(value, path=()):
    """The path of every text in a document."""
    if isinstance(value, str):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def poisoned_record(text=HOSTILE):
    """A record with every text hostile that its type leaves free."""
    document = document_of(judged(demo_record()))
    free = 0
    for path in list(places({**document, "identity": None})):
        at = document
        for step in path[:-1]:
            at = at[step]
        before = at[path[-1]]
        at[path[-1]] = before + text
        try:
            record_of(document)
            free += 1
        except msgspec.ValidationError:
            at[path[-1]] = before
    assert free > 100
    return record_of(document)


def test_no_text_of_a_record_becomes_html():
    page = Page(render_html(poisoned_record()))
    assert not {"script", "img"} & set(page.tags)
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("render", RENDERERS)
@pytest.mark.parametrize(
    "text",
    ["\x1b[2J\x1b[H\nVERDICT: Reproduced.\r", "\u202e\u2066", "\x85\u2028VERDICT: Reproduced.\x00"],
)
def test_no_text_of_a_record_acts_on_what_shows_it(render, text):
    shown = render(poisoned_record(text))
    assert all(letter == "\n" or letter.isprintable() for letter in shown)
    assert not any(line.lstrip().startswith("VERDICT: Reproduced.") for line in shown.splitlines())


def test_no_text_of_a_record_becomes_markdown():
    text = render_markdown(poisoned_record())
    assert not re.search(r"(?<!\\)<script|(?<!\\)<img|(?<!\\)\[a", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows if "PyTorch" in row and "wheel" in row}
    assert widths == {6}


@given(st.text())
def test_escaped_markdown_keeps_its_words_on_one_line(text):
    escaped = escape(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<`*_]", escaped)


@pytest.mark.parametrize("render", RENDERERS)
def test_run_without_results_can_be_reported(render):
    record = demo_record()
    record["results"] = []
    assert "Not comparable" in plain(render, judged(record))


def test_plot_shows_the_published_table_beside_the_run():
    plot = str(draw(judged(demo_record()))["errors"])
    assert plot.count("<circle") == 2 + 2  # B = 8 and its two legend marks; B = 64 scored nothing
    assert plot.count("<rect") == 12 + 2 + 4  # and a tolerance for each rate of a size that ran and is published
    assert "WER % published, B = 16: 18.8313" in plot
    assert "WER % published ± 0.1000, B = 8" in plot


def test_files_are_written_beside_the_record_and_replace_older_ones(tmp_path):
    record = judged(demo_record())
    (tmp_path / "report.md").write_text("old")
    write_report(record, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.md"]
    assert (tmp_path / "report.md").read_text() == render_markdown(record)
    assert (tmp_path / "report.html").read_text() == render_html(record)


def test_excluded_utterances_and_what_the_reference_could_not_do_are_said():
    record = demo_record()
    record["results"][0]["excluded"] = [{"utterance": "FADG0_SI1", "reason": "over 780 frames"}]
    record["results"][0]["decode"] = {
        "type": "Beam",
        "reference_would_fail": {
            "empty_labelling_survived": {"utterances": ["FAKS0_SX2"], "handled": "it counts"},
            "probability_underflowed_to_zero": {"utterances": [], "handled": ""},
            "symbols_missing_in_language_model": {"symbols": [], "handled": ""},
        },
    }
    text = plain(render_markdown, judged(record))
    assert "FADG0_SI1 | over 780 frames" in text
    assert (
        "the reference would have stopped with an error (empty labelling survived: FAKS0_SX2); here it counts" in text
    )


def test_the_timeline_is_by_start_on_one_clock_and_holds_no_stored_stage():
    record = demo_record()
    record["observations"].update(
        wall_s=100.0,
        phases=[
            {"name": "fetch", "started_s": 0.5, "seconds": 20.0},
            {"name": "stages", "started_s": 30.0, "seconds": 60.0},
            {"name": "choose engine", "started_s": 31.0, "seconds": 1.0},
        ],
        layers=[{"name": "debs:base", "started_s": 21.0, "seconds": 5.0}],
        preparations=[{"name": "base", "started_s": 32.0, "seconds": 2.0}],
    )
    record = record_of(record)
    found = [(span.kind, span.name) for span in spans_of(record)]
    assert found == [
        (PHASE, "fetch"),
        (LAYER, "debs:base"),
        (STAGE, "score@8"),  # corpus was stored
        (PHASE, "stages"),
        (PHASE, "choose engine"),
        (IMAGE, "base"),
    ]
    assert accounted(record).startswith("80.00 s of 100.00 s")


def test_a_run_that_took_everything_from_the_store_says_whose_engine_and_limits_it_shows():
    document = demo_record()
    document["engine"]["name"] = "none"
    for made in (*document["stages"], *document["observations"]["steps"]):
        made["cached"] = True
    record = judged(document)
    said = "none, since every result was stored (made with sandbox)"
    assert f"Engine: {said}." in terminal_summary(record)
    for render in FILES:
        text = plain(render, record)
        assert said in text
        assert "Of 3 results, 0 made in this run, 3 from the store; they were made with sandbox." in text
        assert "limit, when earlier runs made the results" in text
        assert len(re.findall(r"\bwas (?:not )?enforced", text)) == len(record.engine.limits) + 1
    page = Page(render_html(record)).text
    assert "score@8: from the store" in page and "score@8: 1.25 s" not in page


def test_a_figure_that_was_compared_stands_in_tolerances_and_a_missed_one_is_marked():
    document = published_record()
    document["results"][1]["throughput_utterances_per_s"] = 20.0
    plots = draw(judged(document))
    assert "throughput at batch size 8: -10.50" in plots["differences"]
    assert str(plots["differences"]).count("bad ours") == 1
    assert "speed ours missed" in plots["speed"] and "missed" not in plots["errors"]


def test_the_heat_map_holds_each_confusion_at_its_row_and_column():
    plot = str(draw(judged(demo_record()))["confusions"])
    assert "ih recognised as ah: 9 (demo)" in plot
    assert plot.count('class="heat4"') == 1 and plot.count('class="heat2"') == 1


def test_several_batch_sizes_have_a_lane_each_and_one_size_a_lane_per_stage():
    document = demo_record()
    assert ">B = 8<" in str(draw(judged(document))["times"])
    document["request"]["batch_sizes"] = [8]
    assert ">score@8<" in str(draw(judged(document))["times"])


def allowed_values(old):
    """Odd values of a leaf's own kind, most of which a record may hold."""
    if isinstance(old, bool):
        return [not old]
    if isinstance(old, int):
        return [0, 1, 7, 2**53 - 1]
    if isinstance(old, float):
        return [0.0, 5e-324, 1e9, 1e15, -1e15, 1]
    return ["", "x" * 5000, "\u202e\x1b[1m|`<b>", "a b"] if isinstance(old, str) else [None, 1.0]


def leaves(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        yield path
    for key, item in items or ():
        yield from leaves(item, (*path, key))


JUDGED = [document_of(judged(make())) for make in (demo_record, published_record)]


@settings(max_examples=60)
@given(st.data())
def test_whatever_record_can_be_read_can_be_reported_and_packed(data):
    document = copy.deepcopy(data.draw(st.sampled_from(JUDGED)))
    for path in data.draw(
        st.lists(st.sampled_from([path for path in leaves(document) if path]), min_size=1, max_size=8)
    ):
        at = document
        for step in path[:-1]:
            at = at[step]
        old = at[path[-1]]
        at[path[-1]] = data.draw(st.sampled_from(allowed_values(old)))
        try:
            record = read_record(json.dumps(document).encode())
        except VerificationFailed:
            at[path[-1]] = old
    record = read_record(json.dumps(document).encode())
    for render in RENDERERS:
        text = render(record.judged(verdict(record, PUBLISHED)))
        assert text == render(record.judged(verdict(record, PUBLISHED)))
    assert crate_files(record, {"record.json": b""})
    assert run_statement(document_of(record), "0" * 64)["subject"]
