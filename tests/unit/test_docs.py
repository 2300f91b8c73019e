"""What tools can check of documents: links lead somewhere, decisions follow a template, two languages agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "data/README.md"]
    if not path.is_relative_to(ROOT / "artifacts")
)
DECISIONS = sorted(path for path in (ROOT / "docs/decisions").glob("*.md") if path.name != "README.md")
TRANSLATED = {
    "README.md": "README.zh-CN.md",
    **{f"docs/{path.name}": f"docs/zh-CN/{path.name}" for path in sorted((ROOT / "docs/zh-CN").glob("*.md"))},
}
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4,}\S.*\n)+", re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """The anchors that a code host makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_leads_somewhere(page: Path):
    for target in _LINK.findall(_FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(found), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_a_decision_has_a_status_a_date_what_and_why(page: Path):
    text = page.read_text("utf-8")
    day = r"20\d\d-\d\d-\d\d"
    status = rf"\A# .+\n\nStatus: (accepted|superseded by \[.+\]\(.+\))\. Date: {day}\.( Revised: {day}\.)?\n\n"
    assert re.match(status, text), "the first lines are not those of the template in docs/decisions/README.md"
    assert "**Decision.**" in text and "**Why" in text
    assert f"({page.name})" in (ROOT / "docs/decisions/README.md").read_text("utf-8"), "the list does not name it"


def shape(path: Path) -> dict[str, object]:
    """What two languages of one page share: headings by level, code, links."""
    text = path.read_text("utf-8")
    plain = _FENCE.sub("", text)
    targets = {Path(target.partition("#")[0]).name for target in _LINK.findall(plain)}
    pair = {Path(one).name for names in TRANSLATED.items() for one in names}
    return {
        "headings": re.findall(r"^(#+) ", plain, re.MULTILINE),
        "code": [*_FENCE.findall(text), *(block.strip("\n") for block in _INDENTED.findall(plain))],
        "links": sorted(targets - pair),
        "rows": len(re.findall(r"^\|", plain, re.MULTILINE)),
    }


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED.items())
def test_both_languages_of_a_page_have_the_same_headings_code_rows_and_links(english: str, chinese: str):
    assert shape(ROOT / english) == shape(ROOT / chinese)
    assert Path(chinese).name in (ROOT / english).read_text("utf-8"), (
        "the English page does not link to the Chinese one"
    )


TURNS = {
    r"\b(?:a|one) (?:page|line|folder|file|process|step|program|row) an? (?!time)\w+": "per",
    r"\b(?:µs|ms|MB|GB|MiB|kB|MB/s|utterances) an? (?:core|frame|utterance|step|second|batch)\b": "per",
    r"\b(?:lest|nought|to be reckoned|of that at once)\b": "plain words",
    r"\bsay that you accept\b": "record that you accept",
}


@pytest.mark.parametrize("page", [page for page in PAGES if "zh-CN" not in page.name], ids=name)
def test_a_page_is_free_of_turns_that_stop_readers(page: Path):
    text = page.read_text("utf-8")
    for turn, instead in TURNS.items():
        found = re.search(turn, text, re.IGNORECASE)
        assert not found, f"{name(page)}: {found.group()!r}: use {instead}"


_PLACE = re.compile(r"`((?:repro|stages|conf|docker|tests|docs|data)/[^`\s]*)`")
_MADE_BY_THE_USER = {"conf/site.toml", "data/sources", "data/data.zip", "data/user.lock.json", "data/TIMIT",
                     "data/ctc_best_model.pth", "data/model-signers.pem"}  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_place_of_the_repository_that_a_page_names_is_there(page: Path):
    for place in _PLACE.findall(page.read_text("utf-8")):
        plain = place.rstrip("/")
        if plain in _MADE_BY_THE_USER or re.search(
            r"[A-Z]{3,}|…|<", plain.replace("README", "").replace("SHA256SUMS", "")
        ):
            continue  # the user's own, or a pattern such as docker/NAME
        patterns = re.sub(r"\{[^}]*\}", "*", plain)
        found = list(ROOT.glob(patterns)) or list(ROOT.glob(patterns + ".py"))
        assert found, f"{name(page)} names {place}"
