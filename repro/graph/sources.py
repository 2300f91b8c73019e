"""Inputs from outside the graph, digested: a checkpoint, the repository's conf/, the user's speech.

Of a folder of speech exactly that is digested which the corpus stage looks at (`stages.formats.source`): what lies
below TRAIN and TEST, hidden entries left out. What lies beside them counts for nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from repro.base.confined import Tree, check_name, plain_file
from repro.base.errors import CouldNotRun, NotPlain, UsageError
from repro.base.foreign import shown
from repro.base.system_errors import advice
from repro.graph.cache import StatCache
from repro.graph.digests import FileDigest, digest_file, digest_folder, digest_of_files, digest_tree

SPEECH = "data"
"""The name of the source that is the user's speech; `digest_source` reads a folder of it as the corpus stage does."""

THE_FILE = ""
_CLUTTER = "__MACOSX"
_SPLITS = ("train", "test")
_MOST_ENTRIES = 1_000_000
_MOST_DEPTH = 24
_COPY = "copy the data in place of linking it, or give the real folder with --data"


def digest_source(path: Path, cache: StatCache, what: str) -> str:
    """The content digest of a file or folder that a user or the repository supplies: see `files_of_source`."""
    files = files_of_source(path, cache, what)
    return files[THE_FILE].sha256 if THE_FILE in files else digest_of_files(files)


def files_of_source(path: Path, cache: StatCache, what: str) -> dict[str, FileDigest]:
    """The files of what a user or the repository supplies, by their path below it; one that is a file is THE_FILE.

    Args:
        path: of the file or folder.
        cache: where digests are remembered.
        what: names it in messages; a folder named SPEECH, or 'data set', is read as the corpus stage reads it.

    Raises:
        UsageError: something that is looked at is a link, a device or has an odd name.
        CouldNotRun: it is not there, or cannot be read.
    """
    try:
        if path.is_file():
            return {THE_FILE: digest_file(path, cache)}
        if path.is_dir():
            if what in (SPEECH, "data set"):
                return digest_tree(path, _speech(path, what), cache)
            return digest_folder(path, cache, what)
    except NotPlain as error:
        raise UsageError(f"{what}: {error.message}", hint=error.hint or _COPY) from error
    except OSError as error:
        raise CouldNotRun(f"cannot read {what}: {error}", hint=advice(error, "check the path")) from error
    raise CouldNotRun(f"{what} is neither a file nor a folder: {path}", hint="check the path")


def _speech(root: Path, what: str) -> Tree:
    """What the corpus stage looks at; all plain files where it finds no TRAIN and TEST: it then says so itself."""
    tops = _places(root, "", what)
    if not tops:
        inner = [_places_if_open(root, name, what) for name in _folders(root, "")]
        found = [places for places in inner if places]
        tops = found[0] if len(found) == 1 else []
    files, folders = {}, []
    for path, found_stat in _below(root, tops or [""], strict=bool(tops)):
        if stat.S_ISDIR(found_stat.st_mode):
            folders.append(path)
        else:
            files[path] = plain_file(path, found_stat)
    return Tree(files, tuple(folders))


def _places_if_open(root: Path, below: str, what: str) -> list[str]:
    try:
        return _places(root, below, what)
    except PermissionError:  # a lost+found, say, that only root may look into
        return []


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name == _CLUTTER


def _folders(root: Path, below: str) -> list[str]:
    """The folders right inside one; a link to a folder is passed over unless it is called TRAIN or TEST."""
    with os.scandir(root / below) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and not _is_clutter(entry.name) and (not entry.is_symlink() or _is_split(entry.name))
        )


def _is_split(name: str) -> bool:
    return name.lower() in _SPLITS


def _places(root: Path, below: str, what: str) -> list[str]:
    """TRAIN and TEST right inside a folder, in whatever case; none where one of them is missing."""
    names = _folders(root, below)
    places = []
    for wanted in _SPLITS:
        spelt = [name for name in names if name.lower() == wanted]
        if len(spelt) > 1:
            raise UsageError(
                f"{what}: both {shown(' and '.join(spelt))} lie in {shown(root / below)}", hint="remove one of them"
            )
        places += [f"{below}/{name}" if below else name for name in spelt]
    return places if len(places) == len(_SPLITS) else []


def _below(root: Path, tops: list[str], *, strict: bool) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry below some folders that is not clutter; what is no file or folder is refused if `strict`."""
    pending = list(tops)
    seen = 0
    for top in tops:
        if (root / top).is_symlink():
            raise NotPlain(f"{shown(root / top)} is a symbolic link")
    while pending:
        folder = pending.pop()
        if folder.count("/") > _MOST_DEPTH:
            raise NotPlain(f"{shown(folder)}: folders lie more than {_MOST_DEPTH} deep", hint="give TIMIT's own folder")
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if _is_clutter(entry.name):
                    continue
                seen += 1
                if seen > _MOST_ENTRIES:
                    raise NotPlain(f"more than {_MOST_ENTRIES} files", hint="give TIMIT's own folder")
                path = f"{folder}/{entry.name}" if folder else entry.name
                found = entry.stat(follow_symlinks=False)
                if not strict and not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
                    continue
                check_name(entry.name)
                if stat.S_ISLNK(found.st_mode):
                    raise NotPlain(f"{shown(root / path)} is a symbolic link")
                if stat.S_ISDIR(found.st_mode):
                    pending.append(path)
                yield path, found
