"""From the command line to the request: each option arrives, under its name, with its type and its default."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repro.audit import commands as audit
from repro.cli import options
from repro.cli.main import Commands, Settings
from repro.explore import commands as explorer
from repro.graph.pipeline import Request
from repro.packing import commands as packing
from repro.packing.verify import Rebuilders
from repro.run import one_stage, plan
from repro.run import options as parsed

ROOT = Path(__file__).resolve().parents[2]

# Each option of a run, as typed, and what must come of it: the field that it becomes, and its value.
TYPED: dict[str, tuple[list[str], str, Any]] = {
    "bs": (["--bs", "4,1"], "request.batch_sizes", (1, 4)),
    "data": (["--data", "x.zip"], "data_option", "x.zip"),
    "checkpoint": (["--checkpoint", "x.pth"], "checkpoint_option", "x.pth"),
    "engine": (["--engine", "podman"], "engine", "podman"),
    "toolchain": (["--toolchain", "pinned"], "toolchain", "pinned"),
    "device": (["--device", "npu"], "request.device", "npu"),
    "cann": (["--cann", "8.1.RC1"], "cann", "8.1.RC1"),
    "devices": (["--devices", "1,0"], "devices", (1, 0)),
    "precision": (["--precision", "bf16"], "request.precision", "bf16"),
    "precision_mode": (["--precision-mode", "force_fp16"], "request.precision_mode", "force_fp16"),
    "decode": (["--decode", "Beam"], "request.decode", "Beam"),
    "beam_width": (["--beam-width", "7"], "request.beam_width", 7),
    "lm_alpha": (["--lm-alpha", "0.5"], "request.lm_alpha", 0.5),
    "split": (["--split", "test"], "request.split", "test"),
    "loop": (["--loop", "3"], "request.loop", 3),
    "skip_bad": (["--skip-bad"], "request.skip_bad", True),
    "on": (["--on", "slurm"], "on", "slurm"),
    "leave": (["--leave"], "leave", True),
    "force": (["--force"], "force", True),
    "offline": (["--offline"], "fetch", False),
}  # fmt: skip


def typed(*words: str) -> None:
    """What `./bootstrap WORDS` does, in this process."""
    program = Commands(version="test", name="Bundle", binary="invoke", config_class=Settings)
    program.run(["invoke", "--search-root", str(ROOT), *words], exit=False)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[parsed.Options]:
    """The options that reach `reproduce --plan` and the stages, which then do nothing."""
    reached: list[parsed.Options] = []
    monkeypatch.setattr(plan, "plan", lambda asked, *_: reached.append(asked) or [])
    monkeypatch.setattr(one_stage, "run_stages", lambda asked, *_: reached.append(asked) or [])
    return reached


def value(asked: Any, path: str) -> Any:
    for name in path.split("."):
        asked = getattr(asked, name)
    return asked


def test_the_table_below_has_every_option_of_a_run():
    assert set(TYPED) == set(options.Run.DECLARED)


@pytest.mark.parametrize("command", [["reproduce", "--plan"], ["stage.score"]], ids=["reproduce", "stage"])
@pytest.mark.parametrize("name", TYPED)
def test_an_option_arrives_and_changes_nothing_else(name: str, command: list[str], planned: list[parsed.Options]):
    words, path, expected = TYPED[name]
    typed(*command)
    typed(*command, *words)
    plain, asked = planned
    assert value(asked, path) == expected != value(plain, path)
    assert type(value(asked, path)) is type(expected)
    others = [other for key, (_, other, _) in TYPED.items() if key != name]
    assert [value(asked, other) for other in others] == [value(plain, other) for other in others]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--complete", "--", "invoke "], {"reproduce", "stage.score", "images"}),
        (["--complete", "--", "invoke reproduce --"], {"--bs", "--loop"}),
    ],
)
def test_a_shell_s_completion_knows_every_command_and_its_options(words, expected, capsys):
    typed(*words)
    assert expected <= set(capsys.readouterr().out.split())


def test_without_options_a_run_is_the_requests_own_default(planned: list[parsed.Options]):
    typed("reproduce", "--plan")
    assert planned == [parsed.Options(Request(batch_sizes=(8,)))]


def test_the_options_of_a_packing_arrive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    reached: list[Any] = []
    monkeypatch.setattr(packing, "pack_bundle", lambda *given, **named: reached.append((given[2:], named)) or [])
    typed(
        "bundle.pack", "--to", "b.tar", "--arch", "arm64", "--with-sources", "--run", "latest", "--run-detail",
        "scores", "--include", "cann, checkpoint", "--since", str(tmp_path), "--part-size", "4GB", "--key", "k",
        "--offline", "--attestations", str(tmp_path),
    )  # fmt: skip
    (((choices, to, key), named),) = reached
    assert (to, key, named) == ("b.tar", "k", {"unsigned": False})
    assert vars(choices) == {
        "arch": "arm64", "with_sources": True, "run": "latest", "run_detail": "scores",
        "include": ("cann", "checkpoint"), "since": tmp_path, "part_size_bytes": 4 * 1000**3, "fetch": False,
        "attestations": tmp_path,
    }  # fmt: skip
    typed("bundle.pack", "--unsigned")
    assert reached[1][1] == {"unsigned": True}


def test_the_options_of_the_explorer_arrive(monkeypatch: pytest.MonkeyPatch):
    reached: list[Any] = []
    monkeypatch.setattr(explorer, "explore", lambda paths, wanted: reached.append(wanted) or paths.root)
    typed("explore", "r", "--against", "a", "--bs", "4", "--with-audio", "--data", "d", "--to", "t")
    assert vars(reached[0]) == {
        "run": "r", "against": "a", "bs": 4, "with_audio": True, "data": "d", "to": "t",
    }  # fmt: skip


def test_the_options_of_audits_arrive(monkeypatch: pytest.MonkeyPatch):
    reached: list[tuple[Any, ...]] = []
    for name in ("verify", "rerun", "challenge", "compare", "explain"):
        monkeypatch.setattr(audit, name, lambda *given, **named: reached.append((*given[1:], named)))
    monkeypatch.setattr(audit, "page", lambda to, sign: (to, sign))
    typed("audit.verify", "r", "--data", "d", "--checkpoint", "c", "--key", "k", "--base", "b", "--to", "t",
          "--sign", "s", "--rebuilders", "p", "--threshold", "2", "--attestations", "f", "--auditors", "q")  # fmt: skip
    again = ("--engine", "podman", "--offline", "--rounds", "12", "--on", "slurm", "--exact")
    typed("audit.rerun", "r", "--data", "d", "--checkpoint", "c", *again, "--to", "t")
    typed("audit.challenge", "--run", "r", "--images", "base", "--arch", "arm64", "--offline", "--to", "t")
    typed("audit.compare", "a", "b", "--to", "t")
    typed("audit.explain", "a", "b", "--to", "t", "--sign", "s")
    verified, rerun, challenged, compared, explained = reached
    assert vars(verified[0]) == {
        "subject": "r", "data": "d", "checkpoint": "c", "key": "k", "base": "b", "auditors": "q",
        "rebuilders": Rebuilders("p", 2, Path("f").absolute()),
    }  # fmt: skip
    assert verified[1] == ("t", "s")
    assert rerun[1] == "r" and vars(rerun[2]) == {
        "data": "d", "checkpoint": "c", "engine": "podman", "fetch": False, "rounds": 12, "on": "slurm", "exact": True,
    }  # fmt: skip
    assert rerun[3] == ("t", "")
    assert challenged[:4] == ("r", "arm64", "base", ("t", "")) and challenged[-1] == {"offline": True}
    assert compared[:3] == ("a", "b", ("t", ""))
    assert explained[:3] == ("a", "b", ("t", "s"))


@pytest.mark.parametrize("values", [{}, {"first": "a"}, {"first": "a", "second": "b", "third": "c"}])
def test_a_command_gets_what_it_declares_no_less_and_no_more(values: dict[str, str]):
    with pytest.raises(TypeError, match="AuditCompare"):
        options.AuditCompare(**values)


def test_an_option_is_declared_once():
    classes = [item for _, item in inspect.getmembers(options, inspect.isclass) if item.__module__ == options.__name__]
    texts = []
    for item in classes:
        inherited = {name for base in item.__bases__ for name in getattr(base, "DECLARED", {})}
        texts += [declared.text for name, declared in item.DECLARED.items() if name not in inherited]
    assert len(texts) > 40 and sorted(set(texts)) == sorted(texts)


def test_listing_the_commands_imports_no_client_of_engines_or_registries():
    code = (
        "import sys, runpy; sys.path.insert(0, '.'); runpy.run_path('tasks.py');"
        "print([name for name in ('docker', 'requests', 'cryptography', 'jinja2', 'rich', 'pysequoia', 'msgspec')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
