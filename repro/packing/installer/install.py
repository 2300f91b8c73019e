"""The command line of install.py: verify, then write into a folder that appears whole, then make it ready."""

import argparse
import contextlib
import errno
import hashlib
import io
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

from repro.packing.installer.archive import Archive, Meter, processors
from repro.packing.installer.base import Bases, require_base
from repro.packing.installer.folder import KEPT, compare_folder, installed_path, read_kept
from repro.packing.installer.listing import LIST_NAME, Entry, Listing, Refused
from repro.packing.installer.rebuilders import insist_on_rebuilders, trusted_rebuilders
from repro.packing.installer.settings import Made, forget, known_folders, mark_as_ready, new_folder, remember
from repro.packing.installer.trust import Asked, Report, check, is_fingerprint

_SHOWN_FAILURES = 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_DEFECT = 70
_ON_LINUX = "install it on Linux; here: --verify-only"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="install.py", description="Verify a bundle and install it. No network, no root; nothing is written "
        "before everything is verified.",
        epilog="exit codes: 0 done, 2 wrong use, 3 verification failed, 4 could not verify or install, 70 a defect",
    )  # fmt: skip
    parser.add_argument("bundle", type=Path, help="the bundle's file, or the first of its parts (NAME.tar.001)")
    parser.add_argument("--key", action="append", default=[], metavar="FINGERPRINT",
                        help="accept this signer's key alone (64 hex digits, learnt from its owner)")  # fmt: skip
    parser.add_argument("--first-use", action="store_true",
                        help="trust the signer from now on, where no key is trusted here yet")  # fmt: skip
    parser.add_argument("--allow-unsigned", action="store_true",
                        help="install a bundle that nobody signed; it is not verified")  # fmt: skip
    parser.add_argument("--attestations", type=Path, metavar="FOLDER",
                        help="statements about this bundle; left out: those in NAME.tar.attestations")  # fmt: skip
    parser.add_argument("--rebuilders", type=Path, metavar="KEYS",
                        help="a file of public keys (PEM) of people who built the images again")  # fmt: skip
    parser.add_argument("--threshold", type=int, default=1, metavar="K",
                        help="how many of them must confirm each image (1)")  # fmt: skip
    parser.add_argument("--verify-only", action="store_true", help="verify, and install nothing")
    parser.add_argument("--to", type=Path, help="the folder to install into; it must not exist yet")
    parser.add_argument("--base", type=Path, action="append", default=[],
                        help="for a difference: the earlier bundle, or the folder it was installed into")  # fmt: skip
    parser.add_argument("--files-only", action="store_true",
                        help="write the files; make no Python environment and load no image")  # fmt: skip
    return parser


def describe(report: Report) -> str:
    """A verification in words, first what it amounts to."""
    listing = report.listing
    count = sum(entry.offset >= 0 for entry in listing.entries)
    signer = {
        "pinned": "signed by the trusted key %s",
        "first use": "signed by the key %s, trusted here since its first use",
        "unknown": "NOT VERIFIED: signed by the key %s, which is not trusted on this machine",
        "unsigned": "NOT VERIFIED: not signed%s",
    }[report.trust] % report.relied_on
    lines = [signer]
    if report.failures:
        lines.append(f"NOT VERIFIED: {len(report.failures)} things are wrong")
    else:
        lines.append(f"every byte is as listed: {count} files, {listing.total_bytes / 1e6:.1f} MB")
    lines += [f"the list is also signed by {key}" for key in report.also]
    lines.append("list: sha256 {}, commit {}".format(listing.sha256, listing.about["commit"]))
    count = len(report.checked.statements)
    if count and not report.failures:
        lines.append(f"statements: {count}, each signed, none contradicts the bundle")
    lines += [item.sentence() for item in report.rebuilt]
    return "\n".join(lines)


def _insist(report: Report, threshold: Optional[int], *, allow_unsigned: bool) -> None:
    if report.failures:
        raise Refused(3, "the bundle is not as it was signed", "nothing was installed; get it again", report.failures)
    if report.trust == "unsigned" and not allow_unsigned:
        raise Refused(4, "nobody signed this bundle, so it cannot be verified",
                      "ask for a signed one; --allow-unsigned installs it as it is")  # fmt: skip
    if report.trust == "unknown":
        raise Refused(
            4, f"the key {report.listing.fingerprint} is not trusted here, so the bundle cannot be verified",
            "learn the fingerprint from the maker, by another way than this file, and give it: --key FINGERPRINT\n"
            "or trust this key from now on, unseen: --first-use",
        )  # fmt: skip
    if threshold is not None:
        insist_on_rebuilders(report.rebuilt, threshold)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One installation at a time beside each other."""
    try:
        import fcntl  # noqa: PLC0415 - POSIX alone; a bundle is verified on Windows too
    except ImportError:
        raise Refused(4, "this system can verify a bundle, and not install it", _ON_LINUX) from None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Refused(4, f"another installation into {folder} is under way", "wait for its end") from None
    except OSError as error:
        os.close(descriptor)
        raise Refused(4, f"{folder} cannot be locked: {error.strerror}",
                      "choose a folder on a local disk: --to FOLDER") from None  # fmt: skip
    try:
        yield
    finally:
        os.close(descriptor)


def _clear_unfinished(parent: Path) -> None:
    """Remove what a killed installation of this user left in a folder: that alone which it is known to have made."""
    for made in known_folders():
        place = made.place()
        if made.state != "unfinished" or place.parent != parent:
            continue
        if made.lies_at(place):
            shutil.rmtree(place)
        forget(made)


def _accept(target: Path, listing: Listing) -> Optional[Made]:
    """Hold a folder that is there already to the list, every byte; returns what is known of its making.

    Raises:
        Refused: it is not this bundle, it was changed, or it holds what neither the list names nor this user made.
    """
    found = None if target.is_symlink() or not target.is_dir() else read_kept(target)
    if found is None or found.sha256 != listing.sha256:
        raise Refused(2, f"{target} is there already, and is not this bundle", "choose another folder: --to FOLDER")
    compared = compare_folder(target, listing)
    if compared.wrong:
        raise Refused(3, f"{target} was installed from this bundle, and was changed since",
                      "install into another folder: --to FOLDER; nothing was changed here", compared.wrong)  # fmt: skip
    made = next((made for made in known_folders() if made.lies_at(target)), None)
    foreign = [*compared.extra, *compared.not_covered]
    if foreign and made is None:
        raise Refused(
            2, f"{target} is there already, holds more than this bundle, and is not known to have been installed here",
            "nothing of it was run or removed; install into another folder: --to FOLDER", foreign,
        )  # fmt: skip
    print(f"already installed in {target}: every listed file was verified again")
    for place in foreign:
        print(f"not covered by the list: {place}")
    return made


def _check_room(folder: Path, needed_bytes: int) -> None:
    found = os.statvfs(folder)
    free_bytes = found.f_bavail * found.f_frsize
    if free_bytes < needed_bytes:
        raise Refused(4, f"{folder} has {free_bytes / 1e9:.1f} GB free; {needed_bytes / 1e9:.1f} GB are needed",
                      "free some space, or choose another disk: --to FOLDER")  # fmt: skip


def _check_disk(folder: Path, *, for_running: bool) -> None:
    """Find out in a new folder of ours, before anything large is written, whether the disk can hold an installation."""
    probe = folder / "probe"
    hint = "install onto a disk of Linux's own kind (ext4, xfs, btrfs): --to FOLDER"
    try:
        with open(probe, "xb") as stream:
            for mode in (0o755, 0o644):
                os.fchmod(stream.fileno(), mode)
                if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) != mode:
                    raise Refused(4, f"the disk of {folder.parent} keeps no modes of files", hint)
        (folder / "link").symlink_to("probe")
        (folder / "link").unlink()
        probe.unlink()
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        raise Refused(4, f"the disk of {folder.parent} keeps no modes or no links: {error.strerror}", hint) from None
    if for_running and os.statvfs(folder).f_flag & os.ST_NOEXEC:
        raise Refused(4, f"the disk of {folder.parent} is mounted noexec: no program on it can be started", hint)


def _write(entry: Entry, chunks: Iterator[memoryview], path: Path, meter: Meter) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor, digest = os.open(path, flags, 0o600), hashlib.sha256()
    with os.fdopen(descriptor, "wb") as stream:
        for chunk in chunks:
            digest.update(chunk)
            stream.write(chunk)
            meter.advance(len(chunk))
        os.fchmod(stream.fileno(), 0o755 if entry.executable else 0o644)
    if digest.hexdigest() != entry.sha256:
        raise Refused(3, f"{entry.path} changed while it was being installed", "nothing was installed")


def _extract(archive: Archive, bases: Bases, folder: Path) -> None:
    """Write every file, hashed once more on the way: what is written is what was verified."""
    meter = Meter("writing", sum(entry.size_bytes for entry in archive.listing.entries))

    def write(entry: Entry) -> None:
        here = entry.offset >= 0
        chunks = archive.chunks(entry.content, entry.size_bytes) if here else bases.chunks(entry)
        if chunks is None:
            raise Refused(4, f"{entry.path} is no longer in the earlier bundle")
        _write(entry, chunks, folder / installed_path(entry), meter)

    with ThreadPoolExecutor(processors()) as pool:
        for _ in pool.map(write, sorted(archive.listing.entries, key=lambda entry: -entry.size_bytes)):
            pass
    kept = folder / KEPT / LIST_NAME
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(archive.envelope)
    os.sync()


def _make_ready(target: Path, kept: str) -> None:
    """The Python environment from the carried wheels, and the images where the engines of this machine want them.

    Args:
        target: the installed folder.
        kept: what stays of it where a step fails, for people.
    """
    misleading = ("PIP_", "PYTHON", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(misleading)}
    environment.update(
        PYTHON=sys.executable,
        PYTHONUTF8="1",
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=(target / "artifacts" / "wheels").absolute().as_uri(),
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_CACHE_DIR="1",
    )
    for command in (["./bootstrap", "--list"], [".venv/bin/python", "-m", "repro.packing.adopt"]):
        done = subprocess.run(
            command,
            cwd=target,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if command[0] == "./bootstrap" else None,
            check=False,
        )
        if done.returncode:
            code = 3 if done.returncode == 3 else 4  # 3: wrong bytes were found, by ./bootstrap or by the images' IDs
            raise Refused(code, f"{command[0]} ended with code {done.returncode} (its messages are above)",
                          f"{kept}; mend it and run the same command again")  # fmt: skip


def write_files(archive: Archive, target: Path, earlier: Sequence[Path] = ()) -> None:
    """Write an archive's files into a new folder, each held to the list; none of them is started.

    Args:
        archive: verified or not.
        target: does not exist yet.
        earlier: bundles or installed folders that hold what a difference leaves out.

    Raises:
        Refused: code 3, a file is not as listed, or an earlier bundle's copy was changed; code 4, no bundle has it.
    """
    bases = Bases(earlier)
    try:
        bases.check(archive.listing.entries)
        target.mkdir(parents=True)
        _extract(archive, bases, target)
    finally:
        bases.close()


def _install(arguments: argparse.Namespace, archive: Archive, bases: Bases) -> Path:
    """Write a verified bundle's files, or accept the folder that holds them already, and make it ready."""
    listing = archive.listing
    target = (arguments.to or Path(listing.about["name"])).absolute()
    parent = target.parent
    parent.mkdir(parents=True, exist_ok=True)
    with _alone(parent):
        _clear_unfinished(parent)
        if os.path.lexists(target):
            made = _accept(target, listing)
            if not arguments.files_only and (made is None or made.state != "ready"):
                _make_ready(target, f"the files in {target} stay as they were verified")
                if made is None:
                    mark_as_ready(target)
                else:
                    remember(made._replace(state="ready"))
            return target
        room = 0 if arguments.files_only else listing.about["unpacked_bytes"]
        _check_room(parent, room + sum(entry.size_bytes for entry in listing.entries))
        made = new_folder(target)
        temporary = Path(made.temporary)
        try:
            _check_disk(temporary, for_running=not arguments.files_only)
            _extract(archive, bases, temporary)
            temporary.chmod(0o777 & ~_umask())
            os.rename(temporary, target)
            if not arguments.files_only:
                _make_ready(target, "nothing is left installed")
            os.sync()
        except BaseException:
            if made.lies_at(made.place()):
                shutil.rmtree(made.place(), ignore_errors=True)
            forget(made)
            raise
        remember(made._replace(state="files" if arguments.files_only else "ready"))
    return target


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def run(words: Sequence[str]) -> int:
    """What the command line asks for; returns the exit code."""
    arguments = _parser().parse_args(words)
    keys = [key.lower() for key in arguments.key]
    if not all(is_fingerprint(key) for key in keys):
        raise Refused(2, "--key wants a fingerprint: 64 hex digits", "its owner tells it: `invoke bundle.keys.show`")
    archive = Archive(arguments.bundle)  # stays open: what is installed is what was verified, whatever has its name
    try:
        rebuilders = trusted_rebuilders(arguments.rebuilders, arguments.threshold)
        report = check(archive, Asked(keys, arguments.first_use, arguments.attestations, rebuilders))
        print(describe(report))
        _insist(report, arguments.threshold if rebuilders else None, allow_unsigned=arguments.allow_unsigned)
        if arguments.verify_only and not report.verified:
            return 4
        needs_base = report.listing.about["base"] and (arguments.base or not arguments.verify_only)
        if needs_base:
            require_base(report.listing.about, arguments.base)
        bases = Bases(arguments.base if needs_base else [])
        try:
            bases.check(report.listing.entries if needs_base else [])
            if arguments.verify_only:
                return 0
            target = _install(arguments, archive, bases)
        finally:
            bases.close()
    finally:
        archive.close()
    print(f"installed: cd {shlex.quote(str(target))} && ./bootstrap reproduce --bs 8")
    return 0


def _tell(text: str, lead: str = "") -> None:
    """One line to stderr; what would command the terminal, as the name of a stranger's file may, is escaped."""
    plain = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    print(lead + plain, file=sys.stderr)


def _stop(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run, and turn what went wrong into words and an exit code."""
    signal.signal(signal.SIGTERM, _stop)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in a pipe, too, it comes before what the programs started print
    try:
        code = run(sys.argv[1:])
    except Refused as error:
        _tell(error.message, "error: ")
        for line in error.failures[:_SHOWN_FAILURES]:
            _tell(line, "  ")
        if len(error.failures) > _SHOWN_FAILURES:
            _tell(f"and {len(error.failures) - _SHOWN_FAILURES} more", "  ")
        for line in error.hint.split("\n") if error.hint else ():
            _tell(line, "-> ")
        code = error.code
    except OSError as error:
        _tell("no space is left" if error.errno in _NO_SPACE else str(error), "error: ")
        _tell("nothing is left half-installed; mend this and run the same command again", "-> ")
        code = 4
    except Exception as error:  # noqa: BLE001 - every other end of the program is in this function
        for line in traceback.format_exc().rstrip("\n").split("\n"):
            _tell(line)
        _tell(f"a defect of install.py ({type(error).__name__}): nothing is left half-installed", "error: ")
        _tell("please report it with the lines above", "-> ")
        code = _DEFECT
    except KeyboardInterrupt:
        _tell("interrupted; nothing is left half-installed: the same command begins again")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
