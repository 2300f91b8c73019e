"""`invoke support.bundle`: what somebody else needs to help, in one archive, without what names a person or a place.

Versions, doctor's report, what npu-smi and the driver's files say, the logs and the record of the last run. Every text
is redacted by `repro.cli.redaction`; the first file of the archive says what is in it and what was taken out.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import itertools
import os
import pwd
import re
import subprocess
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from repro.base import programs, zips
from repro.base.confined import TreeLimits, list_tree, open_below, read_below
from repro.base.errors import BundleError
from repro.base.files import pretty_json, write_atomic
from repro.base.paths import Paths, given_path
from repro.cli.redaction import Known, Redactor, triples_of
from repro.machine import facts, npu
from repro.record import Record, load_record
from repro.run import inputs

DEFAULT = "support-bundle.zip"
CONTENTS = "CONTENTS.txt"
_MOST_LOG_BYTES = 1 << 18  # of a log's end
_MOST_LOGS = 200
_MOST_SENTENCE_BYTES = 4096
_LARGEST_BYTES = 1 << 40
_CORPUS = TreeLimits(entries=200_000, depth=16)
_VERSION_FILES = (
    "usr/local/Ascend/driver/version.info",
    "usr/local/Ascend/firmware/version.info",
    "etc/ascend_install.info",
)
_SMI = ((), ("-m",), ("-l",), *(("-t", kind) for kind in ("board", "product", "common", "health")))
_FIRST_UID = 1000
_SPOKEN = re.compile(r"\s*\d+\s+\d+\s+(\S[^\n]*)")  # of a .TXT, after its two numbers of samples
_EVERYBODYS_HOSTS = {"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "broadcasthost"}


@dataclass(frozen=True)
class Surroundings:
    """What is looked at outside the checkout.

    Attributes:
        host: of the NPU, and whose files are read.
        users, home, node: of this machine.
        doctor: makes doctor's report.
    """

    doctor: Callable[[], str]
    host: npu.Host = field(default_factory=npu.Host)
    users: Callable[[], Iterable[str]] = field(default=lambda: _users())
    home: Path = field(default_factory=Path.home)
    node: str = field(default_factory=lambda: os.uname().nodename)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


def make_bundle(paths: Paths, to: str, data: str, around: Surroundings) -> str:
    """Write the archive; what it holds and what was taken out, in words.

    Args:
        paths: of the checkout.
        to: the file to write; '' for one in artifacts/.
        data: the corpus whose sentences are to be removed; '' for the one in data/.
        around: this machine.

    Raises:
        UsageError: `to` or `data` is no path.
    """
    target = given_path("--to", to) if to else paths.results / DEFAULT
    sentences, note = _sentences(paths, data)
    commit, record = _commit(paths), _last_record(paths)
    redactor = Redactor(_known(paths, around, sentences, commit))
    raw = {**_texts(around, commit), **dict(itertools.islice(_logs(paths, record), _MOST_LOGS))}
    texts = {name: redactor.text(text) for name, text in sorted(raw.items())}
    if record is not None:
        texts["run/record.json"] = pretty_json(redactor.document(msgspec.to_builtins(record))).decode()
    contents = _contents(texts, redactor.counts, note)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, archive({CONTENTS: contents, **texts}))
    return f"{contents}\n{paths.told(target)}: look at it before you send it"


def archive(texts: Mapping[str, str]) -> bytes:
    """A zip of these files, uncompressed and without a time: the same bytes for the same texts."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(texts, key=lambda name: (name != CONTENTS, name)):
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            target.writestr(entry, texts[name].encode("utf-8", "replace"))
    return made.getvalue()


def _contents(texts: Mapping[str, str], counts: Counter[str], note: str) -> str:
    lines = ["This archive holds:", *(f"  {name}  {len(text.encode())} bytes" for name, text in sorted(texts.items()))]
    lines += ["Taken out, and replaced by their kind in <>:"]
    lines += [f"  {kind}: {count}" for kind, count in sorted(counts.items())] or ["  nothing was found"]
    return "\n".join([*lines, note])


def _texts(around: Surroundings, commit: str) -> dict[str, str]:
    """Doctor's report, versions and the NPU's, before they are redacted. What cannot be taken says why."""
    looks: dict[str, Callable[[], str]] = {
        "doctor.txt": around.doctor,
        "versions.txt": lambda: _versions(commit),
        **_npu_looks(around.host),
    }
    return {name: _looked(look) for name, look in looks.items()}


def _looked(look: Callable[[], str]) -> str:
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - it is asked for when something is broken
        return f"could not be taken: {error}\n"


def _commit(paths: Paths) -> str:
    """The commit of the checkout, '' where it is none of git's."""
    git = programs.find("git")
    if git is None:
        return ""
    argv = [str(git), "-C", str(paths.root), "rev-parse", "--verify", "HEAD"]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def _versions(commit: str) -> str:
    lines = [f"{name}: {value}" for name, value in facts.facts().items()]
    lines.append(f"commit: {commit or 'none: not a checkout of git'}")
    packages = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return "\n".join([*lines, *(f"{name} {version}" for name, version in sorted(packages.items()) if name)]) + "\n"


def _npu_looks(host: npu.Host) -> dict[str, Callable[[], str]]:
    tool = npu.find_tool(host)
    looks: dict[str, Callable[[], str]] = {
        f"npu/{name.replace('/', '.')}": lambda name=name: host.path(name).read_text("utf-8", "replace")  # type: ignore[misc]
        for name in _VERSION_FILES
        if host.path(name).is_file()
    }
    if not tool:
        return looks
    cards = sorted({str(chip.card) for chip in npu.parse_smi(host.run([tool, "info"])[1]).chips})
    for words in _SMI:
        for card in cards if "-t" in words else [""]:
            argv = [tool, "info", *words, *(["-i", card] if card else [])]
            name = "-".join(["npu-smi", "info", *(word.strip("-") for word in argv[2:])])
            looks[f"npu/{name}.txt"] = lambda argv=argv: "exit code {}\n{}".format(*host.run(argv))  # type: ignore[misc]
    return looks


def _last_record(paths: Paths) -> Record | None:
    try:
        return load_record(paths.runs / "latest" / "record.json")
    except (BundleError, OSError):
        return None


def _logs(paths: Paths, record: Record | None) -> Iterator[tuple[str, str]]:
    """The ends of the logs of steps that failed, and of all steps of the last run."""
    yield from _logs_below(paths.logs, "logs")
    for stage in record.stages if record is not None else ():
        obs = paths.store / stage.fingerprint[:2] / stage.fingerprint / "obs"
        yield from _logs_below(obs, f"run/{stage.key}")


def _logs_below(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    try:
        found = list_tree(folder).files
    except FileNotFoundError:
        return
    except (BundleError, OSError) as error:
        yield f"{name}/NOT-TAKEN.txt", f"could not be listed: {error}\n"
        return
    for path in sorted(found):
        if path.endswith(".log") and found[path].size_bytes:
            yield f"{name}/{path}", _looked(lambda path=path: _end_of(folder, path))  # type: ignore[misc]


def _end_of(folder: Path, path: str) -> str:
    with open_below(folder, path, _LARGEST_BYTES) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _MOST_LOG_BYTES))
        text = stream.read(_MOST_LOG_BYTES).decode("utf-8", "replace")
    return text if size <= _MOST_LOG_BYTES else text.partition("\n")[2]  # a cut line might hide what it is


def _known(paths: Paths, around: Surroundings, sentences: Iterable[str], commit: str) -> Known:
    root = around.host.root
    hosts = {around.node, around.node.partition(".")[0], *_hosts_of(root), *_proxies(paths, around.environ)}
    users = {*around.users(), around.home.name, *(around.environ.get(name, "") for name in ("USER", "LOGNAME"))}
    folders = {str(paths.root): "<checkout>", str(paths.results): "<results>", str(around.home): "<home>"}
    digests = {
        digest
        for path in sorted(paths.conf.rglob("*"))
        if path.is_file()
        for digest in re.findall(r"\b(?:[0-9a-f]{40}|[0-9a-f]{64})\b", path.read_text("utf-8", "replace"))
    }
    return Known(
        users=frozenset(users - {""}),
        hosts=frozenset(hosts - _EVERYBODYS_HOSTS - {""}),
        folders={path: label for path, label in folders.items() if path != "/"},
        triples=triples_of(sentences),
        digests=frozenset({*digests, commit}),
    )


def _users() -> set[str]:
    """Names of people's accounts, and the names that they write themselves with."""
    found = set()
    for entry in pwd.getpwall():
        if entry.pw_uid >= _FIRST_UID or entry.pw_uid == os.getuid():
            found |= {entry.pw_name, entry.pw_gecos.partition(",")[0].strip()}
    return found


def _hosts_of(root: Path) -> set[str]:
    """Names in /etc/hostname, /etc/hosts and resolv.conf's search domains."""
    found: set[str] = set()
    for name, pattern in (
        ("etc/hostname", r"^\s*([\w.-]+)"),
        ("etc/hosts", r"^\s*[0-9a-fA-F:.%]+\s+([^#\n]+)"),
        ("etc/resolv.conf", r"^\s*(?:search|domain)\s+([^#\n]+)"),
    ):
        try:
            text = (root / name).read_text("utf-8", "replace")
        except OSError:
            continue
        found |= {word for line in re.findall(pattern, text, re.MULTILINE) for word in line.split()}
    return found


def _proxies(paths: Paths, environ: Mapping[str, str]) -> set[str]:
    """Hosts that the site's configuration and the environment name."""
    texts = [value for name, value in environ.items() if name.lower().endswith("_proxy")]
    with contextlib.suppress(OSError):
        texts.append((paths.conf / "site.toml").read_text("utf-8", "replace"))
    return {host for text in texts for host in re.findall(r"//(?:[^/@\s\"']*@)?([\w.-]+)", text)}


def _sentences(paths: Paths, option: str) -> tuple[list[str], str]:
    """The sentences of the corpus that is here, and what is to be said of it."""
    missing = "No corpus was at hand: of TIMIT's text only what has its form was looked for."
    try:
        data = inputs.find_data(paths, option)
    except BundleError:
        if option:
            raise
        return [], missing
    if data is None:
        return [], missing
    try:
        texts = _in_zip(data) if data.is_file() else _in_folder(data)
        found = [spoken[1] for spoken in map(_SPOKEN.match, texts) if spoken]
    except (BundleError, OSError) as error:
        return [], f"The corpus could not be read ({type(error).__name__}): only its text's form was looked for."
    return found, f"{len(found)} sentences of the corpus were looked for."


def _in_folder(data: Path) -> Iterator[str]:
    for name, file in list_tree(data, _CORPUS).files.items():
        if name.lower().endswith(".txt") and file.size_bytes <= _MOST_SENTENCE_BYTES:
            yield read_below(data, name, _MOST_SENTENCE_BYTES).decode("utf-8", "replace")


def _in_zip(data: Path) -> Iterator[str]:
    with zips.reading(data), zipfile.ZipFile(data) as source:
        for entry in source.infolist()[: _CORPUS.entries]:
            if entry.filename.lower().endswith(".txt") and entry.file_size <= _MOST_SENTENCE_BYTES:
                yield source.read(entry).decode("utf-8", "replace")
