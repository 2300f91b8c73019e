"""The report's part about the error rates alone: outcome, differences, what was not like for like, the curve over B."""

from __future__ import annotations

from repro.record import Record
from repro.record.judgement import Accuracy, CurveFit
from repro.report.parts import NAMES, Bullet, Section, Table, number, status, table

TITLE = "Accuracy alone"
_OUTCOMES = {
    "consistent": "consistent with the published rates",
    "inconsistent": "inconsistent with the published rates",
    "not-compared": "not compared with the published rates",
}


def outcome_in_words(accuracy: Accuracy) -> str:
    """The second verdict, as in 'consistent with the published rates'."""
    return _OUTCOMES[accuracy.outcome]


def in_short(accuracy: Accuracy) -> str:
    """How many rates hold, and how many things are not like for like."""
    compared = [check for check in accuracy.checks if check.status != "not-compared"]
    holds = sum(check.status == "consistent" for check in compared)
    differs = f"; {len(accuracy.differs)} not like for like, listed below" if accuracy.differs else ""
    return f"{holds} of {len(compared)} rates lie within the table's tolerance{differs}."


def section(record: Record) -> Section | None:
    """The second verdict with its figures; None for a record that an earlier version wrote."""
    accuracy = record.verdict.accuracy
    if not accuracy:
        return None
    sentences = [
        f"Error rates alone: {outcome_in_words(accuracy)}. This is beside the verdict, and does not change it or the "
        "exit code."
    ]
    if accuracy.outcome == "not-compared":
        return Section(TITLE, sentences, bullets=[Bullet(reason) for reason in accuracy.reasons])
    if accuracy.differs:
        sentences.append("Not like for like with the table, so that it may be the cause of a difference:")
    columns = [
        "#B",
        "rate",
        "#published %",
        "#found %",
        "#difference",
        "#tolerance",
        "#edits published",
        "#edits found",
    ]
    rows = [
        [
            check.batch_size,
            NAMES[check.metric],
            number(check.published, 4),
            number(check.found, 4),
            "not compared" if check.difference is None else f"{check.difference:+.4f}",
            number(check.tolerance, 4),
            "not one number" if check.published_edits is None else check.published_edits,
            check.found_edits,
            status(check.status),
        ]
        for check in accuracy.checks
    ]
    return Section(
        TITLE,
        sentences,
        bullets=[Bullet(text) for text in accuracy.differs],
        tables=[table([*columns, "status"], rows), *([_curve(accuracy.fits)] if accuracy.fits else [])],
        notes=[f"{reason}." for reason in accuracy.reasons] + ([_CURVE] if accuracy.fits else []),
    )


_CURVE = (
    "The curve over B: the published rates are moved by one offset, the one that leaves the smallest squares; what is "
    "left of each batch size is in the second table, in percentage points. Rates of one model move with B only because "
    "other utterances are scored, so that what is left is near 0 where model and utterances are the table's."
)


def _curve(fits: tuple[CurveFit, ...]) -> Table:
    rows = [
        [
            NAMES[fit.metric],
            f"{fit.offset:+.4f}",
            ", ".join(f"{size}: {left:+.4f}" for size, left in zip(fit.batch_sizes, fit.remainders)),
        ]
        for fit in fits
    ]
    return table(["rate", "#offset", "left at batch size"], rows)
