"""What the report says, before any format: sections of sentences, lists and tables, made from a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repro.guide.verdict import NOT_COMPARABLE, NOT_REPRODUCED, REPRODUCED
from repro.record import Record
from repro.record.document import Request
from repro.report import accuracy, details, figures
from repro.report.parts import Bullet, Group, Section, Table, claims_of, engine_name, made_and_stored

_HEADLINES = {
    REPRODUCED: "Reproduced: every published figure that was asked for was compared like for like and holds",
    NOT_REPRODUCED: "Not reproduced: a figure was compared like for like and lies outside its tolerance",
    NOT_COMPARABLE: "Not comparable with the published table",
}
_TONES = {REPRODUCED: "good", NOT_REPRODUCED: "bad", NOT_COMPARABLE: "open"}


# What a reason is about, by the word that it begins with.
_GROUPS = {
    "Device": ("device", "chip", "precision"),
    "Toolchain": ("toolchain",),
    "Data and model": ("data", "checkpoint", "split", "decoder", "batch size"),
    "Measurement": ("throughput",),
}
_OTHER = "Other"


@dataclass(frozen=True)
class Judged:
    """A verdict as a reader meets it: a heading, a sentence, and a tone: 'good', 'bad' or 'open'."""

    headline: str
    sentence: str
    tone: str


@dataclass(frozen=True)
class View:
    """A report: its title, its verdicts with the strict one first, the demo notice, key figures, facts, sections.

    `figures_label` and `caption` say what the key figures and the pictures beside them are; both are for a page.
    """

    title: str
    verdicts: Sequence[Judged]
    demo_notice: str
    figures: Table
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    figures_label: str = "Key figures beside the published ones"
    caption: str = (
        "Pictures: hollow squares are published, the bars behind them their tolerances; dots are this run's. Rates by "
        "the published protocol."
    )

    @property
    def headline(self) -> str:
        """The strict verdict's."""
        return self.verdicts[0].headline

    @property
    def tone(self) -> str:
        """The strict verdict's."""
        return self.verdicts[0].tone


def make_view(record: Record) -> View:
    """Everything a report says of this record, in order."""
    return View(
        title="Reproduction of the LSTM-CTC phoneme recogniser: report of one run",
        verdicts=[_judged(record), *_judged_alone(record)],
        demo_notice=demo_notice(record),
        figures=figures.key_figures(record),
        facts=_facts(record),
        sections=[
            _verdict(record),
            *_alone(record),
            *details.happened(record),
            *figures.sections(record),
            *details.sections(record),
        ],
    )


def _alone(record: Record) -> list[Section]:
    found = accuracy.section(record)
    return [found] if found else []


def _judged_alone(record: Record) -> list[Judged]:
    """The error rates alone, where there was something to compare."""
    found = record.verdict.accuracy
    if not found or found.outcome == "not-compared":
        return []
    tone = "good" if found.outcome == "consistent" else "bad"
    words = accuracy.outcome_in_words(found)
    return [Judged(f"Error rates alone: {words}", accuracy.in_short(found), tone)]


def _judged(record: Record) -> Judged:
    outcome, holds, reasons = record.verdict.outcome, compared(record), not_comparable(record)
    if outcome == NOT_REPRODUCED:
        said = f"{'; '.join(record.verdict.reasons)}."
    elif not holds and reasons:
        numbers = [f"{group.title.lower()} {len(group.bullets)}" for group in groups(reasons)]
        said = f"{'1 reason' if len(reasons) == 1 else f'{len(reasons)} reasons'}: {', '.join(numbers)}."
    else:
        said = f"{len(holds)} figures compared like for like."
    return Judged(_HEADLINES[outcome], said, _TONES[outcome])


def demo_notice(record: Record) -> str:
    """One sentence that says what of this run is the demo's, or nothing."""
    if record.request.device == "npu-simulator":
        return (
            "This is a test: it ran on a simulator of an NPU, which computes on a CPU. "
            "Its speeds are no NPU's, and nothing of it is compared."
        )
    if not record.is_demo:
        return ""
    data = ["the demo corpus (synthetic speech)"] if record.data.kind == "demo" else []
    checkpoint = ["the demo checkpoint"] if record.checkpoint.kind == "demo" else []
    return (
        f"This is a demo: it ran on {' and '.join(data + checkpoint)}. "
        "Its figures say that the pipeline works, and nothing about TIMIT or the published model."
    )


def _facts(record: Record) -> list[tuple[str, str]]:
    request = record.request
    return [
        ("batch sizes", ", ".join(str(size) for size in request.batch_sizes)),
        ("data", f"{record.data.kind}, {request.split} set"),
        ("checkpoint", record.checkpoint.kind),
        ("decoder", request.decode.type),
        ("device", request.device),
        *_number_format(request),
        *([("measurement", request.sample)] if request.sample else []),
        ("toolchain", request.toolchain),
        ("results", made_and_stored(record)),
        ("engine", engine_name(record)),
        ("started", record.observations.started_at),
        ("identity", record.identity.sha256),
        ("identity of the results, the same on every processor", record.identity.results),
    ]


def _number_format(request: Request) -> list[tuple[str, str]]:
    if not request.precision:
        return []
    told = "chosen with --precision; the network's outputs depend on the processor (AMX or AVX512-BF16), not on threads"
    return [("number format", f"{request.precision}, {told} or batch size")]


def compared(record: Record) -> list[str]:
    """What was compared like for like, claim by claim."""
    return [
        f"{check.claim}: {check.status.replace('-', ' ')}"
        for check in record.verdict.checks
        if check.status != NOT_COMPARABLE
    ]


def not_comparable(record: Record) -> list[Bullet]:
    """Every reason for which something was not compared, with what it concerns."""
    checks = [check for check in record.verdict.checks if check.status == NOT_COMPARABLE]
    reasons = dict.fromkeys(reason for check in checks for reason in check.reasons)
    return [
        Bullet(reason, claims_of([check for check in checks if reason in check.reasons], record)) for reason in reasons
    ]


def groups(reasons: Sequence[Bullet]) -> list[Group]:
    """Reasons by what they are about; the word that the heading repeats is left out of the line."""
    found: dict[str, list[Bullet]] = {}
    for reason in reasons:
        word = reason.text.partition(":")[0]
        title = next((title for title, words in _GROUPS.items() if word.startswith(words)), _OTHER)
        short = reason.text[len(word) + 1 :].strip() if word == title.lower() else reason.text
        about = reason.about.removesuffix(f" at {word}")  # a reason of one batch size says so itself
        found.setdefault(title, []).append(Bullet(short, about))
    made = []
    for title in (*_GROUPS, _OTHER):
        bullets = found.get(title, [])
        abouts = {bullet.about for bullet in bullets}
        if len(abouts) == 1:  # said once, beside the heading
            made.append(Group(title, abouts.pop(), [Bullet(bullet.text) for bullet in bullets]))
        elif bullets:
            made.append(Group(title, "", bullets))
    return made


def _verdict(record: Record) -> Section:
    judged = record.verdict
    holds = compared(record)
    sentences = [f"Held against: {judged.source}."] if judged.source else []
    if not holds:
        sentences.append("Nothing was compared: no figure of this run was made under the table's conditions.")
    reasons = not_comparable(record)
    if reasons:
        sentences.append("Not comparable, and why:")
    like = [Group("Compared like for like", "", [Bullet(claim) for claim in holds])] if holds else []
    notes = [f"Not to be ruled out: {caveat}." for caveat in judged.caveats]
    return Section(
        "What was compared, and what was not",
        sentences=sentences,
        groups=[*like, *groups(reasons)],
        plots=["differences"],
        notes=notes,
        folded=False,
    )
