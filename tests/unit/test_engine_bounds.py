"""What every engine gives a container, byte for byte; what it refuses, by name; where an engine's API is looked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from _engine_cases import IMAGE, INFO, VERSION

from repro.base.errors import CouldNotRun, EngineUnavailable
from repro.base.files import sha256_bytes
from repro.container.job import Availability, Job, Limits, Mount
from repro.engines import bubblewrap, closed
from repro.engines.bubblewrap import Program, check_targets, closed_args, explain_refusal, ids, places, through_loader
from repro.engines.closed import (
    LineSplitter,
    check_job,
    command,
    device_paths,
    disarm,
    environment,
    group,
    in_mount_order,
    passwd,
)
from repro.engines.endpoint import Endpoint, check_engine, docker_endpoint, on_hybrid_host
from repro.engines.npu_access import Access, access_for

ROOT, VENDOR, NOBODY = (
    "root:x:0:0:root:/root:/bin/sh",
    "HwHiAiUser:x:1000:1000:Ascend:/tmp/home:/bin/sh",
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
)


@pytest.mark.parametrize(
    ("uid", "gid", "users", "groups"),
    [
        (500, 600, (ROOT, VENDOR, NOBODY), ("root:x:0:", "nogroup:x:65534:", "HwHiAiUser:x:1000:")),
        (1000, 1000, (ROOT, NOBODY), ("root:x:0:", "nogroup:x:65534:")),
        (65534, 65534, (ROOT, VENDOR), ("root:x:0:", "HwHiAiUser:x:1000:")),
        (0, 0, (ROOT, VENDOR, NOBODY), ("root:x:0:", "nogroup:x:65534:", "HwHiAiUser:x:1000:")),
    ],
)
def test_the_user_database_is_these_lines(uid, gid, users, groups):
    assert passwd(uid, gid).decode() == "\n".join((f"stage:x:{uid}:{gid}:stage:/tmp/home:/bin/sh", *users)) + "\n"
    assert group(gid).decode() == "\n".join((f"stage:x:{gid}:", *groups)) + "\n"


def test_the_environment_is_ours_then_the_images_then_the_jobs_and_nothing_else():
    job = Job(replace(IMAGE, env={"LANG": "C", "IMAGE": "yes"}), ("true",), env={"TZ": "CET", "HOSTNAME": "h"})
    assert environment(job) == {
        "HOME": "/tmp/home", "HOSTNAME": "stage", "IMAGE": "yes", "LANG": "C",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TZ": "CET",
    }  # fmt: skip
    assert list(environment(job)) == sorted(environment(job))
    plain = environment(Job(replace(IMAGE, env={}), ("true",)))
    assert (plain["LANG"], plain["TZ"]) == ("C.UTF-8", "UTC") and set(plain) == {
        "HOME",
        "HOSTNAME",
        "LANG",
        "PATH",
        "TZ",
    }


def test_the_command_line_sets_limits_leaves_the_environment_and_becomes_the_job(monkeypatch):
    monkeypatch.setattr(closed, "open_files_limit", lambda: 77)
    job = Job(replace(IMAGE, env={}), ("prog", "an arg"), env={"A": "1"})
    expected = [f"{name}={value}" for name, value in environment(job).items()]
    first, last = "ulimit -c 0 && ulimit -n 77 || exit 126", 'mkdir -p -m 0700 /tmp/home || exit 126\nexec env -i "$@"'
    assert command(job, watched=False) == ["/bin/sh", "-c", f"{first}\n{last}", "stage", *expected, "prog", "an arg"]
    watch = "exec 3<&0 </dev/null\n{ read -r never <&3; kill -KILL $$; } >/dev/null 2>&1 &\nexec 3<&-"
    assert command(job, watched=True)[2] == f"{first}\n{watch}\n{last}"


@pytest.mark.parametrize(("hard", "expected"), [(-1, 65536), (100_000, 65536), (65536, 65536), (4096, 4096)])
def test_open_files_are_the_same_everywhere_and_no_more_than_the_host_grants(monkeypatch, hard, expected):
    asked = []
    monkeypatch.setattr(closed.resource, "getrlimit", lambda what: asked.append(what) or (10, hard))
    assert closed.open_files_limit() == expected and asked == [closed.resource.RLIMIT_NOFILE]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"argv": ()}, "j: there is no command to run"),
        ({"env": {"1A": "x"}}, "j: '1A' is not a name and value"),
        ({"env": {"A-B": "x"}}, "j: 'A-B' is not a name and value"),
        ({"env": {"A\n": "x"}}, "is not a name and value"),
        ({"env": {"A": "x\0y"}}, "j: 'A' is not a name and value"),
        ({"shares_ipc": True}, "j: only a job with devices may share"),
        ({"devices": ("/dev/null", "/dev/absent:/dev/x")}, "j: the device node /dev/absent is not there"),
        ({"mounts": (Mount(Path("/none"), "/run/in/x"),)}, "j: /none is to be mounted at /run/in/x and does not exist"),
        *(
            ({"mounts": (Mount(Path("/"), place),)}, "j: nothing can be mounted at")
            for place in ("/dev", "/etc", "/etc/group", "/sys", "run/x", "/run/../x", "/run//x", "/run/x/", "/run/.")
        ),
    ],
)
def test_each_job_that_cannot_be_run_as_asked_is_refused_by_name(changes, why):
    with pytest.raises(CouldNotRun) as caught:
        check_job(replace(Job(IMAGE, ("true",), name="j"), **changes))
    assert why in caught.value.message


def test_a_job_in_order_is_not_refused(tmp_path):
    check_job(
        Job(
            IMAGE,
            ("true",),
            (Mount(tmp_path, "/run/a"), Mount(tmp_path, "/run/b"), Mount(tmp_path, "/usr/share")),
            env={"_A1": "", "b": "x y"},
            devices=("/dev/null:/dev/davinci0",),
            shares_ipc=True,
        )
    )


def test_devices_and_mounts_are_in_order():
    assert device_paths("/dev/a") == ("/dev/a", "/dev/a") and device_paths("/dev/a:/dev/b") == ("/dev/a", "/dev/b")
    mounts = [Mount(Path("/1"), "/run/b"), Mount(Path("/2"), "/run/a/c"), Mount(Path("/3"), "/run/a")]
    assert [mount.target for mount in in_mount_order(mounts)] == ["/run/a", "/run/a/c", "/run/b"]


def test_lines_are_text_whatever_their_bytes_and_carry_their_stream():
    told = []
    splitter = LineSplitter("stderr", lambda *line: told.append(line))
    splitter.feed(b"a\r\n\xffb\r\rc\n\nrest")
    assert told == [("stderr", "a"), ("stderr", "\\xffb\r\rc"), ("stderr", "")]
    splitter.close()
    splitter.close()
    assert told[3:] == [("stderr", "rest")]
    splitter.feed(b"x" * (closed.MAX_LINE_BYTES - 1))
    assert len(told) == 4
    splitter.feed(b"xy")
    splitter.close()
    assert [len(line) for _, line in told[4:]] == [64 * 1024, 1] and told[5][1] == "y"


def test_a_sandbox_is_built_of_these_places_in_this_order(tmp_path, monkeypatch):
    monkeypatch.setattr(bubblewrap, "_proc_covered", lambda: ["COVERED"])
    mounts = (Mount(tmp_path, "/run/out", writable=True), Mount(tmp_path, "/run/code"))
    job = Job(IMAGE, ("true",), mounts, limits=Limits(memory_bytes=9), devices=("/dev/b", "/dev/a:/dev/x"))
    assert " ".join(places(job, Path("/root"), 5, 6)) == (
        "--ro-bind /root / --proc /proc --dev /dev COVERED "
        "--perms 1777 --size 9 --tmpfs /tmp --perms 0755 --size 9 --tmpfs /run --perms 0755 --size 9 --tmpfs /sys "
        "--perms 0755 --dir /sys/devices --perms 0755 --dir /sys/devices/system "
        "--ro-bind /sys/devices/system /sys/devices/system --remount-ro /sys --perms 0700 --dir /tmp/home "
        f"--ro-bind-data 5 /etc/passwd --ro-bind-data 6 /etc/group --ro-bind {tmp_path} /run/code "
        f"--bind {tmp_path} /run/out --dev-bind /dev/a /dev/x --dev-bind /dev/b /dev/b "
        "--perms 1777 --size 9 --tmpfs /dev/shm --remount-ro /dev"
    )
    assert ids() == ["--uid", str(os.getuid()), "--gid", str(os.getgid())]


def test_what_of_proc_is_read_only_and_what_is_covered(monkeypatch):
    monkeypatch.setattr(bubblewrap.os.path, "isdir", lambda path: path in ("/proc/acpi", "/proc/scsi"))
    monkeypatch.setattr(bubblewrap.os.path, "exists", lambda path: path != "/proc/sched_debug")
    words = " ".join(bubblewrap._proc_covered())
    read_only = " ".join(f"--ro-bind-try /proc/{n} /proc/{n}" for n in ("bus", "fs", "irq", "sys", "sysrq-trigger"))
    covered = "--perms 0555 --tmpfs /proc/{0} --remount-ro /proc/{0}"
    files = " ".join(f"--ro-bind /dev/null /proc/{name}" for name in ("kcore", "keys", "latency_stats"))
    last = " ".join(f"--ro-bind /dev/null /proc/{name}" for name in ("timer_list", "timer_stats"))
    assert words == f"{read_only} {covered.format('acpi')} {files} {covered.format('scsi')} {last}"


def test_namespaces_of_a_job_are_all_its_own_or_all_but_ipc():
    plain = closed_args(Job(IMAGE, ("true",)))
    assert plain == ["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--die-with-parent",
                     "--clearenv"]  # fmt: skip
    shared = closed_args(Job(IMAGE, ("true",), shares_ipc=True))
    assert shared == ["--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", *plain[1:]]


@pytest.mark.parametrize(
    ("text", "settings", "why", "hint"),
    [
        ("", {"user/max_user_namespaces": "0"}, "user namespaces are switched off", "user.max_user_namespaces=10000"),
        ("x", {"kernel/unprivileged_userns_clone": "0"}, "kept for root", "unprivileged_userns_clone=1"),
        (
            "x",
            {"kernel/apparmor_restrict_unprivileged_userns": "1"},
            "AppArmor keeps",
            "restrict_unprivileged_userns=0",
        ),
        ("bwrap: Can't mount proc on /newroot/proc", {}, "forbids mounting /proc", "systempaths=unconfined"),
        ("bwrap: mount proc", {}, "forbids mounting /proc", "systempaths=unconfined"),
        ("bwrap: No permissions to create new namespace", {}, "forbids new namespaces", "--engine docker"),
        ("bwrap: Creating new namespace failed: x", {}, "forbids new namespaces", "seccomp=unconfined"),
        ("bwrap: clone: x", {}, "forbids new namespaces", "seccomp=unconfined"),
        ("bwrap: setting up uid map: Permission denied", {}, "a security module forbids", "use `--engine docker`"),
        ("a\nb: odd\n", {}, "bubblewrap says: b: odd", "use `--engine docker` or `--engine podman`"),
        (" \n", {}, "bubblewrap says: it printed nothing", "use `--engine docker`"),
    ],
)
def test_each_refusal_of_the_kernel_has_its_reason_and_its_mend(text, settings, why, hint):
    reason, advice = explain_refusal(text, lambda name: settings.get(name, ""), Path("/there/ld.so"))
    assert why in reason and hint in advice and "bubblewrap says: " in reason
    assert not advice.startswith("or ") and bubblewrap.sysctl("kernel/ostype") == "Linux"
    assert bubblewrap.sysctl("no/such") == ""


@pytest.mark.parametrize("folder", ["/srv/bundle", "/home/a b/[x]*{1}?", '/srv/it\'s \\ "so" ^$(id)'])
def test_apparmor_s_profile_is_of_one_program_wherever_it_lies(folder, tmp_path):
    told = bubblewrap.apparmor_grant(Path(folder, "ld.so"))
    kept = f"{tmp_path}/kept"
    program = told.replace("/etc/apparmor.d/lstm-ctc-sandbox", kept).replace("apparmor_parser -r", "cat")
    abi, profile = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=True).stdout.splitlines()
    place = re.fullmatch(r'profile lstm-ctc-sandbox "(.*)" flags=\(unconfined\) \{ userns, \}', profile)
    assert abi == "abi <abi/4.0>," and place
    assert re.sub(r"\\(.)", r"\1", place.group(1)) == f"{folder}/ld.so"
    assert not re.search(r'(?<!\\)(\\\\)*[][{}*?^"]', place.group(1))


def test_the_program_is_started_from_its_layer_by_relative_paths(tmp_path):
    with pytest.raises(CouldNotRun, match="it lacks usr/bin/bwrap or ld-linux"):
        through_loader(tmp_path)
    architecture = bubblewrap.here()
    usr, lib = f"usr/lib/{architecture.triplet}", f"lib/{architecture.triplet}"
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/bwrap").write_text("")
    (tmp_path / lib).mkdir(parents=True)
    (tmp_path / lib / architecture.loader).write_text("")
    found = through_loader(tmp_path)
    assert found == Program(
        tmp_path, (f"{lib}/{architecture.loader}", "--library-path", f"{usr}:{lib}", "usr/bin/bwrap")
    )
    assert found.seen_as("/t") == [
        f"/t/{lib}/{architecture.loader}", "--library-path", f"/t/{usr}:/t/{lib}", "/t/usr/bin/bwrap"
    ]  # fmt: skip
    (tmp_path / usr).mkdir(parents=True)
    (tmp_path / usr / architecture.loader).write_text("")
    assert through_loader(tmp_path).argv[0] == f"{usr}/{architecture.loader}"
    (tmp_path / "usr/bin/bwrap").unlink()
    with pytest.raises(CouldNotRun, match="not complete"):
        through_loader(tmp_path)


def test_only_below_run_and_tmp_may_a_mount_lack_its_place(tmp_path):
    (tmp_path / "usr").mkdir()
    check_targets(Job(IMAGE, ("x",), tuple(Mount(tmp_path, t) for t in ("/run/a", "/tmp/b", "/usr"))), tmp_path)
    for place in ("/usr/local", "/runx", "/tmpx"):
        with pytest.raises(CouldNotRun, match=f"job: image base has no {place} to mount on"):
            check_targets(Job(IMAGE, ("x",), (Mount(tmp_path, place),)), tmp_path)


def context(home: Path, name: str, host: str) -> None:
    folder = home / "contexts" / "meta" / sha256_bytes(name.encode())
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": host}}}))


def test_dockers_address_is_looked_for_in_this_order(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / ".docker").mkdir(parents=True)
    usual = docker_endpoint({"XDG_RUNTIME_DIR": str(tmp_path / "none")}, home)
    assert usual == Endpoint("unix:///run/docker.sock", "Docker")
    context(home / ".docker", "mine", "unix:///mine")
    context(home / ".docker", "other", "unix:///other")
    for text, expected in (
        ('{"currentContext": "mine"}', "unix:///mine"),
        ('{"currentContext": "default"}', "unix:///run/docker.sock"),
        ('{"currentContext": "absent"}', "unix:///run/docker.sock"),
        ("{}", "unix:///run/docker.sock"),
        ("{", "unix:///run/docker.sock"),
        ("[]", "unix:///run/docker.sock"),
    ):
        (home / ".docker" / "config.json").write_text(text)
        assert docker_endpoint({"XDG_RUNTIME_DIR": "/none"}, home).url == expected, text
    (home / ".docker" / "config.json").write_text('{"currentContext": "mine"}')
    assert docker_endpoint({"DOCKER_CONTEXT": "other"}, home).url == "unix:///other"
    assert docker_endpoint({"DOCKER_CONTEXT": "other", "DOCKER_HOST": "unix:///host"}, home).url == "unix:///host"
    context(tmp_path / "config", "mine", "unix:///configured")
    (tmp_path / "config" / "config.json").write_text('{"currentContext": "mine"}')
    assert docker_endpoint({"DOCKER_CONFIG": str(tmp_path / "config")}, home).url == "unix:///configured"


def test_the_rootless_socket_is_taken_only_where_the_usual_one_is_not(tmp_path, monkeypatch):
    there = {str(tmp_path / "docker.sock")}
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in there)
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert docker_endpoint(environ, tmp_path).url == f"unix://{tmp_path}/docker.sock"
    there.add("/run/docker.sock")
    assert docker_endpoint(environ, tmp_path).url == "unix:///run/docker.sock"
    there.add(f"/run/user/{os.getuid()}/docker.sock")
    there.discard("/run/docker.sock")
    assert docker_endpoint({}, tmp_path).url == f"unix:///run/user/{os.getuid()}/docker.sock"


PODMAN = {"Version": "4.3.1", "Components": [{"Name": "Podman Engine"}]}


@pytest.mark.parametrize(
    ("name", "version", "info", "why", "hint"),
    [
        ("docker", PODMAN, INFO, "Podman answers on Docker's socket", "use `--engine podman`"),
        ("podman", VERSION, INFO, "what answers on Podman's socket is not Podman", "use `--engine docker`"),
        ("podman", {}, INFO, "what answers on Podman's socket is not Podman", "use `--engine docker`"),
        ("docker", VERSION, {"OperatingSystem": "Docker Desktop 4"}, "Docker Desktop runs containers in a virtual",
         "docker context use"),
        ("docker", VERSION, {"OSType": "windows"}, "this engine runs windows containers, not Linux ones", "sandbox"),
        ("docker", VERSION, {"Architecture": "riscv64"}, "this engine runs on riscv64 and we run on", "sandbox"),
        ("docker", {"Version": "20.10.9+dfsg1"}, {"SecurityOptions": ["name=seccomp"]},
         "Docker 20.10.9+dfsg1 is older", "upgrade Docker"),
        ("docker", {"Version": "20.10+dfsg99"}, {"SecurityOptions": ["name=seccomp"]}, "20.10+dfsg99 is older", "upgr"),
        ("docker", {"Version": "19.03-ce"}, {"SecurityOptions": ["name=seccomp"]}, "is older than 20.10.10", "upgrade"),
    ],
)  # fmt: skip
def test_an_engine_that_does_not_serve_is_refused_with_its_way_out(name, version, info, why, hint):
    with pytest.raises(EngineUnavailable) as caught:
        check_engine(name, version, info)
    assert why in caught.value.message and hint in caught.value.hint


def test_engines_that_serve_are_taken(monkeypatch):
    check_engine("docker", {"Version": "20.10.10"}, {"SecurityOptions": ["name=seccomp"]})
    check_engine("docker", {"Version": "20.10.9"}, {"SecurityOptions": ["name=apparmor"]})
    check_engine("docker", {}, {"SecurityOptions": ["name=seccomp"], "Architecture": os.uname().machine})
    monkeypatch.setattr("repro.engines.endpoint.on_hybrid_host", lambda: True)
    check_engine("docker", VERSION, {**INFO, "DefaultRuntime": "crun"})
    check_engine("podman", PODMAN, {**INFO, "DefaultRuntime": "runc"})
    with pytest.raises(EngineUnavailable, match="set to use crun"):
        check_engine("podman", PODMAN, {**INFO, "DefaultRuntime": "/usr/bin/crun"})
    monkeypatch.setattr("repro.engines.endpoint.on_hybrid_host", lambda: False)
    check_engine("podman", PODMAN, {**INFO, "DefaultRuntime": "crun"})


def test_a_hybrid_host_has_version_2_below_version_1(tmp_path):
    (tmp_path / "cgroup.procs").write_text("")
    assert not on_hybrid_host(tmp_path)
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified" / "cgroup.procs").write_text("")
    assert on_hybrid_host(tmp_path)


def test_an_engine_that_is_refused_is_not_usable():
    refused = Availability.refused("docker", "why", "what to do")
    assert refused == Availability("docker", False, "why", "what to do", {})


def test_what_a_container_is_given_of_an_npu_is_whole_and_in_order(tmp_path, monkeypatch):
    nodes = ["dev/davinci1", "dev/davinci0", "dev/davinci_manager", "dev/devmm_svm", "dev/hisi_hdc"]
    files = ["usr/local/dcmi", "usr/local/Ascend/driver/lib64", "usr/local/Ascend/driver/version.info"]
    for name in (*nodes, *files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        (tmp_path / name).chmod(0o666)
    host = SimpleNamespace(path=lambda name: tmp_path / name)
    chips = [SimpleNamespace(device=1), SimpleNamespace(device=0)]
    npu = SimpleNamespace(simulator=False, tool="")
    expected = Access(
        devices=tuple(f"{tmp_path}/{name}:/{name}" for name in nodes),
        mounts=tuple(Mount(tmp_path / name, f"/{name}") for name in files),
        shares_ipc=True,
    )
    for engine, facts in (("docker", {}), ("docker", {"runtimes": "ascending, runc"}), ("sandbox", {}), ("podman", {})):
        assert access_for(npu, chips, host, engine, facts) == expected
    npu.tool = "/opt/npu-smi"
    tool = Mount(Path("/opt/npu-smi"), "/usr/local/bin/npu-smi")
    assert access_for(npu, chips, host, "docker", {}).mounts == (*expected.mounts, tool)
    runtime = Access(env={"ASCEND_VISIBLE_DEVICES": "1,0"}, runtime="ascend")
    assert access_for(npu, chips, host, "docker", {"runtimes": "ascend, runc"}) == runtime
    npu.simulator = True
    assert access_for(npu, chips, host, "docker", {"runtimes": "ascend, runc"}).devices == expected.devices
    group = os.getgid()
    for mode, groups in ((0o660, (group,)), (0o664, (group,)), (0o662, (group,)), (0o606, ())):
        (tmp_path / nodes[0]).chmod(mode)
        assert access_for(npu, chips, host, "docker", {}).groups == groups
    asked = []
    monkeypatch.setattr(
        "repro.engines.npu_access.os.access", lambda *given: asked.append(given) or given[0].name > "de"
    )
    with pytest.raises(
        CouldNotRun, match=r"^this user may not open /dev/davinci1, /dev/davinci0, /dev/davinci_manager$"
    ):
        access_for(npu, chips, host, "podman", {})
    assert asked == [(tmp_path / name, os.R_OK | os.W_OK) for name in nodes]
    (tmp_path / nodes[1]).unlink()
    (tmp_path / nodes[4]).unlink()
    with pytest.raises(CouldNotRun, match=r"^/dev/davinci0, /dev/hisi_hdc is not there any more$"):
        access_for(npu, chips, host, "docker", {})


def test_taking_bits_off_leaves_no_descriptor_open_and_each_other_bit_as_it_was(tmp_path):
    before = sorted(os.listdir("/proc/self/fd"))
    modes = {"a/u": 0o4751, "a/g": 0o2715, "a/both": 0o6777, "plain": 0o1640, "a/b/deep": 0o6711, "c/last": 0o4600}
    for name, mode in modes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        (tmp_path / name).chmod(mode)
    (tmp_path / "a" / "way").symlink_to("../plain")
    (tmp_path / "a").chmod(0o2500)
    assert disarm([Mount(tmp_path, "/run/x")]) == [] and (tmp_path / "a/u").stat().st_mode & 0o7777 == 0o4751
    found = disarm([Mount(tmp_path / "a", "/run/a", writable=True), Mount(tmp_path / "c", "/run/c", writable=True)])
    assert found == ["both", "deep", "g", "last", "u"]
    assert {name: (tmp_path / name).stat().st_mode & 0o7777 for name in modes} == {
        name: mode & 0o1777 for name, mode in modes.items()
    }
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert disarm([Mount(tmp_path, "/run/x", writable=True)]) == []
    (tmp_path / "a").chmod(0o700)
