"""This program for a node that does not see the checkout: one archive, sent before anything else, and what unpacks it.

It holds repro/ and the installed packages that it needs there, with what those need. The node keeps it under its digest
in its own folder.
"""

from __future__ import annotations

import functools
import importlib.metadata
import io
import re
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from repro.base.errors import CouldNotRun
from repro.base.files import sha256_bytes

_PACKAGES = ("msgspec", "docker", "installer")
_LEFT_OUT = ("__pycache__", ".pyc")
_BOOT = """
import hashlib, io, os, sys, tarfile
size, digest, version, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] + "." + str(os.getuid())
if "%d.%d" % sys.version_info[:2] != version:
    sys.exit("this node's Python is %d.%d, not " % sys.version_info[:2] + version + ": set `python` in [slurm]")
data = b""
while len(data) < size:
    chunk = os.read(0, size - len(data))
    if not chunk:
        sys.exit("the program did not arrive")
    data += chunk
if hashlib.sha256(data).hexdigest() != digest:
    sys.exit("the program arrived with another digest")
os.makedirs(folder, mode=0o700, exist_ok=True)
found = os.lstat(folder)
if os.path.islink(folder) or found.st_uid != os.getuid() or found.st_mode & 0o022:
    sys.exit(folder + " is not this user's own folder: set `local` in [slurm]")
kit = os.path.join(folder, "kits", digest)
if not os.path.isdir(kit):
    new = kit + "." + str(os.getpid())
    os.makedirs(new)
    tarfile.open(fileobj=io.BytesIO(data)).extractall(new)
    try:
        os.rename(new, kit)
    except OSError:
        pass
for name in ("PYTHONHOME", "TMPDIR", "BUNDLE_RESULTS"):
    os.environ.pop(name, None)
os.environ.update(PYTHONPATH=kit, LANG="C.UTF-8", PYTHONDONTWRITEBYTECODE="1")
os.chdir(kit)
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[5:]])
"""


@functools.lru_cache(maxsize=1)
def kit() -> bytes:
    """The archive: the same bytes for the same files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(_files()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = path.stat().st_size, 0o644
            with open(path, "rb") as opened:
                archive.addfile(member, opened)
    return packed.getvalue()


def _files() -> Iterator[tuple[str, Path]]:
    own = Path(__file__).resolve().parents[1]
    for path in own.rglob("*"):
        name = path.relative_to(own.parent).as_posix()
        if path.is_file() and not any(word in name for word in _LEFT_OUT):
            yield name, path
    for package in _with_needed(_PACKAGES):
        for file in importlib.metadata.files(package) or ():
            if not file.as_posix().startswith("..") and not any(word in file.as_posix() for word in _LEFT_OUT):
                yield file.as_posix(), Path(str(file.locate()))


def _with_needed(packages: Sequence[str]) -> list[str]:
    """Installed packages with all that they need themselves, extras aside."""
    found: dict[str, None] = {}
    pending = list(packages)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system
        found[name] = None
        pending += [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in needed if "extra" not in line]
    if packages[0] not in found:
        raise CouldNotRun(f"{packages[0]} is not installed here", hint="run ./bootstrap")
    return sorted(found)


def command(python: str, local: str, words: Sequence[str]) -> list[str]:
    """What a node runs: `words` after `python -m`, from the archive, which it reads from its standard input first.

    Args:
        python: the interpreter on the nodes; of the version that this one has.
        local: see `repro.cluster.settings`.
        words: a module and its arguments.
    """
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return [python, "-c", _BOOT, str(len(kit())), sha256_bytes(kit()), version, local, *words]
