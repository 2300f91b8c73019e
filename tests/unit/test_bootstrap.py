"""./bootstrap on machines that lack things: what it says, how it ends, and what it leaves behind.

Each test has its own small checkout: the real script, a stub for tasks.py, and one wheel made here, so that no
network is asked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = """import os, sys
import locked
print('ran', os.path.dirname(os.path.abspath(__file__)), os.getcwd(), sys.argv[1:])
"""


def make_wheel(folder: Path, version: str = "1.0", code: str = "") -> Path:
    path = folder / f"locked-{version}-py3-none-any.whl"
    about = f"locked-{version}.dist-info"
    members = {
        "locked.py": code,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: locked\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def lock(checkout: Path, wheel: Path, digest: str = "", name: str = "host.txt") -> None:
    digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    (checkout / "requirements" / name).write_text(f"locked==1.0 --hash=sha256:{digest}\n", encoding="utf-8")


def make_checkout(parent: Path) -> Path:
    folder = parent / "a checkout, with spaces"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy2(ROOT / "bootstrap", folder / "bootstrap")
    (folder / "tasks.py").write_text(STUB, encoding="utf-8")
    (parent / "wheels").mkdir()
    lock(folder, make_wheel(parent / "wheels"))
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing was made yet."""
    return make_checkout(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose environment is there; for tests that leave it as it is."""
    folder = make_checkout(tmp_path_factory.mktemp("made"))
    done = start(folder, "doctor")
    assert done.returncode == 0, done.stderr
    assert "making .venv" in done.stderr
    return folder


@pytest.fixture
def ready(checkout: Path, made: Path) -> Path:
    """A checkout with an environment that holds no package yet: a copy, which takes less time than making one."""
    shutil.copytree(made / ".venv", checkout / ".venv", symlinks=True)
    (checkout / ".venv" / ".host.txt.checked").unlink()
    for path in (checkout / ".venv").glob("lib/python*/site-packages/locked*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    mark = checkout / ".venv" / ".made"
    mark.write_text(mark.read_text("utf-8").replace(str(made), str(checkout)), "utf-8")
    return checkout


def start(checkout: Path, *arguments: str, cwd: Path | None = None, **variables: str):
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(checkout.parent),
        "PYTHON": sys.executable,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(checkout.parent / "wheels"),
        **variables,
    }
    return subprocess.run(
        [str(checkout / "bootstrap"), *arguments], cwd=cwd or checkout, env=environ, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def program(folder: Path, name: str, script: str) -> Path:
    """A shell script in PATH's place."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n" + script, encoding="utf-8")
    path.chmod(0o755)
    return path


def tools_only(folder: Path) -> str:
    """A PATH with what the script uses, and no Python."""
    folder.mkdir(exist_ok=True)
    for name in ("sh", "dirname", "cat", "cksum", "tr", "mv", "rm", "grep", "ln", "chmod"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return str(folder)


def test_what_is_made_is_not_made_again_and_the_arguments_are_handed_over(made: Path):
    done = start(made, "reproduce", "--bs", "8")
    assert done.returncode == 0
    assert done.stdout.strip().endswith("['reproduce', '--bs', '8']")
    assert done.stderr == ""


def test_it_runs_from_any_folder_and_keeps_the_callers(made: Path, tmp_path: Path):
    done = start(made, "doctor", cwd=tmp_path)
    assert done.stdout.split("ran ")[1].strip() == f"{made} {tmp_path} ['doctor']"


def test_without_a_task_it_lists_them(made: Path):
    assert "['--list']" in start(made).stdout


def test_a_pythonpath_of_the_caller_does_not_reach_the_tasks(made: Path, tmp_path: Path):
    (tmp_path / "locked.py").write_text("raise RuntimeError('shadowed')\n", encoding="utf-8")
    assert start(made, "doctor", PYTHONPATH=str(tmp_path)).returncode == 0


@pytest.mark.slow  # installs into an environment of its own
def test_the_test_task_installs_the_tests_tools_too(ready: Path, tmp_path: Path):
    lock(ready, tmp_path / "wheels" / "locked-1.0-py3-none-any.whl", name="test.txt")
    assert "requirements/test.txt" not in start(ready, "doctor").stderr
    assert "requirements/test.txt" in start(ready, "test", "--unit").stderr
    assert "requirements/test.txt" not in start(ready, "test").stderr


@pytest.mark.slow  # installs into an environment of its own
def test_changed_requirements_are_installed(ready: Path):
    start(ready, "doctor")
    requirements = ready / "requirements" / "host.txt"
    requirements.write_text("# changed\n" + requirements.read_text(encoding="utf-8"), encoding="utf-8")
    assert "installing requirements/host.txt" in start(ready, "doctor").stderr


@pytest.mark.slow  # installs into an environment of its own
def test_a_wrong_hash_is_a_failed_verification_and_is_never_taken_for_done(ready: Path, tmp_path: Path):
    wheel = tmp_path / "wheels" / "locked-1.0-py3-none-any.whl"
    lock(ready, wheel, "0" * 64)
    for _ in range(2):  # the second start must not believe the first
        done = start(ready, "doctor")
        assert done.returncode == 3
        assert "is not the locked one" in done.stderr
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() in done.stderr
        assert "ran" not in done.stdout
    lock(ready, wheel)
    assert start(ready, "doctor").returncode == 0


@pytest.mark.slow  # installs into an environment of its own
def test_a_package_that_no_index_has_says_what_to_do(ready: Path, tmp_path: Path):
    (tmp_path / "wheels" / "locked-1.0-py3-none-any.whl").unlink()
    done = start(ready, "doctor")
    assert done.returncode == 4
    assert "pip config set" in done.stderr
    assert "No matching distribution" in done.stderr


def test_an_old_python_is_named_with_its_version(checkout: Path, tmp_path: Path):
    old = 'case "$*" in --version) echo "Python 3.6.8";; *) exit 1;; esac\n'
    program(tmp_path / "old", "python3", old)
    done = start(checkout, "doctor", PYTHON="", PATH=f"{tmp_path / 'old'}:{tools_only(tmp_path / 'tools')}")
    assert done.returncode == 4
    assert "found only: python3 (Python 3.6.8)" in done.stderr
    assert "apt install" in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_python_at_all(checkout: Path, tmp_path: Path):
    done = start(checkout, "doctor", PYTHON="", PATH=tools_only(tmp_path / "tools"))
    assert done.returncode == 4
    assert "no Python 3.9 or later was found" in done.stderr


@pytest.mark.slow  # makes an environment of its own
def test_the_first_good_python_is_taken(checkout: Path, tmp_path: Path):
    program(tmp_path / "both", "python3", "exit 1\n")
    program(tmp_path / "both", "python3.12", f'exec "{sys.executable}" "$@"\n')
    done = start(checkout, "doctor", PYTHON="", PATH=f"{tmp_path / 'both'}:{tools_only(tmp_path / 'tools')}")
    assert done.returncode == 0, done.stderr


def test_a_named_python_that_is_not_there_or_too_old_is_not_replaced_by_another(checkout: Path, tmp_path: Path):
    assert "no such program" in start(checkout, "doctor", PYTHON="/no/such/python").stderr
    old = program(tmp_path / "old", "python3", '[ "$1" = --version ] && echo "Python 3.8.18" && exit\nexit 1\n')
    done = start(checkout, "doctor", PYTHON=str(old))
    assert done.returncode == 4
    assert done.stderr.count("Python 3.8.18; Python 3.9 or later is needed") == 1


def test_a_python_without_venv_names_debians_package(checkout: Path, tmp_path: Path):
    script = f'case "$*" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"\n'
    done = start(checkout, "doctor", PYTHON=str(program(tmp_path / "bare", "python3", script)))
    assert done.returncode == 4
    assert "comes without venv" in done.stderr
    assert "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_disk_without_symbolic_links_is_named_before_anything_is_made(checkout: Path, tmp_path: Path):
    program(tmp_path / "vfat", "ln", "echo 'ln: Operation not permitted' >&2; exit 1\n")
    done = start(checkout, "doctor", PATH=f"{tmp_path / 'vfat'}:{os.environ['PATH']}")
    assert done.returncode == 4
    assert f"the disk of {checkout} keeps no symbolic links" in done.stderr and "ext4, xfs, btrfs" in done.stderr
    assert sorted(path.name for path in checkout.iterdir()) == ["bootstrap", "requirements", "tasks.py"]


@pytest.mark.parametrize(
    ("option", "said"),
    [("noexec", "no program can be started from the disk of"), ("ro", "this user cannot write into")],
)
def test_a_disk_that_no_environment_can_be_made_on_is_named_before_anything_is_made(
    checkout: Path, option: str, said: str
):
    disk = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc",
            'mount -t tmpfs none "$1" && cp -r "$0"/. "$1" && mount -o "remount,$2" "$1"; code=0; '
            'sh "$1/bootstrap" doctor || code=$?; ls -A "$1"; exit $code', str(checkout)]  # fmt: skip
    place = checkout.with_name("disk")
    place.mkdir()
    done = subprocess.run([*disk, str(place), option], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount of one's own here: {done.stderr}")
    assert done.returncode == 4
    assert f"{said} {place}" in done.stderr
    assert done.stdout.split() == ["bootstrap", "requirements", "tasks.py"]


@pytest.mark.slow  # makes an environment of its own
def test_a_half_made_environment_is_made_anew(checkout: Path):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    done = start(checkout, "doctor")
    assert done.returncode == 0, done.stderr
    assert "making .venv" in done.stderr


@pytest.mark.slow  # makes an environment of its own
def test_a_moved_checkout_gets_a_new_environment(checkout: Path):
    start(checkout, "doctor")
    moved = checkout.rename(checkout.parent / "elsewhere")
    done = start(moved, "doctor")
    assert done.returncode == 0, done.stderr
    assert "making .venv" in done.stderr


@pytest.mark.slow  # makes an environment of its own
def test_two_at_once_both_succeed(checkout: Path):
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(checkout.parent), "PYTHON": sys.executable, "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(checkout.parent / "wheels"),
    }  # fmt: skip
    command = [str(checkout / "bootstrap"), "doctor"]
    pair = [subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], errors
    assert sum("making .venv" in error for error in errors) == 1


def test_it_needs_no_more_than_a_posix_shell(checkout: Path):
    if shutil.which("dash") is None:
        pytest.skip("no dash on this machine")
    done = subprocess.run(["dash", "-n", str(checkout / "bootstrap")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the user's own settings of pip


def configure(checkout: Path, text: str) -> Path:
    """pip.conf in the home of whoever starts it."""
    path = checkout.parent / ".config" / "pip" / "pip.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow  # makes an environment of its own
def test_an_environment_is_made_whatever_pip_is_told(checkout: Path):
    elsewhere = checkout.parent / "elsewhere"
    configure(checkout, f"[install]\nuser = true\ntarget = {elsewhere}\nroot = {elsewhere}\ndry-run = true\n")
    done = start(checkout, "doctor", PIP_PREFIX=str(elsewhere), PIP_CONSTRAINT=str(elsewhere))
    assert done.returncode == 0, done.stderr
    assert "making .venv" in done.stderr and not elsewhere.exists()


@pytest.mark.slow  # installs into an environment of its own
@pytest.mark.parametrize(
    "setting",
    ["user = true", "target = {}/elsewhere", "prefix = {}/elsewhere", "root = {}/elsewhere", "dry-run = true"],
)
def test_settings_of_pip_that_put_packages_elsewhere_do_not_matter(ready: Path, setting: str):
    configure(ready, f"[install]\n{setting.format(ready.parent)}\n")
    done = start(ready, "doctor")
    assert done.returncode == 0, done.stderr
    assert "ran" in done.stdout and not (ready.parent / "elsewhere").exists()


@pytest.mark.slow  # installs into an environment of its own
@pytest.mark.parametrize(
    "variable", ["PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_CONSTRAINT"]
)
def test_variables_of_pip_that_put_packages_elsewhere_do_not_matter(ready: Path, variable: str):
    value = "1" if variable in ("PIP_USER", "PIP_DRY_RUN") else str(ready.parent / "elsewhere")
    done = start(ready, "doctor", **{variable: value})
    assert done.returncode == 0, done.stderr
    assert not (ready.parent / "elsewhere").exists()


@pytest.mark.slow  # installs into an environment of its own
@pytest.mark.parametrize("section", ["global", "install"])
def test_settings_of_pip_that_say_where_files_come_from_are_kept(ready: Path, section: str):
    wheels = ready.parent / "wheels"
    configure(ready, f"[{section}]\nno-index = true\nfind-links =\n    {ready.parent}\n    {wheels}\n")
    done = start(ready, "doctor", PIP_NO_INDEX="", PIP_FIND_LINKS="")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # installs into an environment of its own
def test_an_index_of_the_users_file_reaches_pip(ready: Path):
    page = ready.parent / "simple" / "locked" / "index.html"
    page.parent.mkdir(parents=True)
    wheel = ready.parent / "wheels" / "locked-1.0-py3-none-any.whl"
    page.write_text(f'<a href="{wheel.as_uri()}">{wheel.name}</a>', encoding="utf-8")
    configure(ready, f"[global]\nindex-url = {(ready.parent / 'simple').as_uri()}\n")
    done = start(ready, "doctor", PIP_NO_INDEX="", PIP_FIND_LINKS="")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # installs into an environment of its own
def test_a_file_of_pip_that_cannot_be_read_is_named(ready: Path):
    configure(ready, "no section\n")
    done = start(ready, "doctor")
    assert done.returncode == 4 and "pip.conf" in done.stderr


@pytest.mark.slow  # installs into an environment of its own
@pytest.mark.parametrize("fault", ["does not import", "is not there"])
def test_an_environment_without_its_packages_is_never_marked_as_made(ready: Path, fault: str):
    wheel = ready.parent / "wheels" / "locked-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if fault == "does not import":
        members["locked.py"] = b"import no_such_module\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    lock(ready, wheel)
    if fault == "is not there":
        with (ready / "requirements" / "host.txt").open("a") as stream:
            stream.write("missing==1.0 ; python_version < '3'\n")
        marker = (ready / "requirements" / "host.txt").read_text().replace("< '3'", ">= '3'")
        (ready / "requirements" / "host.txt").write_text(marker)
    for _ in range(2):
        done = start(ready, "doctor")
        assert done.returncode == 4 and "ran" not in done.stdout, done.stderr
    if fault == "does not import":
        assert "no_such_module" in done.stderr and "cannot be used" in done.stderr


@pytest.mark.slow  # makes an environment of its own
def test_modules_in_the_callers_folder_are_not_run(checkout: Path, tmp_path: Path):
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("ensurepip", "venv", "fcntl", "pip", "ast", "subprocess", "importlib"):
        (folder / f"{name}.py").write_text("print('EVIL')\nraise SystemExit(9)\n")
    done = start(checkout, "doctor", cwd=folder)
    assert done.returncode == 0 and "EVIL" not in done.stdout + done.stderr, done.stderr


@pytest.mark.slow  # installs into an environment of its own
def test_older_packages_that_a_distributions_pip_brings_along_are_not_taken_for_ours(ready: Path, tmp_path: Path):
    assert start(ready, "doctor").returncode == 0
    older = make_wheel(tmp_path, "0.1", "raise SystemExit('the older one')")
    (vendored,) = (ready / ".venv").glob("lib/python*/site-packages/pip/_vendor/__init__.py")
    with open(vendored, "a") as stream:  # as Debian 11's does
        stream.write(f"\nimport sys\nsys.path.insert(0, {str(older)!r})\n")
    (ready / ".venv" / ".host.txt.checked").unlink()
    done = start(ready, "doctor")
    assert done.returncode == 0 and "ran" in done.stdout, done.stderr
