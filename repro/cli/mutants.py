"""`invoke mutants`: does any test notice when a condition of the core is changed?

mutmut changes one thing at a time in the modules of an area and runs the tests that reach the function. A mutant that
no test notices is a survivor. It must be argued in tests/mutants.toml, or a test is missing. Mutants of a message's
wording are left out and counted apart. The last result of each area is kept in tests/mutants.json.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from repro.base import programs
from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.files import pretty_json, remove_tree, write_atomic
from repro.base.paths import Paths
from repro.base.toml import read_toml
from repro.cli.wording import changes_wording

TABLE = "tests/mutants.toml"
RESULTS = "tests/mutants.json"
LEAST_KILLED = 0.9
_COPIED = ("bootstrap", "conf", "data", "docker", "docs", "requirements", "tasks.py", "README.md", "README.zh-CN.md",
           "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "LICENSE", ".gitignore")  # fmt: skip
_KILLED = ("killed", "timeout", "segfault", "caught by type check")
_GENERATE = """
import os
from mutmut import __main__ as mutmut
os.makedirs("mutants")
mutmut.set_mutant_under_test("mutant_generation")
mutmut.copy_src_dir()
mutmut.copy_also_copy_files()
mutmut.setup_source_paths()
mutmut.create_mutants(os.cpu_count())
"""
# mutmut's own run, without running the unmutated tests a second time: measuring them has shown that they pass.
_RUN = """
import sys
from mutmut import __main__ as mutmut
made = mutmut.get_mutant_runner
def runner_of(children):
    runner = made(children)
    runner.run_clean_tests = lambda **tests: 0
    return runner
mutmut.get_mutant_runner = runner_of
mutmut.cli(["run", *sys.argv[1:]])
"""
_DIFFS = """
import json, sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
print(json.dumps({name: get_diff_for_mutant(name) for name in json.load(sys.stdin)}))
"""
_GIT = str(programs.find("git") or "git")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Area:
    """A part of the core: `mutate` are its modules (patterns of paths), `tests` the test files that are about it.

    `leave_out` are functions of them that are not asked: campaigns that would take most of a survivor's time.
    """

    name: str
    mutate: tuple[str, ...]
    tests: tuple[str, ...]
    leave_out: tuple[str, ...] = ()

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
        killed, tried: how many; `argued` are survivors that tests/mutants.toml argues.
        total: how many the area has, those of wording left out; more than were tried where a sample was asked for.
        wording: mutants of messages, which are not tried.
        unargued: the other survivors.
        stale: arguments for mutants that no longer exist or no longer survive.
    """

    area: str
    killed: int
    tried: int
    total: int
    wording: int
    argued: int
    unargued: tuple[Mutant, ...]
    stale: tuple[Mutant, ...]

    @property
    def share(self) -> float:
        return (self.killed + self.argued) / self.tried if self.tried else 1.0

    def sentence(self) -> str:
        sampled = f" (a sample of {self.total})" if self.tried < self.total else ""
        return (
            f"{self.area}: {self.killed} of {self.tried} mutants{sampled} killed, {self.argued} survivors argued, "
            f"{len(self.unargued)} not ({100 * self.share:.1f} %)"
        )


@dataclass(frozen=True)
class Arguments:
    """Why mutants may survive: single ones with their reasons, and patterns of changes that change nothing."""

    single: Mapping[Mutant, str]
    kinds: Mapping[str, str]

    def __contains__(self, mutant: Mutant) -> bool:
        change = f"{mutant.removed} -> {mutant.added}"
        return mutant in self.single or any(re.search(pattern, change) for pattern in self.kinds)


@dataclass(frozen=True)
class Extent:
    """Which mutants of an area are tried: of all functions or of the changed ones; all, or a sample.

    A sample of the same seed holds the same mutants as long as the code is the same.
    """

    changed: Mapping[str, set[str]] | None = None
    sample: int = 0
    seed: int = 1

    @property
    def everything(self) -> bool:
        return self.changed is None and not self.sample

    def chosen(self, area: Area, names: Sequence[str]) -> list[str]:
        """Of an area's mutants, by mutmut's names, those to try."""
        if self.changed is not None:
            inside = {
                f"{path[:-3].replace('/', '.')}.{name}"
                for path, functions in self.changed.items()
                if any(Path(path).match(each) for each in area.mutate)
                for name in functions
            }
            names = [name for name in names if _function(name) in inside]
        if not self.sample:
            return list(names)
        return sorted(names, key=lambda name: hashlib.sha256(f"{self.seed} {name}".encode()).digest())[: self.sample]

    @classmethod
    def asked(cls, root: Path, base: str, sample: int, seed: int) -> Extent:
        """What the options say: '' as `base` and 0 as `sample` are everything.

        Raises:
            UsageError: an unknown commit, or a sample below 0.
        """
        if sample < 0:
            raise UsageError(f"a sample has no {sample} mutants", hint="leave --sample out for all mutants")
        return cls(changed_functions(root, base) if base else None, sample, seed)


def load_table(root: Path) -> tuple[dict[str, Area], Arguments]:
    """The areas by name, and the argued survivors with their reasons.

    Raises:
        UsageError: tests/mutants.toml says something else.
    """
    document = read_toml(root / TABLE)
    try:
        areas = {
            name: Area(name, tuple(table["mutate"]), tuple(table["tests"]), tuple(table.get("leave_out", ())))
            for name, table in document["area"].items()
        }
        argued = {
            Mutant(item["function"], item["removed"].strip(), item["added"].strip()): str(item["why"])
            for item in document.get("survivor", ())
        }
        kinds = {re.compile(item["change"]).pattern: str(item["why"]) for item in document.get("kind", ())}
    except (KeyError, TypeError, AttributeError, re.error) as error:
        raise UsageError(f"{TABLE} is not a table of areas and survivors: {error!r}") from error
    return areas, Arguments(argued, kinds)


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


def mutate(paths: Paths, names: Sequence[str], extent: Extent, say: Say) -> None:
    """As `run_mutants`, and end with an error where too few mutants were killed.

    Raises:
        VerificationFailed: less than nine tenths of an area's mutants are killed or argued, or an argument is stale.
    """
    outcomes = run_mutants(paths, names, extent, say)
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


def run_mutants(paths: Paths, names: Sequence[str], extent: Extent, say: Say) -> list[Outcome]:
    """Mutate areas and say what survived.

    The outcomes are written into artifacts/mutants. Those of whole areas, or of samples of them, are kept in
    tests/mutants.json too, with the date and the commit.

    Args:
        paths: of the checkout.
        names: of areas; none for all.
        extent: which mutants of them.
        say: told of each area.

    Raises:
        UsageError: an unknown area.
        CouldNotRun: mutmut is not installed, or the unmutated tests fail.
    """
    areas, argued = load_table(paths.root)
    unknown = sorted(set(names) - set(areas))
    if unknown:
        raise UsageError(f"no area is called {', '.join(unknown)}", hint="areas: " + ", ".join(areas))
    outcomes = []
    for name in names or areas:
        area = areas[name]
        if extent.changed is not None and not any(Path(path).match(p) for path in extent.changed for p in area.mutate):
            continue
        say(f"mutants of {name}: {', '.join(area.mutate)}")
        outcome = _run_area(paths, area, extent, argued)
        if outcome.tried:
            say(outcome.sentence())
            outcomes.append(outcome)
            write_atomic(paths.artifacts / "mutants" / f"{name}.json", pretty_json(_as_json(outcome)))
            if extent.changed is None:
                _keep(paths.root, outcome, extent)
    return outcomes


def _keep(root: Path, outcome: Outcome, extent: Extent) -> None:
    path = root / RESULTS
    kept = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    commit = subprocess.run([_GIT, "describe", "--always", "--dirty", "--abbrev=12"], cwd=root, capture_output=True,
                            text=True, check=True).stdout.strip()  # fmt: skip
    counts = {name: value for name, value in _as_json(outcome).items() if name not in {"area", "stale"}}
    seed = {"seed": extent.seed} if extent.sample else {}
    kept[outcome.area] = {"date": datetime.now(timezone.utc).date().isoformat(), "commit": commit, **seed, **counts}
    write_atomic(path, pretty_json(kept))


def _run_area(paths: Paths, area: Area, extent: Extent, argued: Arguments) -> Outcome:
    folder = paths.artifacts / "mutants" / area.name
    _copy(paths.root, folder, area)
    temporary = folder / "tmp"  # what a mutant's test leaves behind must not reach anybody else
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with open(folder / "mutmut.log", "wb") as log:

        def run(*words: str) -> None:
            if subprocess.call([sys.executable, *words], cwd=folder, stdout=log, stderr=log, env=environment):
                raise CouldNotRun(
                    f"mutmut could not run area {area.name}",
                    hint=f"its log is {folder / 'mutmut.log'}; the tests of the area must pass unmutated; "
                    "mutmut comes with requirements/test.txt on Python 3.10 and later",
                )

        run("-c", _GENERATE)
        names = _mutants(folder)
        wording = _of_wording(folder)
        counted = [name for name in names if name not in wording]
        chosen = extent.chosen(area, counted)
        if chosen:
            run("-c", _RUN, *chosen)
    statuses = {name: status for name, status in _statuses(folder).items() if name in set(chosen)}
    survivors = [name for name, status in statuses.items() if status not in _KILLED]
    found = [_mutant(name, diff) for name, diff in _diffs(folder, survivors).items()]
    return Outcome(
        area=area.name,
        killed=len(statuses) - len(survivors),
        tried=len(statuses),
        total=len(counted),
        wording=len(wording),
        argued=sum(mutant in argued for mutant in found),
        unargued=tuple(sorted((mutant for mutant in found if mutant not in argued), key=str)),
        stale=_stale(argued.single, area, found) if extent.everything else (),
    )


def _mutants(folder: Path) -> list[str]:
    """The names that mutmut gave, of all mutants."""
    metas = sorted((folder / "mutants").rglob("*.meta"))
    return [name for meta in metas for name in json.loads(meta.read_text("utf-8"))["exit_code_by_key"]]


def _of_wording(folder: Path) -> set[str]:
    """Which mutants change only what a message says: its text, its advice, or that it has any."""
    found = set()
    for meta in (folder / "mutants").rglob("*.meta"):
        path = meta.with_suffix("")
        module = ".".join(path.relative_to(folder / "mutants").with_suffix("").parts)
        functions = {
            node.name: node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)
        }
        for name, mutant in functions.items():
            original = functions.get(name.partition("__mutmut_")[0] + "__mutmut_orig", mutant)
            if changes_wording(original.body, mutant.body):
                found.add(f"{module}.{name}".replace(".__init__.", "."))
    return found


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
        "pytest_add_cli_args": [
            "-m",
            "not slow and not integration",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-p",
            "tests.quickest_first",
            *(["-k", "not " + " and not ".join(area.leave_out)] if area.leave_out else []),
            "--hypothesis-profile",
            "ci",
        ],
        "track_dependencies": False,
    }
    with open(folder / "pyproject.toml", "a", encoding="utf-8") as stream:
        stream.write("\n[tool.mutmut]\n")
        stream.writelines(
            f"{name} = {json.dumps(value)}\n" for name, value in settings.items()
        )  # lists, strings and booleans of JSON are TOML's


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


def _function(name: str) -> str:
    """repro.graph.store.load, of mutmut's repro.graph.store.xǁStoreǁload__mutmut_1."""
    module, _, rest = name.rpartition(".")
    return f"{module}." + re.sub(r"^x(?:ǁ\w+ǁ|_)", "", rest.partition("__mutmut_")[0])


def _mutant(name: str, diff: str) -> Mutant:
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    removed = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    added = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
    return Mutant(_function(name), removed, added)


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "area": outcome.area, "killed": outcome.killed, "tried": outcome.tried, "total": outcome.total,
        "wording": outcome.wording, "argued": outcome.argued, "percent": round(100 * outcome.share, 1),
        "unargued": [vars(mutant) for mutant in outcome.unargued], "stale": [vars(mutant) for mutant in outcome.stale],
    }  # fmt: skip
