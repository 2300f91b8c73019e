"""The mutation command's own arithmetic: areas, changed functions, survivors and their arguments."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.base.errors import UsageError
from repro.cli import mutants
from repro.cli.mutants import Arguments, Extent, Mutant, Outcome, changed_functions, load_table
from repro.cli.wording import changes_wording
from tests import quickest_first

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
    assert all(why.strip() for why in (*argued.single.values(), *argued.kinds.values()))


def test_the_quickest_tests_of_the_quickest_file_come_first(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["slow.py::one", "quick.py::slower", "quick.py::quicker"]
    items = [SimpleNamespace(nodeid=name, path=Path(name.partition("::")[0])) for name in names]
    quickest_first.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == names, "nothing was measured yet"
    seconds = dict(zip(names, (0.5, 0.3, 0.1)))
    quickest_first.MEASURED.write_text(json.dumps({"duration_by_test": seconds}))
    quickest_first.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == [names[2], names[1], names[0]]


def test_a_test_that_waits_for_ever_fails_after_many_times_what_was_measured(tmp_path: Path):
    (tmp_path / "test_waits.py").write_text(
        "import queue\n\ndef test_waits():\n    queue.Queue().get()\n\ndef test_other():\n    pass\n"
    )
    (tmp_path / "mutmut-stats.json").write_text('{"duration_by_test": {"test_waits.py::test_waits": 0.01}}')
    code = (
        "import pytest, sys; from tests import quickest_first as q; q.MORE_S = 0.1\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-c', '/dev/null'], plugins=[q]))"
    )
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "10 times as long" in done.stdout and "1 failed, 1 passed" in done.stdout


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
    names = [
        "repro.m.x_one__mutmut_1",
        "repro.m.xǁKindǁtwo__mutmut_1",
        "repro.m.x_two__mutmut_2",
        "repro.n.x_two__mutmut_1",
    ]
    assert Extent({"repro/m.py": {"two"}}).chosen(area, names) == names[1:3]
    assert Extent({"repro/m.py": {"two"}}).chosen(mutants.Area("b", ("stages/*.py",), ()), names) == []
    with pytest.raises(UsageError, match="no_such"):
        changed_functions(tmp_path, "no_such")


def test_a_sample_is_the_same_for_the_same_code_and_a_larger_one_holds_the_smaller():
    area = mutants.Area("a", ("repro/*.py",), ())
    names = [f"repro.m.x_f__mutmut_{number}" for number in range(50)]
    ten = Extent(sample=10).chosen(area, names)
    assert ten == Extent(sample=10).chosen(area, names[::-1]) and len(set(ten)) == 10
    assert Extent(sample=20).chosen(area, names)[:10] == ten != Extent(sample=10, seed=2).chosen(area, names)
    assert Extent().chosen(area, names) == names and sorted(Extent(sample=99).chosen(area, names)) == sorted(names)
    assert Extent().everything and not Extent(sample=1).everything and not Extent({}).everything


def test_a_sample_of_less_than_nothing_is_wrong_use():
    with pytest.raises(UsageError, match="-1"):
        Extent.asked(ROOT, "", -1, 1)
    assert Extent.asked(ROOT, "", 5, 7) == Extent(None, 5, 7)


def test_an_argued_survivor_counts_and_a_missing_test_does_not():
    outcome = Outcome("a", 88, 100, 400, 7, argued=3, unargued=(Mutant("f", "x", "y"),) * 9, stale=())
    assert outcome.share == pytest.approx(0.91) and "9 not" in outcome.sentence()
    assert "88 of 100 mutants (a sample of 400) killed" in outcome.sentence()


def test_survivors_are_argued_one_by_one_or_by_a_kind_of_change():
    one = Mutant("f", 'text.encode("utf-8")', 'text.encode("UTF-8")')
    assert one in Arguments({}, {'"utf-8".* -> .*"UTF-8"': "one codec"}) and one in Arguments({one: "why"}, {})
    assert one not in Arguments(
        {Mutant("g", one.removed, one.added): "of another function"}, {"latin": "another change"}
    )


@pytest.mark.parametrize(
    ("removed", "added", "expected"),
    [
        ('raise Wrong("a text", hint="do")', 'raise Wrong("XXa textXX", hint="do")', True),
        ('raise Wrong("a text", hint="do")', 'raise Wrong("a text", hint=None)', True),
        ('raise Wrong("a text", hint="do")', 'raise Wrong("a text", )', True),
        ('fail(place, hint="do")', 'fail(place, hint="DO")', True),
        ('add("--bs", metavar="B", type=int)', 'add("--bs", metavar=None, type=int)', True),
        ('add("--bs", metavar="B", help="size")', 'add("--bs", metavar="B", )', True),
        ('add("--bs", metavar="B", type=int)', 'add("--bs", metavar="B", type=None)', False),
        ('raise Wrong("a", hint=advice(error))', 'raise Wrong("a", hint=None)', True),
        ('raise Wrong("a", hint=advice(error))', 'raise Wrong("a", hint=advice(None))', False),
        ('fail(place, hint="do")', 'fail(None, hint="do")', False),
        ('fail("place", what="do")', 'fail("place", what="DO")', False),
        ('raise Wrong(f"in {shown(text)}")', 'raise Wrong(f"in {shown(None)}")', False),
        ('raise Wrong(one if many > 1 else "two")', 'raise Wrong(one if many >= 1 else "two")', False),
        ("return many > 1", "return many >= 1", False),
        ('return StageError("a {}".format(why), "do")', 'return StageError("a {}".format(why), )', True),
        ('return StageError("a {}".format(why), "do")', 'return StageError("a {}".format(None), "do")', False),
        ('return "a"', 'return "XXaXX"', False),
    ],
)
def test_wording_is_told_from_conditions(removed, added, expected):
    assert changes_wording(ast.parse(removed).body, ast.parse(added).body) is expected


def test_the_page_tells_the_kept_results_of_every_area_and_no_others():
    kept = json.loads((ROOT / mutants.RESULTS).read_text("utf-8"))
    areas, _ = load_table(ROOT)
    assert set(kept) <= set(areas)
    for area in areas.values():
        text = "".join((ROOT / name).read_text("utf-8") for name in area.test_files(ROOT))
        assert all(f"def {name}" in text for name in area.leave_out), area.name
    page = (ROOT / "docs" / "decisions" / "mutants.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \| ?(\d*) ?\| ?(\d*) ?\| ?([^|]*?) ?\|$", page, re.MULTILINE)
    told = {area: rest for area, *rest in rows if area != "area"}
    assert list(told) == list(areas)
    for name in areas:
        result = kept.get(name)
        if result is None:
            assert told[name] == ["not run by this rule", "", "", ""]
            continue
        died = result["killed"] + result["argued"]
        assert result["tried"] - died == len(result["unargued"]), name
        assert result["percent"] == round(100 * died / result["tried"], 1), name
        assert told[name] == [str(died), str(result["tried"]), str(result["total"]), f"{result['percent']} %"], name


@pytest.mark.parametrize(
    "text", ["", "[area.a]\nmutate = 1\n", '[[survivor]]\nfunction = "f"\n[area.a]\nmutate=[]\ntests=[]\n']
)
def test_a_table_that_says_something_else_is_wrong_use(tmp_path: Path, text: str):
    (tmp_path / "tests").mkdir()
    (tmp_path / mutants.TABLE).write_text(text)
    with pytest.raises(UsageError, match=r"mutants\.toml"):
        load_table(tmp_path)
