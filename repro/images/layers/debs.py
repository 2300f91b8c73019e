"""A layer from locked .deb files: unpacked by us, maintainer scripts not run, what they would have made made here."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.foreign import shown
from repro.images.layers.tree import CHUNK_BYTES, STREAM_BYTES, Content, Entry, Tree, clean_path

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_LEFT_OUT = (
    "usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/", "usr/share/bug/",
    "usr/share/doc-base/", "usr/share/menu/", "usr/share/pixmaps/", "usr/share/applications/",
)  # fmt: skip
_COPYRIGHT = re.compile(r"usr/share/doc/[^/]+/copyright")
_NSSWITCH = b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
_AR_HEADER_BYTES = 60

Alternatives = Mapping[str, Mapping[str, str]]
"""Per package, the links that its postinst would make through update-alternatives: {link path: target}."""


def _ar_members(label: str, stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """(name, size) of each member, the stream at the start of its content."""
    if stream.read(8) != b"!<arch>\n":
        raise VerificationFailed(f"{label} is not a Debian package (no ar magic)")
    position = 8
    while header := stream.read(_AR_HEADER_BYTES):
        if len(header) < _AR_HEADER_BYTES or header[58:60] != b"`\n":
            raise VerificationFailed(f"{label} is not a Debian package (broken ar header at byte {position})")
        size = int(header[48:58])
        position += _AR_HEADER_BYTES
        yield header[:16].decode().strip().rstrip("/"), size
        position += size + size % 2
        stream.seek(position)


class _Part:
    """The content of one member, read from the package's file in pieces."""

    def __init__(self, stream: IO[bytes], size: int, member: str) -> None:
        self._stream, self._left, self._member = stream, size, member

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; all that are left if it is negative."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._stream.read(wanted)
        if wanted and not data:
            raise VerificationFailed(f"{self._member} is truncated")
        self._left -= len(data)
        return data


@contextlib.contextmanager
def _members_of(stream: IO[bytes], size: int, member: str) -> Iterator[tarfile.TarFile]:
    """The tar that a member of a package is, decompressed on the way and read once from its start to its end."""
    part = cast(BinaryIO, _Part(stream, size, member))
    if member.endswith(".xz"):
        plain: Any = lzma.LZMAFile(part)  # noqa: SIM115 - the caller's file below it is all that is open
    elif member.endswith(".gz"):
        plain = gzip.GzipFile(fileobj=part)
    elif member.endswith(".tar"):
        plain = part
    else:
        raise CouldNotRun(
            f"{member}: this package's compression is not one of xz, gz or none",
            hint="Debian 11 and 12 use xz; take the package from there.",
        )
    try:
        with tarfile.open(fileobj=plain, mode="r|", bufsize=STREAM_BYTES) as archive:
            yield archive
            while plain.read(CHUNK_BYTES):  # what follows the end of the tar: the decompressor checks its sums there
                pass
    except (tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise VerificationFailed(f"{member} is not a compressed tar: {shown(error, 100)}") from error


def _merged(path: str) -> str:
    """`path` on a merged /usr: /bin/x is /usr/bin/x."""
    top, _, rest = path.partition("/")
    return f"usr/{top}/{rest}" if top in _MERGED and rest else path


def _wanted(path: str) -> bool:
    if path.startswith("usr/share/doc/"):
        return bool(_COPYRIGHT.fullmatch(path))
    return not path.startswith(_LEFT_OUT)


def _add_data(tree: Tree, label: str, archive: tarfile.TarFile) -> None:
    contents: dict[str, Content] = {}
    for member in archive:
        path = _merged(clean_path(member.name))
        if not path or path in _MERGED or not (_wanted(path) or member.isdir()):
            continue
        if member.isdir():
            if _wanted(path + "/"):
                tree.folder(path, member.mode & 0o1777)
        elif member.issym():
            tree.symlink(path, member.linkname)
        elif member.islnk():
            target = _merged(clean_path(member.linkname))
            if target not in contents:
                raise VerificationFailed(f"{label}: {path} is a hard link to {target}, which it does not hold")
            tree.entries[path] = Entry("file", tree.entries[target].mode, contents[target])
        elif member.isreg():
            source = archive.extractfile(member)
            assert source is not None  # a regular member always has content
            contents[path] = tree.add(source)
            tree.entries[path] = Entry("file", member.mode & 0o777, contents[path])
        else:
            raise VerificationFailed(f"{label}: {path} is a device or a pipe; a layer holds none")


def _control(label: str, archive: tarfile.TarFile) -> tuple[str, str]:
    """(control stanza, postinst) of a package."""
    texts = {"control": "", "postinst": ""}
    for member in archive:
        name = clean_path(member.name)
        if name in texts and member.isreg():
            source = archive.extractfile(member)
            assert source is not None  # a regular member always has content
            texts[name] = source.read().decode("utf-8", "replace")
    if not texts["control"].startswith("Package: "):
        raise VerificationFailed(f"{label} has no control stanza")
    return texts["control"].rstrip("\n"), texts["postinst"]


def _unpack(tree: Tree, package: Path, label: str, alternatives: Alternatives) -> str:
    """Add one package to the tree; returns its stanza for dpkg's status file."""
    stanza = ""
    with open(package, "rb") as stream:
        for member, size in _ar_members(label, stream):
            if not member.startswith(("control.tar", "data.tar")):
                continue
            with _members_of(stream, size, member) as archive:
                if member.startswith("control"):
                    stanza, postinst = _control(label, archive)
                    _check_alternatives(stanza.split("\n", 1)[0][len("Package: ") :], postinst, alternatives)
                else:
                    _add_data(tree, label, archive)
    return stanza.replace("\n", "\nStatus: install ok unpacked\n", 1) + "\n"


def _check_alternatives(name: str, postinst: str, alternatives: Alternatives) -> None:
    called = any("update-alternatives" in line.partition("#")[0] for line in postinst.splitlines())
    if called and name not in alternatives:
        raise CouldNotRun(
            f"package {name} would make links through update-alternatives, and image.toml has no entry for it",
            hint=f'add a table [alternatives.{name}] with the links that are needed ("usr/bin/x" = "/usr/bin/y")',
        )


def _make_what_scripts_make(tree: Tree) -> None:
    """The effects of the maintainer scripts that a container needs (base-passwd, base-files, ca-certificates)."""
    for name, source in (("passwd", "passwd.master"), ("group", "group.master")):
        data = tree.read(f"usr/share/base-passwd/{source}")
        if data is not None:
            tree.file(f"etc/{name}", data)
    for name in ("profile", "nsswitch.conf"):
        data = tree.read(f"usr/share/base-files/{name}")
        if data is not None:
            tree.file(f"etc/{name}", data)
    if "etc/passwd" not in tree.entries:
        return
    if "etc/nsswitch.conf" not in tree.entries:
        tree.file("etc/nsswitch.conf", _NSSWITCH)
    tree.file("etc/hostname", b"localhost\n")
    tree.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")
    tree.file("etc/resolv.conf", b"")
    for path, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755),
                       ("run", 0o755)):  # fmt: skip
        tree.entries[path] = Entry("folder", mode)
    certificates = sorted(p for p in tree.entries if re.fullmatch(r"usr/share/ca-certificates/mozilla/.+\.crt", p))
    if certificates:
        tree.file("etc/ssl/certs/ca-certificates.crt", b"".join(tree.read(p) or b"" for p in certificates))


def add_debs(tree: Tree, packages: Iterable[tuple[str, Path]], alternatives: Alternatives, status_file: str) -> None:
    """Unpack verified .deb files into `tree`.

    Args:
        tree: the layer to be.
        packages: (package name, file), in any order: they are taken by name.
        alternatives: links in place of update-alternatives, per package that calls it.
        status_file: where dpkg's stanzas go, such as 'var/lib/dpkg/status'; a layer over another one uses
            'var/lib/dpkg/status.d/NAME', since a layer cannot append to a file below it.

    Raises:
        VerificationFailed: a package is not what a package is.
        CouldNotRun: a package calls update-alternatives and `alternatives` has no entry for it.
    """
    stanzas = []
    for top in ("bin", "sbin", "lib", "lib64"):
        tree.symlink(top, f"usr/{top}")
        tree.folder(f"usr/{top}")
    for label, package in sorted(packages):
        stanzas.append(_unpack(tree, package, label, alternatives))
    _make_what_scripts_make(tree)
    for package_name in sorted(alternatives):
        for link, target in sorted(alternatives[package_name].items()):
            tree.symlink(clean_path(link), target)
    tree.file(status_file, "\n".join(sorted(stanzas)).encode())
