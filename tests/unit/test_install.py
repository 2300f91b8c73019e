"""install.py alone, as a machine with nothing of ours runs it: verify first, then a folder that appears whole."""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repro.packing.script import install_script
from repro.packing.writer import Item, hashed, write_bundle
from tests.unit import _bundle_cases as cases

KEY = cases.signer().fingerprint
READY = [
    Item.of_bytes("tree/bootstrap", b"#!/bin/sh\nmkdir -p .venv/bin\ncp ready .venv/bin/python\n", executable=True),
    Item.of_bytes("tree/ready", b"#!/bin/sh\necho adopted\n", executable=True),
]


@pytest.fixture
def place(tmp_path):
    """A folder with install.py in it, a home that knows no key, and a bundle."""
    (tmp_path / "install.py").write_bytes(install_script())
    cases.pack(tmp_path)
    return tmp_path


def install(place: Path, *words: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-I", "install.py", *words],
        cwd=place,
        env={"HOME": str(place / "home"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


def python_of(version: str) -> str | None:
    """An interpreter of that version: on the path, or beside the one that runs the tests."""
    beside = sorted(Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python3"))
    for candidate in [f"python{version}", *map(str, beside)]:
        if (
            shutil.which(candidate)
            and not subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode
        ):
            return candidate
    return None


def written(place: Path) -> set[str]:
    """What is there beside what was there before."""
    return {path.name for path in place.iterdir()} - {"install.py", "small.tar", "home", "base"}


def test_the_script_needs_nothing_but_the_standard_library():
    tree = ast.parse(install_script())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert imported <= set(sys.stdlib_module_names)
    assert not imported & {"socket", "urllib", "http", "ssl"}


def modules_it_imports() -> list[str]:
    """Every module of the standard library that install.py has loaded when it ends, its own imports' imports too."""
    script = f"import sys; sys.argv = ['install.py', '--help']\ntry: exec({install_script().decode()!r})\n"
    script += "except SystemExit: print(*sorted({name.split('.')[0] for name in sys.modules} - {'__main__'}))"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("how", ["beside it", "PYTHONPATH"])
def test_no_module_that_lies_beside_it_is_run(place, how):
    names = modules_it_imports()
    imported = {"argparse", "tarfile", "hashlib", "json", "secrets", "shutil", "subprocess"}
    assert imported < set(names)
    folder = place if how == "beside it" else place / "home" / "planted"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names if how == "beside it" else imported:  # Python's own start follows PYTHONPATH, before any script
        (folder / f"{name}.py").write_text("print('EVIL: this module ran')\n")
    environment = {"HOME": str(place / "home"), "PATH": os.environ["PATH"]}
    if how == "PYTHONPATH":
        environment["PYTHONPATH"] = str(folder)
    for words in (("--verify-only", "--key", KEY), ("--files-only", "--key", KEY), ("--help",)):
        done = subprocess.run(
            [sys.executable, "install.py", "small.tar", *words], cwd=place, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "EVIL" not in done.stdout + done.stderr


# What Windows' Python lacks, and some of it macOS' as well.
ELSEWHERE = """
import os, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
os.supports_dir_fd = set()
for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "ST_NOEXEC", "fchmod", "geteuid",
             "getuid", "posix_fallocate", "pread", "preadv", "pwrite", "readv", "sched_getaffinity", "statvfs", "sync"):
    delattr(os, name)
sys.argv = sys.argv[1:]
exec(compile(open("install.py").read(), "install.py", "exec"))
"""


def on_another_system(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (place / "elsewhere.py").write_text(ELSEWHERE)
    environment = {"HOME": str(place / "home"), "PATH": os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, "-I", "elsewhere.py", "install.py", *words], cwd=place, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def test_a_bundle_is_verified_where_python_has_nothing_of_posix(place):
    done = on_another_system(place, "small.tar", "--verify-only", "--first-use")
    assert done.returncode == 0 and "since its first use" in done.stdout, done.stderr
    done = on_another_system(place, "small.tar", "--verify-only")
    assert done.returncode == 0 and done.stdout == install(place, "small.tar", "--verify-only").stdout
    cases.pack(place, part_size_bytes=40_000)
    assert on_another_system(place, "small.tar.001", "--verify-only").returncode == 0
    data = bytearray((place / "small.tar.003").read_bytes())
    data[200] ^= 4
    (place / "small.tar.003").write_bytes(data)
    there, here = (run(place, "small.tar.001", "--verify-only") for run in (on_another_system, install))
    assert there.returncode == here.returncode == 3 and there.stderr == here.stderr


def test_an_installation_where_python_has_nothing_of_posix_ends_before_anything_is_written(place):
    done = on_another_system(place, "small.tar", "--key", KEY, "--files-only")
    assert done.returncode == 4 and "install it on Linux; here: --verify-only" in done.stderr
    assert "Traceback" not in done.stderr and written(place) <= {"elsewhere.py"}


def test_no_two_of_its_modules_give_one_name_to_two_things():
    tree = ast.parse(install_script())
    names = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names += [target.id for target in targets if isinstance(target, ast.Name)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8"])
def test_an_older_python_is_told_which_one_is_needed(place, version):
    ast.parse(install_script(), feature_version=tuple(map(int, version.split("."))))
    found = python_of(version)
    if found is None:
        pytest.skip(f"no Python {version} here")
    done = install(place, "small.tar", "--key", KEY, python=found)
    assert done.returncode == 4 and "needs Python 3.9 or later; this is Python " + version in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_it_runs_on_every_python_from_3_9_on(place, version):
    found = python_of(version)
    if found is None:
        pytest.skip(f"no Python {version} here")
    done = install(place, "small.tar", "--key", KEY, "--files-only", python=found)
    assert done.returncode == 0, done.stderr
    assert (place / "small" / "empty").read_bytes() == b""


def test_every_file_is_installed_with_its_content_and_mode(place):
    assert install(place, "small.tar", "--key", KEY, "--files-only").returncode == 0
    for item in cases.files():
        inside = item.path[5:] if item.path.startswith("tree/") else f"artifacts/bundle/{item.path}"
        path = place / "small" / inside
        assert path.read_bytes() == item.source
        assert path.stat().st_mode & 0o777 == (0o755 if item.executable else 0o644)
    assert written(place) == {"small"}


def test_a_trusted_key_is_asked_for_before_anything_is_written(place):
    done = install(place, "small.tar", "--files-only")
    assert done.returncode == 4 and "not trusted here" in done.stderr and KEY in done.stdout
    assert written(place) == set()


def test_first_use_is_the_users_to_say(place):
    assert install(place, "small.tar", "--first-use", "--files-only").returncode == 0
    again = install(place, "small.tar", "--files-only", "--to", "other")
    assert again.returncode == 0 and "since its first use" in again.stdout


def test_an_unsigned_bundle_is_installed_only_knowingly_and_is_not_called_verified(place):
    write_bundle(place / "small.tar", cases.files(None), cases.about(), None, cases.Silent())
    refused = install(place, "small.tar", "--files-only")
    assert refused.returncode == 4 and written(place) == set()
    done = install(place, "small.tar", "--files-only", "--allow-unsigned")
    assert done.returncode == 0 and "NOT VERIFIED" in done.stdout
    only = install(place, "small.tar", "--verify-only", "--allow-unsigned")
    assert only.returncode == 4 and "NOT VERIFIED: not signed" in only.stdout


def test_an_unsigned_bundle_is_refused_where_a_key_is_named_or_trusted(place):
    assert install(place, "small.tar", "--first-use", "--files-only").returncode == 0
    write_bundle(place / "small.tar", cases.files(None), cases.about(), None, cases.Silent())
    for words in ([], ["--key", KEY]):
        done = install(place, "small.tar", "--files-only", "--allow-unsigned", "--to", "other", *words)
        assert done.returncode == 3 and "the bundle is not signed, not by" in done.stderr
    assert not (place / "other").exists()


@pytest.mark.parametrize(
    "what",
    [
        "list header",
        "list",
        "padding of the list",
        "content of install.py",
        "header of tree/bootstrap",
        "content of tree/bootstrap",
        "padding of tree/bootstrap",
        "end",
    ],
)
def test_a_changed_byte_installs_nothing(place, what):
    offset = next(start for name, start, _ in cases.layout(place / "small.tar") if name == what)
    data = bytearray((place / "small.tar").read_bytes())
    data[offset] ^= 4
    (place / "small.tar").write_bytes(data)
    done = install(place, "small.tar", "--key", KEY, "--files-only")
    assert done.returncode == 3 and "error:" in done.stderr
    assert written(place) == set()


@pytest.mark.parametrize("key", ["", "abc", "zz" * 32])
def test_what_is_no_fingerprint_is_wrong_use(place, key):
    done = install(place, "small.tar", "--key", key, "--files-only")
    assert done.returncode == 2 and "64 hex digits" in done.stderr and written(place) == set()


def test_files_alone_are_made_ready_later(place):
    cases.pack(place, list({item.path: item for item in [*cases.files(), *READY]}.values()))
    assert install(place, "small.tar", "--key", KEY, "--files-only").returncode == 0
    assert not (place / "small" / ".venv").exists()
    for _ in range(2):
        done = install(place, "small.tar", "--key", KEY)
        assert done.returncode == 0 and (place / "small" / ".venv").is_dir(), done.stderr
    assert "adopted" not in done.stdout


def test_verify_only_writes_nothing(place):
    done = install(place, "small.tar", "--key", KEY, "--verify-only")
    assert done.returncode == 0 and written(place) == set()
    assert install(place, "small.tar", "--verify-only").returncode == 4


def test_installing_again_is_no_error_and_another_folder_is_never_overwritten(place):
    assert install(place, "small.tar", "--key", KEY, "--files-only").returncode == 0
    assert "already installed" in install(place, "small.tar", "--key", KEY, "--files-only").stdout
    (place / "mine").mkdir()
    (place / "mine" / "thesis").write_text("years of work")
    done = install(place, "small.tar", "--key", KEY, "--files-only", "--to", "mine")
    assert done.returncode == 2 and (place / "mine" / "thesis").read_text() == "years of work"


def test_a_planted_mark_of_an_interrupted_installation_removes_nothing(place):
    (place / "small" / "artifacts" / "bundle").mkdir(parents=True)
    (place / "small" / "thesis").write_text("years of work")
    for mark in (".bundle-installing", "artifacts/bundle/made-here"):
        (place / "small" / mark).write_text("0" * 32 + "\n")
    done = install(place, "small.tar", "--key", KEY, "--files-only")
    assert done.returncode == 2 and (place / "small" / "thesis").read_text() == "years of work"


def test_a_planted_link_where_files_are_written_first_is_not_written_through(place):
    (place / "elsewhere").mkdir()
    (place / ".small.installing").symlink_to("elsewhere")
    assert install(place, "small.tar", "--key", KEY, "--files-only").returncode == 0
    assert not list((place / "elsewhere").iterdir())
    assert (place / ".small.installing").is_symlink() and not (place / "small").is_symlink()


def test_a_target_that_is_a_link_is_refused(place):
    assert install(place, "small.tar", "--key", KEY, "--files-only", "--to", "real").returncode == 0
    (place / "small").symlink_to("real")
    assert install(place, "small.tar", "--key", KEY, "--files-only").returncode == 2


@pytest.fixture
def copied(place):
    """A stranger's folder with every listed file in it, whose ./bootstrap and environment say that they ran."""
    cases.pack(place, list({item.path: item for item in [*cases.files(), *READY]}.values()))
    assert install(place, "small.tar", "--key", KEY, "--files-only", "--to", "small").returncode == 0
    shutil.copytree(place / "small", place / "copy")  # another inode: nobody's but the stranger's
    return place


@pytest.mark.parametrize("words", [(), ("--files-only",)])
@pytest.mark.parametrize(
    ("planted", "text"),
    [(".venv/bin/python", "#!/bin/sh\necho EVIL\n"), ("requests.py", "print('EVIL')\n"), ("data/x.pth", "EVIL")],
)
def test_nothing_is_run_in_a_folder_that_holds_more_than_the_bundle(copied, planted, text, words):
    path = copied / "copy" / planted
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    done = install(copied, "small.tar", "--key", KEY, "--to", "copy", *words)
    assert done.returncode == 2 and planted.split("/")[0] in done.stderr
    assert "EVIL" not in done.stdout and path.read_text() == text


def test_a_folder_that_holds_the_list_and_other_files_is_not_installed(copied):
    (copied / "copy" / "bootstrap").write_text("#!/bin/sh\necho EVIL\n")
    done = install(copied, "small.tar", "--key", KEY, "--to", "copy")
    assert done.returncode == 3 and "bootstrap: its content was changed" in done.stderr and "EVIL" not in done.stdout


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda small: (small / "data" / "demo" / "checkpoint.pth").unlink(), "checkpoint.pth: missing"),
        (lambda small: (small / "bootstrap").chmod(0o644), "bootstrap: its mode"),
        (lambda small: (small / "empty").write_text("x"), "empty: its content"),
        (lambda small: _become_link(small / "empty"), "empty: not a plain file"),
    ],
)
def test_a_damaged_installation_is_not_called_installed(place, damage, named):
    assert install(place, "small.tar", "--key", KEY, "--files-only").returncode == 0
    damage(place / "small")
    done = install(place, "small.tar", "--key", KEY, "--files-only")
    assert done.returncode == 3 and named in done.stderr and "already installed" not in done.stdout


def _become_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


def test_what_a_killed_installation_left_is_begun_anew_and_no_copy_of_it(place):
    """The mark counts in that very folder alone: a copy of it may be anybody's."""
    with killed_in_bootstrap(place):
        shutil.copytree(place / "small", place / "mine")
    assert install(place, "small.tar", "--key", KEY, "--files-only").returncode == 0
    assert not (place / "small" / "half").exists() and (place / "mine" / "half").exists()
    assert written(place) == {"small", "mine"}


@contextlib.contextmanager
def killed_in_bootstrap(place: Path):
    """An installation killed while it makes the environment."""
    slow = Item.of_bytes("tree/bootstrap", b"#!/bin/sh\ntouch half\nexec sleep 30\n", executable=True)
    cases.pack(place, list({item.path: item for item in [*cases.files(), slow]}.values()))
    process = subprocess.Popen(
        [sys.executable, "-I", "install.py", "small.tar", "--key", KEY], cwd=place, start_new_session=True,
        env={"HOME": str(place / "home"), "PATH": os.environ["PATH"]}, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (place / "small" / "half").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    yield


def test_killed_at_any_moment_it_can_be_run_again(place):
    items = [
        *cases.files(),
        *(Item.of_bytes(f"tree/many/{n}", cases.noise(20_000, str(n))) for n in range(400)),
        *READY,
    ]
    cases.pack(place, list({item.path: item for item in items}.values()))
    for delay_s in (0.05, 0.15, 0.25, 0.35, 0.45):
        process = subprocess.Popen(
            [sys.executable, "-I", "install.py", "small.tar", "--key", KEY], cwd=place,
            env={"HOME": str(place / "home"), "PATH": os.environ["PATH"]},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (place / "small").exists() or (place / "small" / "many").is_dir()
    done = install(place, "small.tar", "--key", KEY)
    assert done.returncode == 0, done.stderr
    assert len(list((place / "small" / "many").iterdir())) == 400 and written(place) == {"small"}


def test_a_terminated_installation_clears_up(place):
    slow = Item.of_bytes("tree/bootstrap", b"#!/bin/sh\nsleep 30\n", executable=True)
    cases.pack(place, list({item.path: item for item in [*cases.files(), slow]}.values()))
    process = subprocess.Popen(
        [sys.executable, "-I", "install.py", "small.tar", "--key", KEY], cwd=place, start_new_session=True,
        env={"HOME": str(place / "home"), "PATH": os.environ["PATH"]}, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not (place / "small").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 130
    assert written(place) == set()


@pytest.mark.parametrize("content", ["no bundle", "a bundle and more"])
def test_a_name_found_in_a_folder_cannot_command_the_terminal(place, content):
    (place / "base").mkdir()
    named = place / "base" / "\x1b[2J\x85-> VERIFIED\u202e.tar"
    named.write_bytes(b"x" if content == "no bundle" else (place / "small.tar").read_bytes() + b"x")
    done = install(place, "base", "--key", KEY, "--files-only")
    assert done.returncode == 3 and "\\x1b[2J\\x85-> VERIFIED\\u202e.tar" in done.stderr
    assert all(letter.isprintable() for line in done.stderr.split("\n") for letter in line)


def test_a_step_that_fails_leaves_nothing(place):
    broken = Item.of_bytes("tree/bootstrap", b"#!/bin/sh\necho no venv here >&2\nexit 4\n", executable=True)
    cases.pack(place, list({item.path: item for item in [*cases.files(), broken]}.values()))
    done = install(place, "small.tar", "--key", KEY)
    assert done.returncode == 4 and "no venv here" in done.stderr
    assert "-> nothing is left installed; mend it" in done.stderr and written(place) == set()
    assert install(place, "small.tar", "--key", KEY, "--files-only").returncode == 0
    before = written(place)
    done = install(place, "small.tar", "--key", KEY)
    assert done.returncode == 4 and f"-> the files in {place / 'small'} stay as they were verified" in done.stderr
    assert written(place) == before


@pytest.mark.parametrize("name", ["bootstrap", "ready"])
@pytest.mark.parametrize(("ended", "code"), [(3, 3), (4, 4), (1, 4), (2, 4)])
def test_a_verification_that_failed_in_a_step_is_told_from_a_step_that_failed(place, name, ended, code):
    broken = Item.of_bytes(f"tree/{name}", b"#!/bin/sh\nexit %d\n" % ended, executable=True)
    cases.pack(place, list({item.path: item for item in [*cases.files(), *READY, broken]}.values()))
    done = install(place, "small.tar", "--key", KEY)
    assert done.returncode == code and f"ended with code {ended}" in done.stderr
    assert written(place) == set()


def test_the_environment_is_made_without_network_and_without_the_users_settings(place, monkeypatch):
    script = b"#!/bin/sh\nmkdir -p .venv/bin\ncp ready .venv/bin/python\nenv >seen\n"
    items = [*cases.files(), Item.of_bytes("tree/bootstrap", script, executable=True), READY[1]]
    cases.pack(place, list({item.path: item for item in items}.values()))
    done = install(place, "small.tar", "--key", KEY)
    assert done.returncode == 0 and "adopted" in done.stdout, done.stderr
    seen = (place / "small" / "seen").read_text().splitlines()
    assert "PIP_NO_INDEX=1" in seen and f"PIP_FIND_LINKS={(place / 'small' / 'artifacts' / 'wheels').as_uri()}" in seen


def test_a_disk_without_modes_is_found_before_anything_large_is_written(place):
    blind = "import os\nos.fchmod = lambda descriptor, mode: None\n"
    (place / "home").mkdir()
    (place / "home" / "blind.py").write_text(blind + (place / "install.py").read_text())
    done = subprocess.run(
        [sys.executable, "-I", "home/blind.py", "small.tar", "--key", KEY, "--files-only"], cwd=place,
        env={"HOME": str(place / "home"), "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4 and "keeps no modes" in done.stderr and "ext4" in done.stderr
    assert written(place) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")
def test_a_disk_from_which_no_program_can_be_started_is_refused(place):
    (place / "base").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,noexec", "none", str(place / "base")]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("mount is not allowed here")
    try:
        done = install(place, "small.tar", "--key", KEY, "--to", "base/x")
        left = list((place / "base").iterdir())
    finally:
        subprocess.run(["umount", str(place / "base")], check=True)
    assert done.returncode == 4 and "noexec" in done.stderr and left == []


def test_in_a_pipe_who_signed_comes_before_what_the_steps_print(place):
    cases.pack(place, list({item.path: item for item in [*cases.files(), *READY]}.values()))
    done = install(place, "small.tar", "--key", KEY)
    said = done.stdout.splitlines()
    assert said[0] == f"signed by the trusted key {KEY}" and said.index("adopted") < len(said) - 1
    assert said[-1].startswith("installed: cd ")


def test_too_little_room_is_said_before_anything_is_written(place):
    cases.pack(place, unpacked_bytes=1 << 52)
    done = install(place, "small.tar", "--key", KEY)
    assert done.returncode == 4 and "GB free" in done.stderr
    assert written(place) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_fills_up_leaves_nothing(place):
    disk = place / "base"
    disk.mkdir()
    big = [*cases.files(), *(Item.of_bytes(f"tree/many/{n}", cases.noise(200_000, str(n))) for n in range(20))]
    cases.pack(place, big)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], check=False).returncode:
        pytest.skip("mount is not allowed here")
    try:
        (disk / "filler").write_bytes(bytes(400_000))
        room = "type('Room', (), {'f_bavail': 1 << 40, 'f_frsize': 1})()"  # what it is told before it writes
        blind = f"import os\nos.statvfs = lambda path: {room}\n"
        (place / "blind.py").write_text(blind + (place / "install.py").read_text())
        done = subprocess.run(
            [sys.executable, "-I", "blind.py", "small.tar", "--key", KEY, "--files-only", "--to", "base/x"],
            cwd=place, env={"HOME": str(place / "home"), "PATH": os.environ["PATH"]}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        left = {path.name for path in disk.iterdir()}
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 4 and "no space is left" in done.stderr
    assert left == {"filler"}


# --- differences


@pytest.fixture
def difference(place):
    """small.tar holds one more file than base/small.tar, and only that file."""
    (place / "base").mkdir()
    shutil.move(place / "small.tar", place / "base" / "small.tar")
    items = hashed([*cases.files(), Item.of_bytes("tree/new", b"new\n")], cases.Silent())
    known = {item.sha256 for item in cases.files()}
    marked = [
        Item(i.path, i.source, i.size_bytes, i.executable, i.sha256, i.path.startswith("tree/") and i.sha256 in known)
        for i in items
    ]
    from repro.packing import verify_bundle

    cases.pack(place, marked, base=verify_bundle(place / "base" / "small.tar", [KEY]).list_sha256)
    return place


def test_a_difference_carries_only_what_is_new_and_installs_the_whole(difference):
    assert (difference / "small.tar").stat().st_size < (difference / "base" / "small.tar").stat().st_size
    done = install(difference, "small.tar", "--key", KEY, "--files-only", "--base", "base/small.tar")
    assert done.returncode == 0, done.stderr
    assert (difference / "small" / "new").read_bytes() == b"new\n"
    assert (difference / "small" / "data" / "demo" / "checkpoint.pth").read_bytes() == cases.noise(5000, "weights")


def test_a_difference_builds_upon_what_the_earlier_one_installed(difference):
    assert (
        install(difference / "base", "small.tar", "--key", KEY, "--files-only").returncode == 2
    )  # no install.py there
    shutil.copy(difference / "install.py", difference / "base")
    assert install(difference / "base", "small.tar", "--key", KEY, "--files-only").returncode == 0
    done = install(difference, "small.tar", "--key", KEY, "--files-only", "--base", "base/small")
    assert done.returncode == 0, done.stderr
    (difference / "base" / "small" / "bootstrap").write_text("changed")
    again = install(difference, "small.tar", "--key", KEY, "--files-only", "--base", "base/small", "--to", "other")
    assert again.returncode == 3 and "bootstrap" in again.stderr and not (difference / "other").exists()


def test_a_difference_alone_is_asked_for_its_base(difference):
    done = install(difference, "small.tar", "--key", KEY, "--files-only")
    assert done.returncode == 4 and "--base" in done.stderr and written(difference) == set()


def test_a_base_that_lacks_a_file_is_refused(difference):
    cases.pack(difference / "base", cases.files()[:3])
    done = install(difference, "small.tar", "--key", KEY, "--files-only", "--base", "base/small.tar")
    assert done.returncode == 4 and "no earlier bundle given has it" in done.stderr
    assert written(difference) == set()
