"""A local HTTP server that speaks the layouts we fetch from, and fails in the ways that servers do."""

from __future__ import annotations

import hashlib
import lzma
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pysequoia

from repro.locks.model import Deb, DebLock, Index, LockedFile, Wheel, WheelLock


@dataclass
class Server:
    """Serves `files` (path -> bytes) on 127.0.0.1; as a context manager. Byte ranges are understood.

    Attributes:
        status: path -> HTTP status to answer instead.
        cuts: path -> (bytes after which the connection is closed, how many times still).
        log: (path, Range header or '') of each request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    cuts: dict[str, tuple[int, int]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    ranges: bool = True
    url: str = ""

    def __enter__(self) -> Server:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, *_args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_args: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def paths(self) -> list[str]:
        """The paths asked for, in order."""
        return [path for path, _ in self.log]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, asked = handler.path, handler.headers.get("Range", "")
        self.log.append((path, asked))
        status = self.status.get(path, 200 if path in self.files else 404)
        if status != 200:
            handler.send_response(status)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        data, start = self.files[path], 0
        if asked and self.ranges:
            start = int(asked[len("bytes=") :].rstrip("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Type", self.types.get(path, "application/octet-stream"))
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        after, times = self.cuts.get(path, (0, 0))
        if times:
            self.cuts[path] = (after, times - 1)
            handler.wfile.write(data[start : start + after])
            handler.close_connection = True
            return
        handler.wfile.write(data[start:])


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def index_page(files: dict[str, bytes], *, wrong_hash: bool = False) -> bytes:
    """A PEP 503 page that links to files beside it."""
    lines = [
        f'<a href="../../files/{name}#sha256={"0" * 64 if wrong_hash else sha256(data)}">{name}</a><br/>'
        for name, data in sorted(files.items())
    ]
    return ("<!DOCTYPE html><html><body>\n" + "\n".join(lines) + "\n</body></html>").encode()


def wheel_lock(files: dict[str, bytes]) -> WheelLock:
    """A lock of pure wheels with any content."""
    wheels = [
        Wheel(name.split("-")[0], name.split("-")[1], name, sha256(data), len(data), ("py3-none-any",))
        for name, data in sorted(files.items())
    ]
    return WheelLock("made", "amd64", "3.11", "2.36", "", tuple(wheels))


def deb_file(lock: DebLock, package: str) -> LockedFile:
    """The file of one package of a lock."""
    return next(file for file in lock.files if file.project == package)


class Archive:
    """A Debian archive of two suites with a key of its own, made anew for each test.

    Attributes:
        packages: package -> its bytes; the first is in made, the others in made-security.
        lock: of all of them.
        keyring: the public key.
    """

    snapshot = "20200102T030405Z"

    def __init__(self, packages: dict[str, bytes]) -> None:
        self._key = pysequoia.Tsk.generate("Archive <archive@example.invalid>")
        self.keyring = bytes(self._key.extract_certificate())
        self.fingerprint = self._key.extract_certificate().fingerprint.lower()
        self.packages = packages
        self.contents: dict[str, bytes] = {}
        self.releases: dict[str, bytes] = {}
        names = sorted(packages)
        halves = (("debian", "made", names[:1]), ("debian-security", "made-security", names[1:]))
        parts = [self._suite(*half) for half in halves]
        self._suite("debian", "made-updates", [])
        debs = sorted((deb for part in parts for deb in part[1]), key=lambda deb: deb.package)
        self.lock = DebLock("set", "amd64", "made", "", self.snapshot, tuple(part[0] for part in parts), tuple(debs))

    def sign(self, text: str) -> bytes:
        """The text as this archive would sign it."""
        return bytes(pysequoia.sign(self._key.signer(), text.encode(), mode=pysequoia.SignatureMode.CLEAR))

    def served(self, root: str, dated: bool) -> dict[str, bytes]:
        """All files under a server's `root`, in a snapshot archive's layout or a mirror's."""
        middle = f"/{self.snapshot}" if dated else ""
        return {
            f"{root}/{path.partition('/')[0]}{middle}/{path.partition('/')[2]}": data
            for path, data in self.contents.items()
        }

    def _suite(self, archive: str, suite: str, names: list[str]) -> tuple[Index, list[Deb]]:
        debs = []
        stanzas = [f"Package: other\nVersion: 1\nArchitecture: amd64\nFilename: o.deb\nSize: 1\nSHA256: {'1' * 64}"]
        for name in names:
            data = self.packages[name]
            path = f"pool/main/{name[0]}/{name}/{name}_1.0+b1_amd64.deb"
            kept = (
                f"Package: {name}", "Version: 1:1.0+b1", "Architecture: amd64", f"Filename: {path}",
                f"Size: {len(data)}", f"SHA256: {sha256(data)}",
            )  # fmt: skip
            stanzas.append("\n".join([*kept[:3], "Description: made", " of nothing", *kept[3:]]))
            self.contents[f"{archive}/{path}"] = data
            debs.append(Deb(name, "1:1.0+b1", "amd64", suite, path, sha256(data), len(data), kept))
        plain = ("\n\n".join(stanzas) + "\n").encode()
        packed = lzma.compress(plain)
        path = "main/binary-amd64/Packages.xz"
        listing = f"SHA256:\n {sha256(packed)} {len(packed):>8} {path}\n {sha256(plain)} {len(plain):>8} {path[:-3]}\n"
        head = f"Codename: {suite}\nArchitectures: amd64\nComponents: main\nDate: Thu, 02 Jan 2020 03:04:05 UTC\n"
        self.releases[suite] = self.sign(head + listing)
        self.contents[f"{archive}/dists/{suite}/{path}"] = packed
        self.contents[f"{archive}/dists/{suite}/{path[:-3]}"] = plain
        self.contents[f"{archive}/dists/{suite}/InRelease"] = self.releases[suite]
        index = Index(
            archive=archive,
            suite=suite,
            inrelease=f"inrelease/{suite}.InRelease",
            inrelease_sha256=sha256(self.releases[suite]),
            signed_by=(self.fingerprint,),
            path=path,
            sha256=sha256(packed),
            size_bytes=len(packed),
        )
        return index, debs
