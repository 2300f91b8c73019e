"""What this user's installations remember, where nobody else can write: trusted keys, and the folders made here."""

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from repro.packing.installer.folder import MARK, read_plain

_MADE = "installations.json"
_TOKEN_BYTES = 16


def settings_folder() -> Path:
    """The folder of this user's settings; it need not exist."""
    named = os.environ.get("XDG_CONFIG_HOME")
    try:
        home = Path(named) if named else Path.home() / ".config"
    except RuntimeError:  # a user without a name and without HOME
        home = Path("/nonexistent")
    return home / "lstm-ctc-bundle"


@contextlib.contextmanager
def settings_locked() -> Iterator[Path]:
    """The folder, made where it is not there, for one process at a time."""
    folder = settings_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        import fcntl  # noqa: PLC0415 - POSIX alone; a bundle is verified on Windows too
    except ImportError:
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: two at once are the user's to avoid
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)


def write_settings(path: Path, value: Any) -> None:
    """Replace one file of the folder, so that a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="ascii") as stream:
        stream.write(json.dumps(value, indent=2, sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


class Made(NamedTuple):
    """A folder that an installation of this user made.

    It is known again by three things together: where it lies (`temporary` until it is whole, then `target`), its device
    and inode, and the random `token` in the file MARK in it. `state` is 'unfinished', 'files' or 'ready'. It is
    remembered before it is made, with device and inode 0: killed in that moment, it is known by `temporary` alone, a
    name that nobody could guess, as long as it holds no file and no link except the mark.
    """

    token: str
    device: int
    inode: int
    temporary: str
    target: str
    state: str

    def lies_at(self, path: Path) -> bool:
        """Whether what lies at a path is this very folder."""
        try:
            found = os.stat(path, follow_symlinks=False)
            marked = read_plain(path, MARK, 2 * _TOKEN_BYTES + 1) == self.token.encode() + b"\n"
            if self.inode:
                return marked and (self.device, self.inode) == (found.st_dev, found.st_ino)
            its_name = path == Path(self.temporary) and stat.S_ISDIR(found.st_mode)
            return its_name and (marked or not _holds_files(path))
        except OSError:
            return False

    def place(self) -> Path:
        """Where it lies now, or would."""
        target = Path(self.target)
        return target if self.lies_at(target) else Path(self.temporary)


def _holds_files(folder: Path) -> bool:
    """Whether anything but folders lies below a folder; a link is not a folder, whatever it leads to.

    Raises:
        OSError: a folder below it cannot be looked into.
    """

    def refuse(error: OSError) -> None:
        raise error

    for above, folders, files in os.walk(folder, onerror=refuse):
        if files or any(os.path.islink(os.path.join(above, name)) for name in folders):
            return True
    return False


def new_folder(target: Path) -> Made:
    """Make a folder beside a target, under a name that nobody can guess, for what will be renamed to the target."""
    temporary = target.with_name(f".{target.name}.installing.{secrets.token_hex(8)}")
    made = Made(secrets.token_hex(_TOKEN_BYTES), 0, 0, str(temporary), str(target), "unfinished")
    remember(made)
    os.mkdir(temporary, 0o700)
    return _marked(temporary, made)


def mark_as_ready(target: Path) -> None:
    """Remember a folder, every byte of which was verified and made ready in this call."""
    _marked(target, Made(secrets.token_hex(_TOKEN_BYTES), 0, 0, str(target), str(target), "ready"))


def _marked(folder: Path, made: Made) -> Made:
    mark = folder / MARK
    mark.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        mark.unlink()
    descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(made.token + "\n")
    found = os.stat(folder)
    made = made._replace(device=found.st_dev, inode=found.st_ino)
    remember(made)
    return made


def known_folders() -> list[Made]:
    """The folders that this user's installations made; none where that is not known."""
    try:
        items = json.loads((settings_folder() / _MADE).read_bytes())
        return [Made(**item) for item in items if all(isinstance(item[name], kind) for name, kind in _KINDS.items())]
    except (OSError, ValueError, TypeError, KeyError):
        return []


_KINDS = {"token": str, "device": int, "inode": int, "temporary": str, "target": str, "state": str}


def remember(made: Made) -> None:
    """Keep a folder's entry, in place of an earlier one of the same folder."""
    with contextlib.suppress(OSError), settings_locked() as folder:
        others = [item._asdict() for item in known_folders() if item.token != made.token]
        write_settings(folder / _MADE, [*others, made._asdict()])


def forget(made: Made) -> None:
    """Drop the entry of a folder that is gone."""
    with contextlib.suppress(OSError), settings_locked() as folder:
        write_settings(folder / _MADE, [item._asdict() for item in known_folders() if item.token != made.token])
