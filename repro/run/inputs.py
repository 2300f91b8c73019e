"""What the user supplies and what stands in for it: data set and checkpoint, found, named, and held to their hash."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from repro.base import user_lock
from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.foreign import shown
from repro.base.paths import Paths, given_path
from repro.base.toml import read_toml
from repro.graph.cache import StatCache
from repro.graph.digests import digest_file
from repro.graph.store import Result

DEMO = "demo"
DEMO_CORPUS = "demo_corpus"
_DATA_PLACES = ("data.zip", "TIMIT", "timit")
PUBLISHED_CHECKPOINT = "ctc_best_model.pth"
MODEL_SIGNERS = "model-signers.pem"  # in data/: public keys of those whose signatures of models this user trusts
_CHECKPOINT_FOLDERS = ("checkpoint/ctc_fbank_cnn", "checkpoint", "", "sources")
_LIKE_DATA = re.compile(r"(timit.*|data\.(zip|tar|tgz|tbz2?|txz|7z|rar|iso|tar\..*))", re.IGNORECASE)
_LIKE_CHECKPOINT = re.compile(r"ctc_best_model.*", re.IGNORECASE)
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a run. `kind` is 'demo' or 'user'; `trust` says what its hash was held against."""

    path: Path
    kind: str
    sha256: str
    trust: str


def find_data(paths: Paths, option: str) -> Path | None:
    """The data set that was asked for: None stands for the demo corpus.

    Args:
        paths: of the checkout.
        option: a folder or zip; 'demo'; or '' to take what lies in data/, else the demo.

    Raises:
        UsageError: the path is not there, or data/ holds something that was surely meant and is not found.
    """
    if option == DEMO:
        return None
    if option:
        path = given_path("--data", option)
        if not path.exists():
            raise UsageError(
                f"--data {option}: there is no such file or folder",
                hint="give TIMIT's folder (with TRAIN and TEST in it), data.zip, or the word demo",
            )
        return path
    for name in _DATA_PLACES:
        path = paths.data / name
        if path.exists():
            return path
    _refuse_near_misses(paths)
    return None


def _refuse_near_misses(paths: Paths) -> None:
    """The demo never stands in silently where data/ holds what looks like a data set under another name."""
    for name in _names_in(paths.data):
        place = paths.data / name
        if name.lower() in _SPLITS:
            raise UsageError(
                f"data/{shown(name)} lies beside other things in data/",
                hint="make a folder data/TIMIT and move TRAIN and TEST into it (or give their folder with --data)",
            )
        if not _LIKE_DATA.fullmatch(name):
            continue
        if place.is_dir():
            advice = f"rename it to data/TIMIT, or give --data data/{shown(name)}"
        elif not place.exists():
            advice = "it is a link that leads nowhere: mend it, or remove it"
        elif name.lower().endswith(".zip"):
            advice = f"rename it to data/data.zip, or give --data data/{shown(name)}"
        else:
            advice = "unpack it into a folder data/TIMIT, with TRAIN and TEST in it"
        raise UsageError(
            f"data/{shown(name)} is not looked at: a data set in data/ is called {', '.join(_DATA_PLACES)}",
            hint=f"{advice}; --data demo takes the demo corpus all the same",
        )


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def find_checkpoint(paths: Paths, option: str, cache: StatCache) -> Checkpoint:
    """The weights that were asked for: a path; 'demo'; or '' to take what lies in data/, else the demo's.

    Raises:
        UsageError: the path is not there.
        CouldNotVerify: the demo's file is missing.
        VerificationFailed: the demo's file is not the pinned one, or the user's is not the one seen first.
    """
    user: Path | None = None
    if option and option != DEMO:
        user = given_path("--checkpoint", option)
        if user.is_dir():
            raise UsageError(f"--checkpoint {option}: this is a folder", hint="give the .pth file that lies in it")
        if not user.is_file():
            raise UsageError(f"--checkpoint {option}: there is no such file", hint="give a .pth file, or the word demo")
    elif not option:
        user = users_checkpoint(paths)
    return _demo_checkpoint(paths, cache) if user is None else _user_checkpoint(paths, user, cache)


def users_checkpoint(paths: Paths) -> Path | None:
    """The checkpoint that lies in data/, or None.

    Raises:
        UsageError: data/ holds one under another name, or a folder or a broken link in its place.
    """
    places = [paths.data / folder / PUBLISHED_CHECKPOINT for folder in _CHECKPOINT_FOLDERS]
    found = next((path for path in places if path.is_file()), None)
    if found is not None:
        return found
    for folder in _CHECKPOINT_FOLDERS:
        for name in _names_in(paths.data / folder):
            path = paths.data / folder / name
            if not _LIKE_CHECKPOINT.fullmatch(name) and not (name.endswith(".pth") and folder != "sources"):
                continue
            what = "a folder" if path.is_dir() else "not looked at" if path.exists() else "a link that leads nowhere"
            raise UsageError(
                f"data/{shown(path.relative_to(paths.data))} is {what}: a checkpoint in data/ is a file "
                f"{PUBLISHED_CHECKPOINT}",
                hint="rename it if it is the published one, or name it with --checkpoint; --checkpoint demo takes "
                "the demo's all the same",
            )
    return None


def demo_checkpoint_path(paths: Paths) -> Path:
    """Where the demo's weights lie."""
    return paths.data / "demo" / "checkpoint.pth"


def _demo_checkpoint(paths: Paths, cache: StatCache) -> Checkpoint:
    path = demo_checkpoint_path(paths)
    if not path.is_file():
        raise CouldNotVerify(
            "the demo checkpoint data/demo/checkpoint.pth is missing from the checkout", hint="check it out again"
        )
    pinned = read_toml(paths.conf / "demo.toml")["checkpoint"]["sha256"]
    found = digest_file(path, cache).sha256
    if found != pinned:
        raise VerificationFailed(
            f"data/demo/checkpoint.pth has sha256 {found}, but conf/demo.toml pins {pinned}",
            hint="check the file out again; after training anew, `invoke demo.train` writes both",
        )
    return Checkpoint(path, DEMO, found, "pinned in conf/demo.toml")


def _user_checkpoint(paths: Paths, path: Path, cache: StatCache) -> Checkpoint:
    """No hash of the published checkpoint is published: the first of its name is recorded and held to afterwards.

    Any other checkpoint is what it is: its digest stands in the record, and nothing else is known of it.
    """
    found = digest_file(path, cache).sha256
    signed = _signed(paths, path, found)
    if path.name != PUBLISHED_CHECKPOINT:
        return Checkpoint(path, "user", found, signed or "the user's own: known by this digest alone")
    also = f"; {signed}" if signed else ""
    known = user_lock.read(paths)
    seen = known.get("checkpoint", {}).get(path.name) or known.get("sources", {}).get(path.name)
    if seen is None:
        user_lock.first_seen(paths, "checkpoint", path.name, found)
        return Checkpoint(path, "user", found, "trusted on first use: recorded now in data/user.lock.json" + also)
    if seen != found:
        raise VerificationFailed(
            f"{path} has sha256 {found}, but the one seen first had {seen} (data/user.lock.json)",
            hint=f"if the file was replaced on purpose, remove {path.name} from data/user.lock.json; give a "
            "model of your own another name",
        )
    return Checkpoint(path, "user", found, "trusted on first use: equal to the one in data/user.lock.json" + also)


def _signed(paths: Paths, checkpoint: Path, sha256: str) -> str:
    """What a signature beside a checkpoint says of it; the library of keys is imported only where there is one."""
    if not any(checkpoint.with_name(name).exists() for name in (f"{checkpoint.name}.sig", "model.sig")):
        return ""
    from repro.run.model_signature import signer_of_checkpoint  # noqa: PLC0415 - cryptography: 0.1 s

    return signer_of_checkpoint(checkpoint, sha256, paths.data / MODEL_SIGNERS)


def demo_corpus_digest(result: Result) -> str:
    """The demo corpus's digest as conf/demo.toml states it: over `SHA256  PATH` lines in byte order of PATH."""
    ordered = sorted(result.outputs.items(), key=lambda item: os.fsencode(item[0]))
    return sha256_bytes("".join(f"{file.sha256}  {path}\n" for path, file in ordered).encode())


def check_demo_corpus(conf: Path, result: Result) -> str:
    """Hold a demo corpus to its pinned digest; returns what can be said of it.

    Raises:
        VerificationFailed: the synthesisers gave other bytes than where it was pinned.
    """
    pinned = read_toml(conf / "demo.toml")["corpus"]["sha256"]
    found = demo_corpus_digest(result)
    if found != pinned:
        raise VerificationFailed(
            f"the demo corpus came out with digest {found}, but conf/demo.toml pins {pinned}",
            hint="every image and stage is pinned, so this should not happen: please report it with `invoke doctor`",
        )
    return f"digest {found}, as pinned in conf/demo.toml"
