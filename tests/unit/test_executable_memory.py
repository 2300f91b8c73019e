"""A machine that lets no program make memory executable, as SELinux can: the kernel is told so for a child of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from repro.base.errors import EngineUnavailable
from repro.base.paths import Paths
from repro.container.job import Availability
from repro.graph.failure import system_error
from repro.machine import executable_memory
from repro.run import engine_choice

ROOT = Path(__file__).resolve().parents[2]
# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), since Linux 6.3: what the process starts has it too.
_FORBID = """
import ctypes, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0) != 0:
    sys.exit(77)
"""


def where_forbidden(program: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", _FORBID + program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 77:
        pytest.skip("this kernel cannot be told to forbid it")
    return done


def test_this_machine_allows_it_and_a_child_that_may_not_finds_so():
    assert executable_memory.allowed()
    done = where_forbidden("from repro.machine import executable_memory\nprint(executable_memory.allowed())")
    assert done.stdout == "False\n", done.stderr


def test_a_kernel_is_refused_and_not_called():
    pytest.importorskip("llvmlite")
    done = where_forbidden("""
from stages.compiled import llvm
from stages.shared import stage
ir = "define void @nothing() { ret void }"
stage.run(lambda _: llvm.Library(ir, {}, {"nothing": ""}).call.nothing(), [])
""")
    assert (done.returncode, done.stderr) == (3, "error: memory cannot be made executable\n")


@pytest.mark.parametrize(
    "line",
    [
        "error: memory cannot be made executable",
        "MemoryError: Cannot allocate write+execute memory for ffi.callback(). You might be running on a system that",
    ],
)
def test_it_is_told_from_memory_that_ran_out(line: str):
    assert system_error([line]) == ("memory cannot be made executable", executable_memory.HINT)


def test_no_engine_whose_stages_are_this_users_programs_is_taken(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(executable_memory, "allowed", lambda: False)
    makers = engine_choice.makers(Paths(tmp_path), {})
    with pytest.raises(EngineUnavailable, match="compile their arithmetic in memory") as caught:
        engine_choice.choose_from("sandbox", makers)
    assert "allow_execmem" in caught.value.hint
    elsewhere = engine_choice.makers(Paths(tmp_path), {"CONTAINER_HOST": "unix:///nowhere"})["podman"]()
    assert "compile" not in elsewhere.availability.reason  # another machine's memory is not known here
    docker = engine_choice.Candidate(Availability.refused("docker", "absent", ""), None)
    with pytest.raises(EngineUnavailable, match="no engine can be used") as caught:
        engine_choice.choose_from("auto", {**makers, "docker": lambda: docker})
    assert [line.split(":")[0] for line in caught.value.detail.splitlines()] == ["docker", "podman", "sandbox"]
