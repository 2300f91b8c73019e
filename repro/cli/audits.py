"""The commands `audit.NAME`: prove or refute a run. Each imports what it runs."""

from __future__ import annotations

from typing import Any

from repro.cli import options
from repro.cli.tasking import Commands, Here, exit_with_verdict, show


def add_audits(commands: Commands) -> None:
    """Add them all."""
    every: tuple[tuple[str, type[Any], Any], ...] = (
        ("audit.verify", options.AuditVerify, audit_verify),
        ("audit.rerun", options.AuditRerun, audit_rerun),
        ("audit.farm", options.AuditFarm, audit_farm),
        ("audit.challenge", options.AuditChallenge, audit_challenge),
        ("audit.compare", options.AuditCompare, audit_compare),
        ("audit.sign", options.AuditSign, audit_sign),
        ("audit.explain", options.AuditExplain, audit_explain),
    )
    for name, asked, body in every:
        commands.command(name, asked)(body)


def audit_verify(asked: options.AuditVerify, here: Here) -> None:
    """Prove or refute a run from its bytes.

    Every digest, image and figure is recomputed; nothing is run, and nothing that the record says is believed.
    """
    from repro.audit import commands

    commands.verify(here.paths, asked.parsed(), commands.page(asked.to, asked.sign), show)


def audit_rerun(asked: options.AuditRerun, here: Here) -> None:
    """Run it all again, compare every output.

    Also checks that its speeds are honest: what is timed is what is scored, nothing is cached, no work is skipped.
    """
    from repro.audit import commands

    page = commands.page(asked.to, asked.sign)
    commands.rerun(here.paths, here.console, asked.subject, asked.parsed(), page, show)


def audit_farm(asked: options.AuditFarm, here: Here) -> None:
    """Audit each bundle of a folder; keep a signed ledger.

    Outcomes are entries, each chained to the one before; what changed, is gone or was moved in it is named.
    """
    from repro.audit import commands

    commands.farm(here.paths, here.console, asked.parsed(), show)


def audit_challenge(asked: options.AuditChallenge, here: Here) -> None:
    """Build every layer again and compare digests.

    From locked sources, into an empty folder; Debian's signatures are verified down to its key.
    """
    from repro.audit import commands

    page = commands.page(asked.to, asked.sign)
    commands.challenge(here.paths, asked.run, asked.arch, asked.images, page, here.console.say, offline=asked.offline)


def audit_compare(asked: options.AuditCompare, here: Here) -> None:
    """Compare two runs, output by output."""
    from repro.audit import commands

    commands.compare(here.paths, asked.first, asked.second, commands.page(asked.to, asked.sign), show)


def audit_sign(asked: options.AuditSign, here: Here) -> None:
    """Sign what an audit wrote.

    In-toto statements with one test per claim and a summary, as other tools read them.
    """
    from repro.audit import commands

    commands.sign(asked.folder, asked.key, show)


def audit_explain(asked: options.AuditExplain, here: Here) -> None:
    """Say why two layers, images, results or runs differ.

    Names each file, its cause and its first differing bytes. Exit code 1 where they differ.
    """
    from repro.audit import commands

    if commands.explain(here.paths, asked.first, asked.second, commands.page(asked.to, asked.sign), show):
        exit_with_verdict("not-reproduced")
