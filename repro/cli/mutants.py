"""`invoke mutants`: does any test notice when a condition of the core is changed?

mutmut changes one thing at a time in the modules of an area and runs the tests that reach it. A mutant that no test
notices is a survivor. It must be argued in tests/mutants.toml, or a test is missing.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.files import pretty_json, remove_tree, write_atomic
from repro.base.paths import Paths
from repro.base.toml import read_toml

TABLE = "tests/mutants.toml"
LEAST_KILLED = 0.9
_COPIED = ("bootstrap", "conf", "data", "docker", "docs", "requirements", "tasks.py", "README.md", "README.zh-CN.md",
           "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "LICENSE", ".gitignore")  # fmt: skip
_KILLED = ("killed", "timeout", "segfault", "caught by type check")
_DIFFS = """
import json, sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
print(json.dumps({name: get_diff_for_mutant(name) for name in json.load(sys.stdin)}))
"""
_GIT = shutil.which("git") or "git"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Area:
    """A part of the core: `mutate` are its modules (patterns of paths), `tests` the test files that are about it."""

    name: str
    mutate: tuple[str, ...]
    tests: tuple[str, ...]

    def test_files(self, root: Path) -> list[str]:
        """The test files, their patterns resolved."""
        return sorted({str(path.relative_to(root)) for pattern in self.tests for path in root.glob(pattern)})


@dataclass(frozen=True)
class Mutant:
    """One change: in which function, and the lines taken away and added, without indentation."""

    function: str
    removed: str
    added: str


@dataclass(frozen=True)
class Outcome:
    """What became of an area's mutants.

    Attributes:
        killed, total: how many; `argued` are survivors that tests/mutants.toml argues.
        unargued: the other survivors.
        stale: arguments for mutants that no longer exist or no longer survive.
    """

    area: str
    killed: int
    total: int
    argued: int
    unargued: tuple[Mutant, ...]
    stale: tuple[Mutant, ...]

    @property
    def share(self) -> float:
        return (self.killed + self.argued) / self.total if self.total else 1.0

    def sentence(self) -> str:
        return (
            f"{self.area}: {self.killed} of {self.total} mutants killed, {self.argued} survivors argued, "
            f"{len(self.unargued)} not ({100 * self.share:.1f} %)"
        )


def load_table(root: Path) -> tuple[dict[str, Area], dict[Mutant, str]]:
    """The areas by name, and the argued survivors with their reasons.

    Raises:
        UsageError: tests/mutants.toml says something else.
    """
    document = read_toml(root / TABLE)
    try:
        areas = {
            name: Area(name, tuple(table["mutate"]), tuple(table["tests"])) for name, table in document["area"].items()
        }
        argued = {
            Mutant(item["function"], item["removed"].strip(), item["added"].strip()): str(item["why"])
            for item in document.get("survivor", ())
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{TABLE} is not a table of areas and survivors: {error!r}") from error
    return areas, argued


def changed_functions(root: Path, base: str) -> dict[str, set[str]]:
    """Which functions the lines changed since the commit `base` lie in: {path: names}; of repro/ and stages/.

    Raises:
        UsageError: there is no such commit.
    """
    done = subprocess.run(
        [_GIT, "diff", "--unified=0", base, "--", "repro", "stages"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise UsageError(f"git does not know the commit {base!r}", hint="name one: --changed main")
    found: dict[str, set[str]] = {}
    path = ""
    for line in done.stdout.splitlines():
        if line.startswith("+++ "):
            path = line[6:] if line.startswith("+++ b/") else ""
        match = re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line)
        if match and path.endswith(".py"):
            first, count = int(match.group(1)), int(match.group(2) or 1)
            found.setdefault(path, set()).update(_functions_at(root / path, range(first, first + max(count, 1))))
    return {path: names for path, names in found.items() if names}


def _functions_at(path: Path, lines: Iterable[int]) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    wanted = set(lines)
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and wanted & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    }


def mutate(paths: Paths, names: Sequence[str], base: str, say: Say) -> None:
    """As `run_mutants`, and end with an error where too few mutants were killed.

    Raises:
        VerificationFailed: less than nine tenths of an area's mutants are killed or argued, or an argument is stale.
    """
    outcomes = run_mutants(paths, names, base, say)
    if not outcomes:
        say("nothing to mutate: no function of an area changed")
    poor = [outcome for outcome in outcomes if outcome.share < LEAST_KILLED or outcome.stale]
    if poor:
        raise VerificationFailed(
            f"in {', '.join(outcome.area for outcome in poor)} too many mutants survive, or arguments are stale",
            detail="\n".join(
                f"{mutant.function}: {mutant.removed}  ->  {mutant.added}"
                for outcome in poor
                for mutant in (*outcome.unargued, *outcome.stale)
            ),
            hint=f"write a test that notices, or argue the survivor in {TABLE}; details: artifacts/mutants/AREA.json",
        )


def run_mutants(paths: Paths, names: Sequence[str], base: str, say: Say) -> list[Outcome]:
    """Mutate areas and say what survived; the outcomes are written into artifacts/mutants as well.

    Args:
        paths: of the checkout.
        names: of areas; none for all.
        base: only functions that changed since this commit; '' for all.
        say: told of each area.

    Raises:
        UsageError: an unknown area or commit.
        CouldNotRun: mutmut is not installed, or the unmutated tests fail.
    """
    areas, argued = load_table(paths.root)
    unknown = sorted(set(names) - set(areas))
    if unknown:
        raise UsageError(f"no area is called {', '.join(unknown)}", hint="areas: " + ", ".join(areas))
    changed = changed_functions(paths.root, base) if base else None
    outcomes = []
    for name in names or areas:
        patterns = _patterns(areas[name], changed)
        if not patterns:
            continue
        say(f"mutants of {name}: {', '.join(areas[name].mutate)}")
        outcome = _run_area(paths, areas[name], patterns, argued)
        say(outcome.sentence())
        outcomes.append(outcome)
    return outcomes


def _patterns(area: Area, changed: Mapping[str, set[str]] | None) -> list[str]:
    """mutmut's names of what is to be run; ['*'] for everything."""
    if changed is None:
        return ["*"]
    inside = {path: names for path, names in changed.items() if any(Path(path).match(each) for each in area.mutate)}
    return [f"{path[:-3].replace('/', '.')}.*{name}__mutmut_*" for path, names in inside.items() for name in names]


def _run_area(paths: Paths, area: Area, patterns: Sequence[str], argued: Mapping[Mutant, str]) -> Outcome:
    folder = paths.artifacts / "mutants" / area.name
    _copy(paths.root, folder, area)
    words = [sys.executable, "-m", "mutmut", "run", *([] if patterns == ["*"] else patterns)]
    temporary = folder / "tmp"  # what a mutant's test leaves behind must not reach anybody else
    temporary.mkdir()
    with open(folder / "mutmut.log", "wb") as log:
        environment = {**os.environ, "TMPDIR": str(temporary)}
        code = subprocess.call(words, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment)
    statuses = _statuses(folder)
    if code or not statuses:
        raise CouldNotRun(
            f"mutmut could not run area {area.name}",
            hint=f"its log is {folder / 'mutmut.log'}; the tests of the area must pass unmutated; "
            "mutmut comes with requirements/test.txt on Python 3.10 and later",
        )
    survivors = [name for name, status in statuses.items() if status not in _KILLED]
    found = [_mutant(name, diff) for name, diff in _diffs(folder, survivors).items()]
    outcome = Outcome(
        area=area.name,
        killed=len(statuses) - len(survivors),
        total=len(statuses),
        argued=sum(mutant in argued for mutant in found),
        unargued=tuple(sorted({mutant for mutant in found if mutant not in argued}, key=str)),
        stale=_stale(argued, area, found) if patterns == ["*"] else (),
    )
    write_atomic(paths.artifacts / "mutants" / f"{area.name}.json", pretty_json(_as_json(outcome)))
    return outcome


def _stale(argued: Iterable[Mutant], area: Area, found: Sequence[Mutant]) -> tuple[Mutant, ...]:
    return tuple(sorted((each for each in argued if _is_of(each, area) and each not in found), key=str))


def _is_of(mutant: Mutant, area: Area) -> bool:
    path = mutant.function.rpartition(".")[0].replace(".", "/") + ".py"
    return any(Path(path).match(pattern) for pattern in area.mutate)


def _copy(root: Path, folder: Path, area: Area) -> None:
    remove_tree(folder)
    folder.mkdir(parents=True)
    listed = subprocess.run([_GIT, "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode()
    for path in filter(None, listed.split("\0")):
        if (root / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, folder / path)
    also = [name for name in _COPIED if (folder / name).exists()]
    settings = {
        "source_paths": ["repro", "stages"],
        "only_mutate": area.mutate,
        "also_copy": also,
        "pytest_add_cli_args_test_selection": area.test_files(root),
        "pytest_add_cli_args": ["-m", "not slow and not integration", "-p", "no:cacheprovider"],
    }
    with open(folder / "pyproject.toml", "a", encoding="utf-8") as stream:
        stream.write("\n[tool.mutmut]\n")
        stream.writelines(
            f"{name} = {json.dumps(value)}\n" for name, value in settings.items()
        )  # JSON lists are TOML's


def _statuses(folder: Path) -> dict[str, str]:
    """What mutmut found, by the mutant's name."""
    from mutmut.stats import status_by_exit_code  # noqa: PLC0415 - of the tests' tools, which other commands do without

    found = {}
    for meta in sorted((folder / "mutants").rglob("*.meta")):
        codes = json.loads(meta.read_text("utf-8"))["exit_code_by_key"]
        found.update({name: status_by_exit_code[code] for name, code in codes.items() if code is not None})
    return found


def _diffs(folder: Path, names: Sequence[str]) -> dict[str, str]:
    if not names:
        return {}
    done = subprocess.run(
        [sys.executable, "-c", _DIFFS], cwd=folder, input=json.dumps(list(names)), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _mutant(name: str, diff: str) -> Mutant:
    module, _, rest = name.rpartition(".")
    function = re.sub(r"^x(?:ǁ\w+ǁ|_)", "", rest.partition("__mutmut_")[0])
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    removed = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    added = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
    return Mutant(f"{module}.{function}", removed, added)


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "area": outcome.area, "killed": outcome.killed, "total": outcome.total, "argued": outcome.argued,
        "unargued": [vars(mutant) for mutant in outcome.unargued], "stale": [vars(mutant) for mutant in outcome.stale],
    }  # fmt: skip
