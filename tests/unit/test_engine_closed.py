"""What all engines share: who the job is, what it may mount, how its lines arrive, whose containers are orphans."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from _engine_cases import IMAGE
from hypothesis import given
from hypothesis import strategies as st

from repro.base.errors import CouldNotRun, EngineUnavailable, UsageError
from repro.base.files import remove_tree
from repro.container.job import Availability, Job, Limits, Mount
from repro.engines import sandbox
from repro.engines.closed import (
    MAX_LINE_BYTES,
    LineSplitter,
    check_job,
    command,
    disarm,
    environment,
    group,
    passwd,
    tell_disarmed,
)
from repro.machine import cgroups
from repro.machine.owner import Owner
from repro.run.engine_choice import Candidate, check_name, choose_from


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_do_not_depend_on_how_the_bytes_were_cut(chunks):
    text = b"".join(chunks)
    whole, pieces = [], []
    for data, lines in (([text], whole), (chunks, pieces)):
        splitter = LineSplitter("stdout", lambda _stream, line, lines=lines: lines.append(line))
        for chunk in data:
            splitter.feed(chunk)
        splitter.close()
    assert whole == pieces


def test_a_line_without_end_is_handed_on_in_pieces():
    lines = []
    splitter = LineSplitter("stdout", lambda _stream, line: lines.append(len(line)))
    for _ in range(3):
        splitter.feed(b"x" * MAX_LINE_BYTES)
    assert lines == [MAX_LINE_BYTES] * 3


@pytest.mark.parametrize("uid", [0, 1000, 65534])
def test_every_uid_is_named_stage_and_no_uid_twice_but_roots(uid):
    lines = passwd(uid, uid).decode().splitlines()
    assert lines[0].split(":")[:4] == ["stage", "x", str(uid), str(uid)]
    assert lines[0].split(":")[5] == "/tmp/home"
    names = [line.split(":")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert "root" in names
    assert group(uid).decode().splitlines()[0] == f"stage:x:{uid}:"


@pytest.mark.parametrize(
    "target", ["/", "/etc/passwd", "/proc", "/run", "/tmp", "/tmp/home", "relative", "/run/../etc", "/run/in/", "//x"]
)
def test_a_mount_over_what_is_ours_or_out_of_place_is_refused(tmp_path, target):
    with pytest.raises(CouldNotRun, match="nothing can be mounted"):
        check_job(Job(IMAGE, ("true",), (Mount(tmp_path, target),)))


def test_two_mounts_on_one_target_and_a_missing_source_are_refused(tmp_path):
    with pytest.raises(CouldNotRun, match="two things"):
        check_job(Job(IMAGE, ("true",), (Mount(tmp_path, "/run/a"), Mount(tmp_path, "/run/a"))))
    with pytest.raises(CouldNotRun, match="does not exist"):
        check_job(Job(IMAGE, ("true",), (Mount(tmp_path / "absent", "/run/a"),)))
    with pytest.raises(CouldNotRun, match="no command"):
        check_job(Job(IMAGE, ()))


def test_the_jobs_environment_wins_over_the_images_but_not_over_home():
    job = Job(IMAGE, ("true",), env={"IMAGE": "no", "HOME": "/elsewhere"})
    assert environment(job)["IMAGE"] == "no"
    assert environment(job)["HOME"] == "/tmp/home"
    assert "IMAGE=no" in command(job, watched=False)


def test_only_a_watched_command_reads_standard_input():
    job = Job(IMAGE, ("true",))
    assert "read -r" in command(job, watched=True)[2]
    assert "read -r" not in command(job, watched=False)[2]


def test_set_user_id_bits_are_taken_off_outputs_and_links_are_not_followed(tmp_path):
    out, host = tmp_path / "out", tmp_path / "host"
    out.mkdir()
    for path in (out / "suid", host):
        path.touch()
        path.chmod(0o6755)
    (out / "link").symlink_to(host)
    assert disarm([Mount(out, "/run/out", writable=True), Mount(host, "/run/in")]) == ["suid"]
    assert stat.S_IMODE((out / "suid").stat().st_mode) == 0o755
    assert stat.S_IMODE(host.stat().st_mode) == 0o6755


def test_bits_are_taken_off_however_deep_they_lie_and_however_odd_the_names_are(tmp_path):
    """A path of the deepest one is longer than the kernel takes, and a recursion would end this process."""
    out = tmp_path / "out"
    out.mkdir()
    descriptor = os.open(out, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 9, dir_fd=descriptor)
        inner = os.open("d" * 9, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    try:
        os.close(os.open(b"\xff\x1b[2J", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=descriptor))
        os.chmod(b"\xff\x1b[2J", 0o4755, dir_fd=descriptor)
        (out / "closed").mkdir()
        (out / "closed" / "inside").touch()
        (out / "closed" / "inside").chmod(0o6755)
        (out / "closed").chmod(0o011)
        os.mkfifo(out / "fifo")
        assert disarm([Mount(out, "/run/out", writable=True)]) == ["inside", "\udcff\x1b[2J"]
        assert stat.S_IMODE((out / "closed").stat().st_mode) == 0o711, "opened to us, and to others as it was"
        assert stat.S_IMODE(os.stat(b"\xff\x1b[2J", dir_fd=descriptor).st_mode) == 0o755
    finally:
        os.close(descriptor)
        remove_tree(out)


def test_a_writable_file_is_disarmed_and_a_link_in_its_place_is_not_followed(tmp_path):
    host, link = tmp_path / "host", tmp_path / "link"
    host.touch()
    host.chmod(0o4755)
    link.symlink_to(host)
    assert disarm([Mount(link, "/run/out", writable=True)]) == []
    assert stat.S_IMODE(host.stat().st_mode) == 0o4755
    assert disarm([Mount(host, "/run/out", writable=True)]) == ["host"]


def test_notes_about_bits_are_few_and_show_no_control_characters():
    lines = []
    tell_disarmed(["a\x1b[2J", *(str(number) for number in range(100))], lambda stream, line: lines.append(line))
    assert len(lines) == 11
    assert "\x1b" not in lines[0]
    assert lines[-1] == "note: and off 91 more files"


def fake_proc(folder, *, cgroup, mountinfo):
    folder.mkdir(exist_ok=True)
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text(mountinfo)
    return folder


def test_version_2_without_delegation_is_no_limit_with_a_reason(tmp_path):
    mountinfo = f"30 1 0:26 / {tmp_path}/cg rw - cgroup2 cgroup2 rw\n"
    (tmp_path / "cg" / "user" / "session").mkdir(parents=True)
    found = cgroups.find_parents(fake_proc(tmp_path / "proc", cgroup="0::/user/session\n", mountinfo=mountinfo))
    assert isinstance(found, cgroups.Unlimited)
    assert "delegated" in found.reason


def test_version_2_takes_the_group_above_when_that_hands_memory_and_pids_down(tmp_path):
    mountinfo = f"30 1 0:26 / {tmp_path}/cg rw - cgroup2 cgroup2 rw\n"
    own = tmp_path / "cg" / "user" / "session"
    own.mkdir(parents=True)
    for folder, controllers in ((own, ""), (own.parent, "cpu memory pids")):
        (folder / "cgroup.procs").touch()
        (folder / "cgroup.subtree_control").write_text(controllers)
    found = cgroups.find_parents(fake_proc(tmp_path / "proc", cgroup="0::/user/session\n", mountinfo=mountinfo))
    assert found == cgroups.Parents(2, {"memory": own.parent, "pids": own.parent})


def test_version_1_finds_each_controller_under_its_own_mount(tmp_path):
    for name in ("memory/a", "pids"):
        (tmp_path / name).mkdir(parents=True)
    mountinfo = "".join(
        f"30 1 0:2{n} / {tmp_path}/{name} rw shared:1 - cgroup cgroup rw,{name}\n"
        for n, name in enumerate(("memory", "pids"))
    )
    proc = fake_proc(tmp_path / "proc", cgroup="8:pids:/\n4:memory:/a\n0::/\n", mountinfo=mountinfo)
    assert cgroups.find_parents(proc) == cgroups.Parents(
        1, {"memory": tmp_path / "memory" / "a", "pids": tmp_path / "pids"}
    )


def test_the_memory_given_is_the_least_limit_up_to_the_top(tmp_path):
    mountinfo = f"30 1 0:26 / {tmp_path}/cg rw - cgroup2 cgroup2 rw\n"
    own = tmp_path / "cg" / "user" / "session"
    own.mkdir(parents=True)
    (own / "memory.max").write_text("max\n")
    (own.parent / "memory.max").write_text("4096\n")
    proc = fake_proc(tmp_path / "proc", cgroup="0::/user/session\n", mountinfo=mountinfo)
    assert cgroups.memory_given(proc) == 4096
    (own.parent / "memory.max").write_text("max\n")
    assert cgroups.memory_given(proc) is None


def test_a_group_that_cannot_be_limited_leaves_no_folder(tmp_path):
    limits = Limits(memory_bytes=1, pids=1)
    absent = cgroups.Parents(2, {"memory": tmp_path / "absent", "pids": tmp_path / "absent"})
    with pytest.raises(OSError):
        cgroups.Group.create(absent, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (2, {"memory.max": "4096", "memory.swap.max": "0", "pids.max": "7"}),
        (1, {"memory.limit_in_bytes": "4096", "memory.memsw.limit_in_bytes": "4096", "pids.max": "7"}),
    ],
)
def test_a_group_gets_the_jobs_limits_swap_included(tmp_path, monkeypatch, version, expected):
    made = Path.mkdir

    def with_kernel_files(folder, *arguments, **more):
        made(folder, *arguments, **more)
        for name in expected:
            (folder / name).touch()

    monkeypatch.setattr(Path, "mkdir", with_kernel_files)
    parents = cgroups.Parents(version, {"memory": tmp_path, "pids": tmp_path})
    cgroups.Group.create(parents, Limits(memory_bytes=4096, pids=7))
    (folder,) = tmp_path.iterdir()
    assert {path.name: path.read_text() for path in folder.iterdir()} == expected


def test_a_process_that_cannot_be_moved_into_its_group_is_not_called_limited():
    class Closed:
        def add(self, pid):
            raise PermissionError(1, "Operation not permitted")

    class Open:
        def __init__(self):
            self.pids = []

        def add(self, pid):
            self.pids.append(pid)

    said = sandbox._limited(Closed(), (1, 2))
    assert set(said) == {"memory", "pids"}
    assert all(reason.startswith("not enforced: a process could not be moved") for reason in said.values())
    group = Open()
    assert sandbox._limited(group, (1, 2)) == {}
    assert group.pids == [1, 2]


def test_the_owners_name_survives_labels_and_file_names():
    owner = Owner.this_process()
    assert Owner.from_labels(owner.labels()) == owner
    assert Owner.from_name(owner.as_name()) == owner
    assert Owner.from_labels({}) is None
    assert Owner.from_name("anything") is None
    assert not owner.is_gone()


def maker(name, usable, made):
    def make():
        made.append(name)
        availability = Availability(name, usable, "" if usable else f"{name} is absent", f"get {name}")
        return Candidate(availability, object() if usable else None)

    return make


def test_auto_takes_the_first_that_works_and_says_why_not_the_others():
    made = []
    usable = {"docker": False, "podman": True, "sandbox": True}
    choice = choose_from("auto", {name: maker(name, works, made) for name, works in usable.items()})
    assert choice.availability.name == "podman"
    assert [other.reason for other in choice.passed_over] == ["docker is absent"]
    assert made == ["docker", "podman"]


def test_an_engine_asked_for_by_name_is_that_or_an_error():
    candidates = {"docker": maker("docker", False, []), "sandbox": maker("sandbox", True, [])}
    with pytest.raises(EngineUnavailable, match="docker is absent"):
        choose_from("docker", candidates)
    with pytest.raises(UsageError, match="there is no engine 'rocket'"):
        check_name("rocket")


def test_when_nothing_works_every_reason_and_remedy_is_given():
    candidates = {name: maker(name, False, []) for name in ("docker", "sandbox")}
    with pytest.raises(EngineUnavailable) as caught:
        choose_from("auto", candidates)
    assert caught.value.detail == "docker: docker is absent\nsandbox: sandbox is absent"
    assert "get docker" in caught.value.hint


def test_child_processes_outlive_the_thread_that_asked_for_them():
    import threading

    from repro.engines.spawner import spawn

    made = []
    thread = threading.Thread(target=lambda: made.append(spawn([*["sleep", "30"]], env=dict(os.environ))))
    thread.start()
    thread.join()
    try:
        parents = (Path("/proc") / str(made[0].pid) / "stat").read_text().rpartition(")")[2].split()
        assert int(parents[1]) == os.getpid()
        assert made[0].poll() is None
        assert any(task.name == "spawner" and task.daemon for task in threading.enumerate())
    finally:
        made[0].kill()
        made[0].communicate()
