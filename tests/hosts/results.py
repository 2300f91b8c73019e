"""Result files: docs/verified/HOST.json, and the part of docs/verified.md that is drawn from them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, to_builtins

from repro.base import strict_json
from repro.base.errors import UsageError
from repro.base.files import pretty_json, write_atomic
from repro.base.typed_json import read
from repro.base.values import Amount, Sha256, Strict
from repro.graph.digests import FileDigest, digest_of_files
from tests.hosts import model

FOLDER, PAGE = "docs/verified", "docs/verified.md"
FIRST, LAST = "<!-- drawn by `invoke hosts.page` -->", "<!-- end of what is drawn -->"
NOT_RUN = "not run"
Outcome = Literal["passed", "refused, as it must be", "failed"]
Commit = Annotated[str, Meta(pattern="^[0-9a-f]{40}$")]
Day = Annotated[str, Meta(pattern="^20[0-9]{2}-[0-9]{2}-[0-9]{2}$")]


class Done(Strict, frozen=True):
    """What came of one scenario.

    Attributes:
        commit, day: of the repository that ran, and when.
        command: what the user typed last.
        minutes: from its first command to its last, the machine's own start left out.
        exact: digest of each exact stage's output, by step.
        unequal: of these, the steps whose digest is not the listed one of golden's corpus.
        why: the last lines of a failure or refusal.
    """

    name: model.ScenarioName
    until: str
    outcome: Outcome
    command: str
    engine: str
    commit: Commit
    day: Day
    minutes: Amount
    exact: dict[str, Sha256]
    unequal: tuple[str, ...]
    why: str


class Result(Strict, frozen=True):
    """What is known of one host: its facts as the machine told them, and each scenario's last outcome."""

    host: str
    machine: str
    facts: dict[str, str]
    scenarios: tuple[Done, ...]


def save(root: Path, result: Result) -> Path:
    """Write it down; scenarios of before that were not run now stay, each with its commit."""
    path = root / FOLDER / f"{result.host}.json"
    new = {done.name: done for done in result.scenarios}
    old = {done.name: done for done in load(path).scenarios} if path.is_file() else {}
    every = tuple({**old, **new}[name] for name in model.SCENARIOS if name in {*old, *new})
    document = to_builtins(Result(result.host, result.machine, result.facts, every))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, pretty_json(document))
    return path


def load(path: Path) -> Result:
    """A result file, read strictly."""
    return read(path.read_bytes(), Result, what=path.name)


def exact_digests(results_tar: bytes) -> dict[str, str]:
    """The digest of each stage's output by its name, from the result.json files that a machine sent."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(results_tar)) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                document = strict_json.parse(stream.read(), what=member.name)
                files = {name: FileDigest(**each) for name, each in document["outputs"].items()}
                found[document["key"]["stage"]] = digest_of_files(files)
    return found


def held_to(listed: Mapping[str, str], found: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The found digests of the listed steps, and the steps where they are not as listed."""
    exact = {step: found[step.partition("@")[0]] for step in listed if step.partition("@")[0] in found}
    return exact, tuple(step for step, digest in exact.items() if digest != listed[step])


def draw(root: Path) -> str:
    """The table of all hosts; a cell without a result file says so."""
    head = ["host", "what it adds", "machine", *model.SCENARIOS.values()]
    rows = [head, ["---"] * len(head)]
    for name in model.names():
        host, path = model.load(name), root / FOLDER / f"{name}.json"
        known = load(path) if path.is_file() else None
        done = {each.name: each for each in known.scenarios} if known else {}
        rows.append([
            f"[{host.title}](../tests/hosts/{name}.toml)", host.shows, _machine(known) if known else NOT_RUN,
            *(_cell(done[each]) if each in done else NOT_RUN for each in model.SCENARIOS),
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _machine(known: Result) -> str:
    return "; ".join([known.machine, *(f"{name} {value}" for name, value in known.facts.items())])


def _cell(done: Done) -> str:
    exact = (
        f"; {len(done.exact) - len(done.unequal)} of {len(done.exact)} exact digests as listed" if done.exact else ""
    )
    until = "" if done.name == "verify" else f" to {done.until}, engine {done.engine}"
    why = f" ({done.why})" if done.why else ""
    return f"{done.outcome}{why}{until}{exact}; {done.minutes:.0f} min; {done.commit[:7]}, {done.day}"


def with_table(page: str, table: str) -> str:
    """The page with its drawn part replaced.

    Raises:
        UsageError: the marks around that part are not there, once each.
    """
    if page.count(FIRST) != 1 or page.count(LAST) != 1 or page.index(FIRST) > page.index(LAST):
        raise UsageError(f"{PAGE} does not hold the marks {FIRST} and {LAST} once each")
    before, after = page.split(FIRST)[0], page.split(LAST)[1]
    return f"{before}{FIRST}\n\n{table}\n\n{LAST}{after}"


def write_page(root: Path) -> Path:
    """Draw docs/verified.md's table anew."""
    path = root / PAGE
    write_atomic(path, with_table(path.read_text("utf-8"), draw(root)).encode())
    return path
