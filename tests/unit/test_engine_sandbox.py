"""The sandbox's command line and its engine: what a job is given, what is said of it; without starting a sandbox."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import pytest
from _engine_cases import IMAGE

from repro.base.architecture import here
from repro.base.errors import CouldNotRun, EngineUnavailable
from repro.container.job import Job, Limits, Mount
from repro.engines import sandbox, seccomp
from repro.engines.bubblewrap import check_targets, closed_args, places, through_loader
from repro.engines.sandbox import SandboxEngine
from repro.machine import cgroups
from repro.machine.emulation import Emulation

NATIVE = dataclasses.replace(IMAGE, architecture=here().name)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for name in ("in", "code", "out"):
        (tmp_path / name).mkdir()
    mounts = (
        Mount(tmp_path / "out", "/run/out", writable=True),
        Mount(tmp_path / "in", "/run/in"),
        Mount(tmp_path / "code", "/run/in/code"),
    )
    return Job(NATIVE, ("true",), mounts, limits=Limits(memory_bytes=1 << 30))


def pairs(words: list[str], option: str) -> list[tuple[str, str]]:
    return [(words[at + 1], words[at + 2]) for at, word in enumerate(words) if word == option]


def sizes(words: list[str]) -> dict[str, tuple[str, str]]:
    """(mode, size) of each tmpfs."""
    found = {}
    for at, word in enumerate(words):
        if word == "--tmpfs" and words[at - 2] == "--size":
            found[words[at + 1]] = (words[at - 3], words[at - 1])
    return found


def test_only_outputs_are_writable_and_outer_mounts_come_first(job: Job, tmp_path: Path):
    words = places(job, Path("/images/root"), 20, 21)
    assert pairs(words, "--bind") == [(str(tmp_path / "out"), "/run/out")]
    read_only = pairs(words, "--ro-bind")
    assert read_only[0] == ("/images/root", "/")
    assert read_only[-2:] == [(str(tmp_path / "in"), "/run/in"), (str(tmp_path / "code"), "/run/in/code")]
    assert words.index("/run/in") < words.index("/run/in/code")
    assert pairs(words, "--ro-bind-data") == [("20", "/etc/passwd"), ("21", "/etc/group")]


def test_every_place_of_the_jobs_own_is_bounded_by_its_memory(job: Job):
    bound = str(1 << 30)
    assert sizes(places(job, Path("/"), 20, 21)) == {
        "/tmp": ("1777", bound), "/run": ("0755", bound), "/sys": ("0755", bound), "/dev/shm": ("1777", bound),
    }  # fmt: skip


def test_what_is_not_the_jobs_is_made_read_only_last(job: Job):
    words = places(dataclasses.replace(job, devices=("/dev/null:/dev/davinci0",)), Path("/"), 20, 21)
    assert words[-2:] == ["--remount-ro", "/dev"]
    assert pairs(words, "--dev-bind") == [("/dev/null", "/dev/davinci0")]
    assert words.index("/dev/davinci0") < len(words) - 2
    assert "/sys" in [words[at + 1] for at, word in enumerate(words) if word == "--remount-ro"]


def test_a_sandbox_has_all_namespaces_of_its_own_but_ipc_for_a_job_with_devices(job: Job):
    assert {"--unshare-all", "--disable-userns", "--die-with-parent", "--clearenv"} <= set(closed_args(job))
    sharing = closed_args(dataclasses.replace(job, shares_ipc=True, devices=("/dev/null",)))
    assert "--unshare-all" not in sharing
    assert {"--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-user", "--disable-userns"} <= set(sharing)
    assert "--unshare-ipc" not in sharing


def layer(tmp_path: Path) -> Path:
    folder = tmp_path / "tools" / "usr" / "lib" / here().triplet
    folder.mkdir(parents=True)
    (folder / here().loader).touch()
    (tmp_path / "tools" / "usr" / "bin").mkdir()
    (tmp_path / "tools" / "usr" / "bin" / "bwrap").touch()
    return tmp_path / "tools"


def test_bubblewrap_is_started_by_paths_that_show_nothing_of_the_host(tmp_path: Path):
    program = through_loader(layer(tmp_path))
    assert program.folder == tmp_path / "tools"
    assert not any(word.startswith("/") for word in program.argv)
    assert program.argv[-1] == "usr/bin/bwrap"
    assert all(word.startswith(("/tools/", "--")) for word in program.seen_as("/tools"))


@pytest.mark.parametrize("absent", ["usr/bin/bwrap", "loader"])
def test_a_layer_that_is_not_complete_is_named(tmp_path: Path, absent: str):
    tools = layer(tmp_path)
    (tools / absent.replace("loader", f"usr/lib/{here().triplet}/{here().loader}")).unlink()
    with pytest.raises(CouldNotRun, match="is not complete"):
        through_loader(tools)


def test_a_mount_that_the_image_has_no_place_for_is_refused(tmp_path: Path, job: Job):
    check_targets(job, tmp_path)
    with pytest.raises(CouldNotRun, match=r"image base has no /opt/x to mount on"):
        check_targets(dataclasses.replace(job, mounts=(Mount(tmp_path, "/opt/x"),)), tmp_path)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch) -> SandboxEngine:
    monkeypatch.setattr(cgroups, "find_parents", lambda: cgroups.Unlimited("no control group is delegated"))
    return SandboxEngine(lambda: layer(tmp_path), lambda _image: tmp_path)


def test_limits_that_cannot_be_had_are_said_and_the_others_are_enforced(engine: SandboxEngine):
    with contextlib.ExitStack() as stack:
        control, said = engine._control_group(Limits(), stack)
    assert control is None
    assert said.pop("memory") == said.pop("pids") == "not enforced: no control group is delegated"
    assert said == dict.fromkeys(
        ("network", "read_only_root", "capabilities", "timeout", "user_namespaces", "system_calls", "kernel_keys"),
        "enforced",
    )


def test_a_kernel_without_filters_is_said_and_gets_none(engine: SandboxEngine, monkeypatch):
    monkeypatch.setattr(seccomp, "supported", lambda: False)
    with contextlib.ExitStack() as stack:
        assert sandbox._system_calls(stack) == ([], ())
        _, said = engine._control_group(Limits(), stack)
    assert said["system_calls"].startswith("not enforced: this kernel")
    assert said["kernel_keys"].startswith("not enforced: this kernel")
    assert "system_call_filter" not in engine._limit_facts()


def test_the_filter_is_given_by_a_descriptor_that_holds_its_program(job: Job, tmp_path: Path):
    with contextlib.ExitStack() as stack:
        options, descriptors = sandbox._options(job, tmp_path, stack)
        assert options[options.index("--seccomp") + 1] == str(descriptors[-1])
        assert os.pread(descriptors[-1], 1 << 16, 0) == seccomp.program(here())
        assert min(descriptors) >= 10
        assert os.pread(descriptors[0], 1 << 16, 0).startswith(b"stage:x:")
        for option in ("--uid", "--gid"):
            assert int(options[options.index(option) + 1]) in (os.getuid(), os.getgid())


def test_a_kernel_is_asked_whether_it_has_filters(tmp_path: Path):
    status = tmp_path / "status"
    assert not seccomp.supported(status)
    status.write_text("Name:\tx\nUid:\t0\n")
    assert not seccomp.supported(status)
    status.write_text("Name:\tx\nSeccomp:\t0\n")
    assert seccomp.supported(status)
    status.write_bytes(b"Name:\t\xff\nSeccomp:\t0\n")
    assert seccomp.supported(status), "whatever this process is called"


def test_an_image_of_another_architecture_needs_an_emulator(engine: SandboxEngine, monkeypatch):
    other = dataclasses.replace(IMAGE, architecture=here().other.name)
    monkeypatch.setattr(
        sandbox, "emulation", lambda _: Emulation(works=False, how="no emulator for it", hint="install one")
    )
    with pytest.raises(EngineUnavailable, match="no emulator for it") as caught:
        engine.prepare(other)
    assert caught.value.hint == "install one"


def test_a_machine_of_another_kind_has_no_sandbox_and_says_so(engine: SandboxEngine, monkeypatch):
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    found = engine.probe()
    assert not found.usable
    assert "riscv64" in found.reason
    assert "--engine docker" in found.hint


def test_a_layer_that_is_not_there_is_the_reason(monkeypatch):
    def tools():
        raise CouldNotRun("debs:sandbox is not fetched", hint="run `invoke fetch`")

    found = SandboxEngine(tools, lambda _image: Path("/")).probe()
    assert (found.usable, found.hint) == (False, "run `invoke fetch`")
    assert "debs:sandbox is not fetched" in found.reason
