"""A stranger's folder is listed and read without following, blocking or trusting anything in it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro.base.confined import TreeLimits, folder_below, list_tree, open_below, read_below
from repro.base.errors import NotPlain
from repro.base.files import remove_tree


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "deep").write_bytes(b"deep")
    (root / "plain").write_bytes(b"plain")
    (tmp_path / "outside").write_bytes(b"secret")
    yield root
    subprocess.run(["rm", "-rf", str(tmp_path)], check=False)  # pytest itself cannot remove a tree this deep


def test_plain_files_and_folders_are_listed_in_byte_order(tree: Path):
    found = list_tree(tree)
    assert list(found.files) == ["a/b/deep", "plain"] and found.folders == ("a", "a/b")
    assert found.total_bytes == 9
    assert read_below(tree, "a/b/deep", 4) == b"deep"


def plant(tree: Path, kind: str) -> str:
    path = tree / "odd"
    if kind == "link":
        path.symlink_to(tree.parent / "outside")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.getcwd()
            os.chdir(tree)  # a socket's path is short
            try:
                listener.bind("odd")
            finally:
                os.chdir(here)
    elif kind == "setuid":
        path.write_bytes(b"")
        path.chmod(0o4755)
    return "odd"


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "socket", "setuid"])
def test_what_is_not_plain_is_refused_by_name_and_never_opened(tree: Path, kind: str):
    name = plant(tree, kind)
    with pytest.raises(NotPlain, match="odd"):
        list_tree(tree)
    with pytest.raises(NotPlain, match="odd"):
        read_below(tree, name, 100)


def test_a_folder_behind_a_link_is_refused(tree: Path):
    (tree / "way").symlink_to(tree / "a")
    with pytest.raises(NotPlain, match="way"):
        read_below(tree, "way/b/deep", 100)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/../plain", "", ".", "a//b/deep", "a/b/", "pl\x00ain"]
)
def test_a_path_that_is_no_plain_path_is_refused(tree: Path, name: str):
    with pytest.raises(NotPlain):
        read_below(tree, name, 100)


def test_a_file_larger_than_expected_is_refused(tree: Path):
    with pytest.raises(NotPlain, match="5 bytes; at most 4"), open_below(tree, "plain", 4):
        pass


def test_a_file_that_is_absent_is_absent(tree: Path):
    with pytest.raises(FileNotFoundError):
        read_below(tree, "absent", 1)


@pytest.mark.parametrize("name", [b"\xff", b"new\nline", b"esc\x1b[2J", "\u202efdp".encode()])
def test_names_that_are_not_plain_text_are_refused(tree: Path, name: bytes):
    (Path(os.fsdecode(os.fsencode(tree) + b"/" + name))).write_bytes(b"")
    with pytest.raises(NotPlain) as caught:
        list_tree(tree)
    assert caught.value.message.isprintable()


def test_number_depth_and_bytes_are_bounded(tree: Path):
    with pytest.raises(NotPlain, match="more than 3 files"):
        list_tree(tree, TreeLimits(entries=3))
    with pytest.raises(NotPlain, match="more than 1 deep"):
        list_tree(tree, TreeLimits(depth=1))
    with open(tree / "giant", "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(NotPlain, match="giant"):
        list_tree(tree, TreeLimits(total_bytes=1 << 30))


def test_three_thousand_nested_folders_end_with_a_refusal(tree: Path):
    descriptor = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    with pytest.raises(NotPlain, match="deep"):
        list_tree(tree)
    os.system(f"rm -rf {tree}")


def test_a_folder_of_any_depth_and_any_mode_is_removed_and_no_link_is_followed(tree: Path):
    kept = tree.parent / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(b"")
    (tree / "way").symlink_to(kept)
    descriptor = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    (tree / "a" / "b").chmod(0)
    (tree / "a").chmod(0)
    if os.getuid() == 0:  # root may enter everything: the modes are tried as an ordinary user
        os.system(f"chown -hR 65534:65534 {tree} && chmod 711 {tree.parent} && chown 65534 {tree.parent}")
        child = os.fork()
        if child == 0:
            try:
                os.chdir(tree.parent)
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                remove_tree(Path("root"))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    else:
        remove_tree(tree)
    assert not tree.exists() and (kept / "file").exists()


def test_removing_a_file_a_link_or_nothing_is_no_error(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    for name in ("link", "file", "absent"):
        remove_tree(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_goes_meanwhile_leaves_nothing_of_the_rest(tree: Path, monkeypatch):
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*([] if not real(folder) else ["gone"]), *real(folder)])
    remove_tree(tree)
    assert not tree.exists()


@pytest.mark.parametrize("call", range(12))
@pytest.mark.parametrize("name", ["open", "listdir", "rmdir"])
def test_a_folder_that_another_process_removes_meanwhile_is_no_error(tree: Path, monkeypatch, name: str, call: int):
    real, calls = getattr(os, name), []

    def removes(*words, **named):
        calls.append(words)
        if len(calls) == call + 1:
            subprocess.run(["rm", "-rf", str(tree)], check=True)
        return real(*words, **named)

    monkeypatch.setattr(os, name, removes)
    remove_tree(tree)
    assert not tree.exists() and calls


@pytest.mark.parametrize("name", ["/plain", "//plain", "/", "", "a/", "a//b/deep", "../outside"])
def test_a_name_that_is_not_relative_and_plain_is_refused(tree: Path, name: str):
    with pytest.raises(NotPlain):
        read_below(tree, name, 100)
    with pytest.raises(NotPlain), folder_below(tree, name or "/"):
        pass
