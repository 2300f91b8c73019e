"""The helpers below everything, at their bounds: the last allowed, the first that is not, and each kind by name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.base import confined, locking, programs, strict_json, temporary, versions
from repro.base.confined import (
    Tree,
    TreeLimits,
    check_name,
    folder_below,
    list_tree,
    open_below,
    plain_file,
    read_below,
)
from repro.base.errors import CouldNotRun, NotPlain, VerificationFailed
from repro.base.foreign import shown
from repro.base.locking import Taken, locked
from repro.base.paths import Paths
from repro.base.temporary import clear_checkout, clear_dead, clear_locks, temporary_folder


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (stat.S_IFLNK, "a symbolic link"),
        (stat.S_IFIFO, "a FIFO"),
        (stat.S_IFSOCK, "a socket"),
        (stat.S_IFDIR, "a folder"),
        (stat.S_IFCHR, "a character device"),
        (stat.S_IFBLK, "a block device"),
        (0, "of an unknown kind"),
    ],
)
def test_what_is_no_plain_file_is_called_what_it_is(kind: int, name: str):
    with pytest.raises(NotPlain) as caught:
        plain_file("an\x1bodd", os.stat_result((kind | 0o644, 1, 2, 1, 0, 0, 0, 0, 0, 0)))
    assert caught.value.message == f"an\\x1bodd is {name}, not a plain file"


def test_a_plain_file_is_described_by_its_own_stat(tmp_path: Path):
    make(tmp_path, "f")
    (tmp_path / "f").chmod(0o640)
    found = (tmp_path / "f").stat()
    file = plain_file("f", found)
    assert (file.size_bytes, file.mode, file.inode, file.device) == (1, 0o640, found.st_ino, found.st_dev)
    assert (file.mtime_ns, file.ctime_ns) == (found.st_mtime_ns, found.st_ctime_ns)
    for bit in (stat.S_ISUID, stat.S_ISGID):
        with pytest.raises(NotPlain, match="f is a setuid or setgid file"):
            plain_file("f", os.stat_result((stat.S_IFREG | bit | 0o755, *found[1:])))


def test_a_tree_of_exactly_the_bounds_is_listed_and_one_more_is_not(tmp_path: Path):
    make(tmp_path, "b/ß", "b/z", "a/c/d", "b.x")
    exact = TreeLimits(entries=7, depth=2, total_bytes=4 * 4096)
    found = list_tree(tmp_path, exact)
    assert list(found.files) == ["a/c/d", "b.x", "b/z", "b/ß"] and found.folders == ("a", "a/c", "b")
    for limits, why in (
        (TreeLimits(6, 2, exact.total_bytes), r"^more than 6 files and folders \(the last seen: [ab][./][/a-zß]*\)$"),
        (TreeLimits(7, 1, exact.total_bytes), r"^a/c: folders lie more than 1 deep$"),
        (TreeLimits(7, 2, exact.total_bytes - 1), rf"^more than {4 * 4096 - 1} bytes \(the last seen: "),
    ):
        with pytest.raises(NotPlain, match=why):
            list_tree(tmp_path, limits)


def test_bytes_are_counted_by_size_and_by_blocks_whichever_is_more(tmp_path: Path):
    make(tmp_path, "small")
    with pytest.raises(NotPlain, match="small"):
        list_tree(tmp_path, TreeLimits(total_bytes=100))  # one byte takes a block
    with open(tmp_path / "small", "wb") as stream:
        stream.truncate(100_000)  # no block
    assert list_tree(tmp_path, TreeLimits(total_bytes=100_000)).total_bytes == 100_000
    with pytest.raises(NotPlain, match="small"):
        list_tree(tmp_path, TreeLimits(total_bytes=99_999))
    assert Tree({}, ()).total_bytes == 0


def test_a_name_of_255_bytes_is_one_and_of_256_is_none():
    check_name("ä" * 127 + "a")
    for name in ("ä" * 128, "", ".", "..", "a/b", "a\tb", "a\u2028b", "a\u200bb", "\ud800"):
        with pytest.raises(NotPlain):
            check_name(name)
    check_name("...")
    with pytest.raises(NotPlain, match="an empty text is not a plain name"):
        check_name("")


def test_a_file_of_exactly_the_size_is_read_and_one_that_grows_is_refused(tmp_path: Path, monkeypatch):
    make(tmp_path, "a/b/f")
    assert read_below(tmp_path, "a/b/f", 1) == b"x"
    with open_below(tmp_path, "a/b/f", 1) as stream:
        assert os.get_inheritable(stream.fileno()) is False and stream.read() == b"x"
    real = os.fstat

    def fstat(descriptor):
        found = real(descriptor)
        with open(tmp_path / "a" / "b" / "f", "ab") as stream:
            stream.write(b"more")
        return found

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(NotPlain, match=r"^a/b/f grew past 1 bytes while it was read$"):
        read_below(tmp_path, "a/b/f", 1)
    asked = []

    @contextlib.contextmanager
    def endless(*_):
        yield SimpleNamespace(read=lambda most: asked.append(most) or b"x")

    monkeypatch.setattr(confined, "open_below", endless)
    assert read_below(tmp_path, "f", 7) == b"x" and asked == [8], "no more than a byte beyond the bound is held"


def test_no_descriptor_stays_open_and_the_root_may_be_a_link(tmp_path: Path):
    make(tmp_path, "root/a/b/f")
    (tmp_path / "way").symlink_to("root")
    before = sorted(os.listdir("/proc/self/fd"))
    assert read_below(tmp_path / "way", "a/b/f", 1) == b"x" and list_tree(tmp_path / "way").total_bytes == 1
    for name, why in (("a/b/f/g", "f is not a plain folder"), ("a/b", "a/b is a folder, not a plain file")):
        with pytest.raises(NotPlain, match=why):
            read_below(tmp_path / "way", name, 1)
    with pytest.raises(FileNotFoundError):
        read_below(tmp_path / "way", "a/none/f", 1)
    with folder_below(tmp_path / "way", "a/b") as folder:
        assert os.listdir(folder) == ["f"]
    with folder_below(tmp_path / "way") as folder:
        assert os.listdir(folder) == ["a"]
    with pytest.raises(NotPlain, match="a/b/f: f is not a plain folder"), folder_below(tmp_path / "way", "a/b/f"):
        pass
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("good", "bad", "why"), [
    (b"[" * 64 + b"]" * 64, b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
    (b"[[],[[]]]", b"[" * 40 + b"[]," + b"[" * 25 + b"]" * 65, "nested more than 64 deep"),
    (b'{"a":' * 64 + b"1" + b"}" * 64, b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
    (b"[0." + b"1" * 399 + b"]", b"[0." + b"1" * 400 + b"]", "more than 400 digits"),
    (b'["' + b"[" * 100 + b'", "\\"[[", ' + b"[]," * 99 + b"{}]", b'["\\""' + b",[" * 64 + b"]" * 65, "64 deep"),
    (b'{"a": 1, "b": {"a": 1}}', b'{"a\\u001b": 1, "a\\u001b": 2}', r"the key 'a\\\\x1b' stands twice in one object"),
    (b'["\\ud83d\\ude00"]', b'[{"a": ["\\ud83d"]}]', "half of a surrogate pair"),
    (b'{"\\ud83d\\ude00": 1}', b'{"\\ude00": 1}', "half of a surrogate pair"),
    (b"[1e308, -1e308]", b"[-1e999]", "the number -1e999 is too large"),
    ('["ä"]'.encode(), b'["a\xe4"]', r"it is not UTF-8 \(byte 3\)"),
    (b"[null, true]", b"[nul\x1b]", r"it is not JSON: Expecting value: line 1 column 2 \(char 1\)$"),
    (b"{}", b'{"%s": 1, "%s": 2}' % ((b"k" * 60 + b"yz",) * 2), "the key 'k{60}…' stands twice"),
    (b"{}", b'{"%s": 1, "%s": 2}' % ((b"k" * 60,) * 2), "the key 'k{60}' stands twice"),
])  # fmt: skip
def test_json_up_to_each_bound_is_read_and_beyond_it_refused(good: bytes, bad: bytes, why: str):
    strict_json.parse(good, what="it")
    with pytest.raises(VerificationFailed, match=why) as caught:
        strict_json.parse(bad, what="it")
    assert caught.value.message.isprintable() and len(caught.value.message) < 250


def test_json_of_exactly_the_size_is_read():
    assert strict_json.parse(b"[12345]", what="it", max_bytes=7) == [12345]
    with pytest.raises(VerificationFailed, match="it has 7 bytes; at most 6 are read"):
        strict_json.parse(b"[12345]", what="it", max_bytes=6)
    assert strict_json.MAX_BYTES == 64 << 20


def test_foreign_text_of_exactly_the_limit_is_whole_and_each_kind_of_letter_is_escaped():
    assert shown("x" * 500) == "x" * 500 and shown("x" * 501) == "x" * 500 + "…"
    assert shown("abc", 3) == "abc" and shown("abcd", 3) == "abc…"
    assert shown("\x00\x7f\xa0\xff") == "\\x00\\x7f\\xa0ÿ"
    assert shown("\u0100\u2028\U000e0001\udc80\udcff\udd00") == "Ā\\u2028\\U000e0001\\x80\\xff\\udd00"
    assert shown("a\nb\r", lines=True) == "a\nb\\x0d" and shown("a\nb") == "a\\x0ab" and shown(None) == "None"


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("1.0.alpha1", "1.0.beta1"), ("1.0.beta1", "1.0.rc1"), ("1.0.rc1", "1.0"), ("1.0.rc9", "1.0.rc10"),
        ("1.0.rc1", "1.0.rc1.1"), ("1.0.rc1", "1.0.rc1.0"), ("1.0.rc1.b1", "1.0.rc1.b2"), ("1.0", "1.0.sp1"),
        ("1.0.spc1", "1.0.b1"),
        ("1.9", "1.10"), ("1.0", "1.0.0.1"), ("1.0.rc", "1.0.rc1"), ("1.0.rc1.1.2", "1.0.rc1.2.1"),
    ],
)  # fmt: skip
def test_each_step_of_a_version_is_less_than_the_next(less: str, more: str):
    assert versions.parse(less) < versions.parse(more) and not versions.same(less, more)
    assert hash(versions.parse(less)) != hash(versions.parse(more))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("v23.0.RC1", "23.0-rc1"), ("V1", "1.0.0"), ("1.0_rc_2", "1.0rc2"), ("1.0.T1", "1.0.t1"), (" 1.0 ", "1"),
        ("1.0.sp1", "1.0.SPC1"), ("0", "0.0"), ("1.0.rc0", "1.0.rc"),
    ],
)  # fmt: skip
def test_spellings_of_one_version_are_equal_and_show_themselves(one: str, other: str):
    assert versions.same(one, other) and versions.parse(one) == versions.parse(other)
    assert str(versions.parse(one)) == one.strip() and versions.parse(one) != one


def test_a_word_that_the_vendor_does_not_use_makes_no_version():
    assert (
        versions.parse("1.0.gamma1") is None and versions.parse("1..0") is None and versions.parse("1.0.rc1.x") is None
    )
    assert versions.same(" Unknown", "unknown ") and not versions.same("1.0", "unknown")


def test_path_is_split_as_a_shell_does_and_the_current_folder_is_left_out(tmp_path: Path, monkeypatch):
    assert programs.search_path({"PATH": "/a::/b:"}) == ("/a", "/b")
    assert programs.search_path({}) == tuple(os.defpath.strip(":").split(":"))
    make(tmp_path, "first/tool", "second/tool", "third/tool")
    (tmp_path / "second" / "tool").chmod(0o755)
    (tmp_path / "third" / "tool").chmod(0o755)
    (tmp_path / "folder" / "tool").mkdir(parents=True)
    folders = [str(tmp_path / name) for name in ("folder", "first", "second", "third")]
    assert programs.find("tool", folders) == tmp_path / "second" / "tool"
    monkeypatch.setattr(programs, "search_path", lambda: tuple(folders))
    assert programs.find("tool") == tmp_path / "second" / "tool" and programs.find("none") is None


def kinds_of_lock(monkeypatch) -> list[int]:
    seen = []
    monkeypatch.setattr(fcntl, "flock", lambda _descriptor, kind: seen.append(kind))
    return seen


def test_a_lock_is_asked_for_as_it_was_meant(tmp_path: Path, monkeypatch):
    seen = kinds_of_lock(monkeypatch)
    for shared in (False, True):
        for wait in (False, True):
            with locked(tmp_path, shared=shared, wait=wait):
                pass
    with locked(tmp_path):
        pass
    with locked(tmp_path) as descriptor:
        locking.acquire(descriptor, tmp_path)
        assert os.get_inheritable(descriptor) is False
    ex, sh, now = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB
    assert seen == [ex | now, ex, sh | now, sh, ex, ex, ex]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_only_a_file_system_without_locks_is_called_one(tmp_path: Path, monkeypatch, number: int):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    expected = OSError if number == errno.EIO else CouldNotRun
    with pytest.raises(expected, match=os.strerror(number)), locked(tmp_path):
        pass


def test_a_lock_file_is_made_only_where_asked_and_everybody_may_open_it(tmp_path: Path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "none"):
        pass
    mask = os.umask(0o077)
    try:
        with locked(tmp_path / "lock", create=True), pytest.raises(Taken, match=f"{tmp_path}/lock is in use"):
            assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o644
            with locked(tmp_path / "lock", create=True, wait=False):
                pass
    finally:
        os.umask(mask)
    (tmp_path / "way").symlink_to("nowhere")
    with pytest.raises(OSError, match="way"), locked(tmp_path / "way", create=True):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_file_of_another_user_that_was_made_meanwhile_is_used(tmp_path: Path, monkeypatch):
    def fchmod(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", fchmod)
    with locked(tmp_path / "lock", create=True) as descriptor:
        assert locking.is_still(tmp_path / "lock", descriptor)
        (tmp_path / "lock").unlink()
        assert not locking.is_still(tmp_path / "lock", descriptor)
        make(tmp_path, "lock")
        assert not locking.is_still(tmp_path / "lock", descriptor)


def test_a_temporary_folder_says_what_for_is_held_and_goes_with_its_content(tmp_path: Path):
    parent = tmp_path / "new" / "parent"
    with temporary_folder(parent, "work") as folder:
        assert folder.parent == parent and folder.name.startswith(".tmp.work.")
        make(folder, "a/b")
        with pytest.raises(Taken), locked(folder, wait=False):
            pass
        assert clear_dead(parent) == [] and folder.exists()
    assert list(parent.iterdir()) == []


def test_what_is_kept_has_a_name_that_nobody_clears_and_is_nobodys(tmp_path: Path):
    before = sorted(os.listdir("/proc/self/fd"))
    folder = temporary_folder(tmp_path, "work")
    ending = folder.path.name.rpartition(".")[2]
    make(folder.path, "f")
    kept = folder.keep("failed")
    assert kept == tmp_path / f"failed.{ending}" and (kept / "f").exists()
    with locked(kept, wait=False):
        folder.close()
    assert clear_dead(tmp_path) == [] and kept.exists() and sorted(os.listdir("/proc/self/fd")) == before


def test_an_error_of_clearing_up_hides_no_other_error(tmp_path: Path, monkeypatch):
    def remove_tree(_):
        raise OSError(errno.EIO, "Input/output error")

    folders = [temporary_folder(tmp_path, "work") for _ in range(3)]
    monkeypatch.setattr(temporary, "remove_tree", remove_tree)
    with pytest.raises(OSError, match="Input/output"), folders[0]:
        pass
    with pytest.raises(KeyError), folders[1]:
        raise KeyError
    with pytest.raises(OSError, match="Input/output"):
        folders[2].close()
    folders[2].close()  # a second call does nothing
    assert clear_dead(tmp_path) == sorted(folder.path for folder in folders), "no lock was left behind"


def test_a_folder_that_cannot_be_locked_is_not_left_behind(tmp_path: Path, monkeypatch):
    def acquire(*_, **__):
        raise CouldNotRun("no locks")

    monkeypatch.setattr(temporary, "acquire", acquire)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(CouldNotRun):
        temporary_folder(tmp_path, "work")
    assert list(tmp_path.iterdir()) == [] and sorted(os.listdir("/proc/self/fd")) == before


def test_clearing_up_waits_for_nobody(tmp_path: Path):
    make(tmp_path, ".tmp.work.1/f", ".tmp.file.2", "kept")
    with locked(tmp_path):
        assert clear_dead(tmp_path) == []
    with locked(tmp_path / ".tmp.work.1", shared=True):
        assert clear_dead(tmp_path) == [tmp_path / ".tmp.file.2"]
    assert clear_dead(tmp_path) == [tmp_path / ".tmp.work.1"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_one_thing_that_cannot_be_removed_keeps_no_other(tmp_path: Path, monkeypatch):
    make(tmp_path, ".tmp.a/f", ".tmp.b/f")
    real = temporary.remove_tree

    def remove_tree(path):
        if path.name == ".tmp.a":
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(temporary, "remove_tree", remove_tree)
    clear_dead(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp.a"]


def test_lock_files_that_nobody_holds_go_and_held_ones_stay(tmp_path: Path):
    make(tmp_path, "a.lock", "b.lock", "c.txt")
    with locked(tmp_path / "b.lock", shared=True):
        clear_locks(tmp_path, "*.lock")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.lock", "c.txt"]


RESULTS = ("", "tmp", "tmp/engines", "code", "runs", "logs", "store/last", "audits", "audits/one", "bench", "bench/one",
           "bundles", "sweeps", "sweeps/one")  # fmt: skip


@pytest.mark.parametrize("apart", [False, True], ids=["one folder", "results elsewhere"])
def test_every_folder_that_a_killed_command_writes_in_is_cleared(tmp_path: Path, apart: bool):
    paths = Paths(tmp_path / "checkout", tmp_path / "elsewhere") if apart else Paths(tmp_path / "checkout")
    places = {paths.results / name for name in RESULTS}
    places |= {paths.artifacts / name for name in ("", "tmp", "cache", "cache/parts", "bundles")}
    places |= {paths.rootfs, paths.layer_index, paths.oci, paths.blobs, paths.data, paths.conf, paths.conf / "locks"}
    places |= {paths.data / "sources", paths.data / "demo"}
    locks = [paths.store / "locks" / "k.lock", paths.artifacts / "cache" / "parts" / "p.lock"]
    locks.append(paths.data / "sources" / ".lock.timit")
    for place in places:
        make(place, ".tmp.file.1", ".tmp.work.2/f", "kept")
    for lock in locks:
        make(lock.parent, lock.name, "kept")
    make(tmp_path, "stranger/.tmp.file.1")
    (paths.results / "audits" / "way").symlink_to(tmp_path / "stranger")
    clear_checkout(paths)
    assert [str(path) for path in tmp_path.rglob(".tmp.*")] == [str(tmp_path / "stranger" / ".tmp.file.1")]
    assert not any(lock.exists() for lock in locks)
    assert all((place / "kept").exists() for place in (*places, *(lock.parent for lock in locks)))
