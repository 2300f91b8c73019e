"""The mutation command's own arithmetic: areas, changed functions, survivors and their arguments."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from repro.base.errors import UsageError
from repro.cli import mutants
from repro.cli.mutants import Mutant, Outcome, changed_functions, load_table

ROOT = Path(__file__).resolve().parents[2]
DIFF = """--- repro/guide/verdict.py
+++ repro/guide/verdict.py
@@ -1,3 +1,3 @@
 def is_excepted(row):
-    card = str(host.get("card", ""))
+    card = str(host.get("card", None))
     return card
"""


def test_every_area_names_modules_and_tests_that_are_there():
    areas, argued = load_table(ROOT)
    for area in areas.values():
        assert area.test_files(ROOT), area
        for pattern in area.mutate:
            assert list(ROOT.glob(pattern)), f"{area.name}: {pattern}"
    assert all(why.strip() for why in argued.values())


def test_a_mutant_is_known_by_its_function_and_lines_and_not_by_its_number():
    one = mutants._mutant("repro.guide.verdict.x_is_excepted__mutmut_4", DIFF)
    assert one == mutants._mutant("repro.guide.verdict.x_is_excepted__mutmut_9", DIFF)
    assert one == Mutant(
        "repro.guide.verdict.is_excepted", 'card = str(host.get("card", ""))', 'card = str(host.get("card", None))'
    )
    assert mutants._mutant("repro.graph.store.xǁStoreǁload__mutmut_1", DIFF).function == "repro.graph.store.load"


def test_only_functions_with_changed_lines_are_taken(tmp_path: Path):
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", *words], cwd=tmp_path, check=True)

    module = tmp_path / "repro" / "m.py"
    module.parent.mkdir()
    module.write_text("def one():\n    return 1\n\n\ndef two():\n    return 2\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    module.write_text("def one():\n    return 1\n\n\ndef two():\n    return 3\n")
    assert changed_functions(tmp_path, "HEAD") == {"repro/m.py": {"two"}}
    area = mutants.Area("a", ("repro/*.py",), ())
    assert mutants._patterns(area, {"repro/m.py": {"two"}}) == ["repro.m.*two__mutmut_*"]
    assert mutants._patterns(mutants.Area("b", ("stages/*.py",), ()), {"repro/m.py": {"two"}}) == []
    with pytest.raises(UsageError, match="no_such"):
        changed_functions(tmp_path, "no_such")


def test_an_argued_survivor_counts_and_a_missing_test_does_not():
    outcome = Outcome("a", killed=88, total=100, argued=3, unargued=(Mutant("f", "x", "y"),) * 9, stale=())
    assert outcome.share == pytest.approx(0.91) and "9 not" in outcome.sentence()


@pytest.mark.parametrize(
    "text", ["", "[area.a]\nmutate = 1\n", '[[survivor]]\nfunction = "f"\n[area.a]\nmutate=[]\ntests=[]\n']
)
def test_a_table_that_says_something_else_is_wrong_use(tmp_path: Path, text: str):
    (tmp_path / "tests").mkdir()
    (tmp_path / mutants.TABLE).write_text(text)
    with pytest.raises(UsageError, match=r"mutants\.toml"):
        load_table(tmp_path)
