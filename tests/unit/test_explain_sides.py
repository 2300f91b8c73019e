"""Two sides held against each other: what differs of each path, whose it is, and what the locked sources say of it."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from _explain_cases import LINK, archive, put, side

from repro.audit.explain import sides
from repro.audit.explain.comparison import OPEN, Finding, compare, counted
from repro.audit.explain.files import UNCOMPILED
from repro.audit.explain.sides import FolderSide, Member, Section, TarSide
from repro.base.errors import VerificationFailed


def told(one, two, truth=None) -> list[str]:
    return [str(found) for found in compare(side(*one), side(*two), side(*truth) if truth else None)]


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (put("a", mode=0o644, uid=1, uname="u", mtime=5), put("a", mode=0o600, gid=2, gname="g", mtime=6.5),
         "a: mode, owner, time (mode 0644 / 0600; owner 1:0 (u:) / 0:2 (:g); time 5 / 6.5); "
         "irreproducible: as another umask does"),
        (put("a", uid=7), put("a"), "a: owner (owner 7:0 / 0:0); irreproducible"),
        (put("a", mode=0o644), put("a", mode=0o664),
         "a: mode (mode 0644 / 0664); irreproducible: as another umask does"),
        (put("a", mode=0o755), put("a", mode=0o644), "a: mode (mode 0755 / 0644); open: no umask does this"),
        (put("a", mode=0o664), put("a", mode=0o646), "a: mode (mode 0664 / 0646); open: no umask does this"),
        (put("a", mode=0o744), put("a", mode=0o644), "a: mode (mode 0744 / 0644); open: no umask does this"),
        (put("a", mode=0o4755), put("a", mode=0o755), "a: mode (mode 4755 / 0755); open: no umask does this"),
        (put("l", linkname="x", **LINK), put("l", linkname="y", **LINK), "l: link target (link target x / y); open"),
        (put("d", type=tarfile.CHRTYPE, devmajor=1, devminor=3), put("d", type=tarfile.BLKTYPE, devmajor=1, devminor=5),
         "d: kind of file, link target (kind of file character device / block device; link target 1:3 / 1:5); open"),
        (put("f", b"at 10:17", mtime=1), put("f", b"at 10:18", mtime=2),
         "f: time (time 1 / 2; line 1 'at 10:17' / 'at 10:18', byte 7: 37 / 38); irreproducible"),
        (put("f", b"yes", uid=1), put("f", b"no"),
         "f: owner, foreign bytes (owner 1:0 / 0:0; line 1 'yes' / 'no', byte 0: 79 65 73 / 6e 6f); open"),
        (put("m.pyc", b"a" * 16 + b"x", mtime=1), put("m.pyc", b"a" * 16 + b"y"),
         "m.pyc: time, byte code (time 1 / 0; the code itself; byte 16: 78 / 79); open: " + UNCOMPILED),
    ],
)  # fmt: skip
def test_what_differs_of_a_path_is_told_whole_with_what_follows_from_it(one, two, expected: str):
    assert told([one], [two]) == [expected]


def test_the_first_path_in_another_order_is_told_and_no_other():
    one, two = [put(name) for name in "abcd"], [put(name) for name in "acbe"]
    assert told(one, two)[-1:] == ["b: order (first path in another order); irreproducible"]
    assert not any("order" in line for line in told([put("x"), put("a"), put("b")], [put("a"), put("b")]))


NEW = "with other content"


@pytest.mark.parametrize(
    ("one", "two", "first", "second"),
    [
        (put("alone"), None, "only on one side (only in A); open", None),
        (None, put("alone"), None, "only on one side (only in B); open"),
        (put("p/a.pyc"), None, f"byte code (only in A); open: {UNCOMPILED}", None),
        (put("__pycache__/z"), None, f"byte code (only in A); open: {UNCOMPILED}", None),
        (put("x-1.0.dist-info/M", b"1"), put("x-1.1.dist-info/M", b"2"),
         "package version (only in A; the other side has x-1.1.dist-info/M); open",
         "package version (only in B; the other side has x-1.0.dist-info/M); open"),
        (put("x-1.0.egg-info", b"1"), put("x-1.1.egg-info", b"2"),
         "package version (only in A; the other side has x-1.1.egg-info); open",
         "package version (only in B; the other side has x-1.0.egg-info); open"),
        (put("tmpab12cd", b"1"), put("tmpzz99yy", b"2"),
         f"only on one side (only in A; the other side has tmpzz99yy; {NEW}); open",
         f"only on one side (only in B; the other side has tmpab12cd; {NEW}); open"),
        (put("tmpab12cd", b"1"), put("tmpzz99yy", b"1"),
         "random id (only in A; the other side has tmpzz99yy); irreproducible",
         "random id (only in B; the other side has tmpab12cd); irreproducible"),
        (put("lib-1.2.so"), put("lib-1.3.so"), "package version (only in A; the other side has lib-1.3.so); open",
         "package version (only in B; the other side has lib-1.2.so); open"),
        (put("\xe9", b"z"), put("?", b"z"), "locale (only in A; the other side has ?); irreproducible",
         "locale (only in B; the other side has \xe9); irreproducible"),
        (put("l-1", linkname="t", **LINK), put("l-2", linkname="t", **LINK),
         "only on one side (only in A; the other side has l-2); open",
         "only on one side (only in B; the other side has l-1); open"),
        (put("l-1", linkname="t", **LINK), put("l-2", linkname="u", **LINK),
         f"only on one side (only in A; the other side has l-2; {NEW}); open",
         f"only on one side (only in B; the other side has l-1; {NEW}); open"),
        (put("x-1", type=tarfile.DIRTYPE), put("x-2"), "only on one side (only in A); open",
         "only on one side (only in B); open"),
    ],
)  # fmt: skip
def test_a_path_of_one_side_alone_is_told_with_its_partner(one, two, first: str, second: str):
    given = [[each] if each else [] for each in (one, two)]
    assert told(*given) == [f"{each[0]}: {words}" for each, words in ((one, first), (two, second)) if each]


def test_each_partner_is_given_once():
    one, two = [put("tmpaa11bb", b"1"), put("tmpcc22dd", b"1")], [put("tmpee33ff", b"1")]
    assert told(one, two) == [
        "tmpaa11bb: random id (only in A; the other side has tmpee33ff); irreproducible",
        "tmpcc22dd: only on one side (only in A); open",
        "tmpee33ff: random id (only in B; the other side has tmpaa11bb); irreproducible",
    ]


TRUTH = [put("bin/x", b"\0\2"), put("etc", b"2026-01-01"), put("gone", b"g"), put("\xe9", b"c")]


def test_each_substitution_is_told_with_whose_it_is():
    one = [put("bin/x", b"\0\2"), put("etc", b"2026-01-02"), put("gone", b"g"), put("new", b"n")]
    two = [put("bin/x", b"\0\3"), put("etc", b"2026-01-03"), put("n.pyc"), put("l", linkname="q", **LINK)]
    judged = {line.partition(":")[0]: line.rpartition("); ")[2] for line in told(one, two, TRUTH)}
    assert judged == {
        "gone": "substituted: B lacks it",
        "new": "substituted: no locked source holds it, and A does",
        "n.pyc": f"open: {UNCOMPILED}",
        "l": "substituted: no locked source holds it, and B does",
        "bin/x": "substituted: B does not have what the locked sources hold",
        "etc": "substituted: neither side has what the locked sources hold",
    }
    assert told(two, one, TRUTH)[-2].endswith("substituted: A does not have what the locked sources hold")


def test_a_name_of_another_locale_is_no_substitution():
    """`None in held` once asked the dict's keys, so that a build under another locale was called a forgery."""
    assert told([put("\xe9", b"c")], [put("?", b"c")], TRUTH) == [
        "\xe9: locale (only in A; the other side has ?); irreproducible",
        "?: locale (only in B; the other side has \xe9); irreproducible",
    ]
    assert told([put("\xe9", b"LANG=C")], [put("\xe9", b"LANG=D")], TRUTH)[0].endswith(
        "substituted: neither side has what the locked sources hold"
    )


def test_headers_alone_are_no_substitution():
    assert told([put("gone", b"g", mtime=1)], [put("gone", b"g")], TRUTH) == ["gone: time (time 1 / 0); irreproducible"]


def test_a_finding_is_json_and_its_texts_are_safe_to_show():
    found = Finding("a", ("time", "owner"), "where", OPEN, "why")
    assert found.as_json() == {
        "path": "a", "causes": ["time", "owner"], "where": "where", "judgement": "open", "reason": "why",
    }  # fmt: skip
    (hostile,) = compare(side(put("a\x1b" + "b" * 400, uname="\u202e", mtime=1)), side(put("a\x1b" + "b" * 400)))
    assert hostile.path.startswith("a\\x1bbbb") and len(hostile.path) < 320
    assert hostile.where == "owner 0:0 (\\u202e:) / 0:0; time 1 / 0"
    assert compare(side(put("x", uname="n" * 900)), side(put("x")))[0].where[:600].startswith("owner 0:0 (nnn")


def test_causes_are_counted_the_most_frequent_first():
    found = compare(side(put("a", mtime=1), put("b", mtime=1, mode=1)), side(put("a"), put("b")))
    assert counted(found) == ["2 by time", "1 by mode"]


def test_members_of_a_tar_are_known_by_kind_target_owner_and_place():
    listed = side(
        put("/./a//b/./c", b"1", mode=0o600, uid=1, gid=2, uname="u", gname="g", mtime=7.5),
        put("a", type=tarfile.DIRTYPE), put("s", linkname="../t", **LINK), put("h", type=tarfile.LNKTYPE, linkname="a"),
        put("f", type=tarfile.FIFOTYPE), put("c", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        put("b", type=tarfile.BLKTYPE, devmajor=8, devminor=0), put("q", type=b"V"), put("a", b"22"), before=b"xyz",
    )  # fmt: skip
    nobody = (0, 0, "", "")
    assert list(listed.members) == ["a/b/c", "s", "h", "f", "c", "b", "q", "a"], (
        "the last of a name is what is unpacked"
    )
    found = [member._replace(offset=0) for member in listed.members.values()]
    assert found == [
        Member("a/b/c", "file", 0o600, (1, 2, "u", "g"), 7.5, 1, "", 0),
        Member("s", "symbolic link", 0o644, nobody, 0, 0, "../t", 0),
        Member("h", "hard link", 0o644, nobody, 0, 0, "a", 0),
        Member("f", "FIFO", 0o644, nobody, 0, 0, "", 0),
        Member("c", "character device", 0o644, nobody, 0, 0, "1:3", 0),
        Member("b", "block device", 0o644, nobody, 0, 0, "8:0", 0),
        Member("q", "of type b'V'", 0o644, nobody, 0, 0, "", 0),
        Member("a", "file", 0o644, nobody, 0, 2, "", 0),
    ]
    for name, data in (("a/b/c", b"1"), ("a", b"22")):
        with listed.open(listed.members[name]) as stream:
            assert stream.read() == data


def test_a_section_of_a_file_is_read_and_sought_as_a_file_of_its_own():
    section = Section(io.BytesIO(b"..0123456789.."), 2, 10)
    assert (section.tell(), section.read(3), section.tell(), section.read()) == (0, b"012", 3, b"3456789")
    assert (section.read(1), section.seek(0), section.read(None)) == (b"", 0, b"0123456789")
    assert (section.seek(-3, os.SEEK_END), section.read(2), section.seek(-1, os.SEEK_CUR), section.read(9)) == (
        7, b"78", 8, b"89",
    )  # fmt: skip
    assert (section.seek(12), section.read(), section.tell()) == (12, b"", 12)


def test_headers_of_a_tar_are_bounded_in_size_and_number(monkeypatch):
    monkeypatch.setattr(sides, "_MOST_HEADER_BYTES", 1024)
    long = "n" * 900
    assert list(side(put(long)).members) == [long]
    with pytest.raises(VerificationFailed, match="a header of a tar takes more than 1024 bytes"):
        side(put("n" * 1100))
    monkeypatch.setattr(sides, "_MOST_HEADER_BYTES", 1 << 20)
    with pytest.raises(VerificationFailed, match="a tar holds a path of 4097 characters"):
        side(put("n" * 4097))
    assert len(side(put("n" * 4096)).members) == 1
    monkeypatch.setattr(sides, "_MOST_READS", 3)
    with pytest.raises(VerificationFailed, match="a tar holds more than 3 headers"):
        side(*(put(str(number)) for number in range(4)))
    monkeypatch.undo()
    monkeypatch.setattr(sides, "MOST_MEMBERS", 3)
    assert len(side(*(put(str(number)) for number in range(3))).members) == 3
    with pytest.raises(VerificationFailed, match="a tar holds more than 3 members"):
        side(*(put(str(number)) for number in range(4)))


def test_a_file_that_does_not_fit_into_its_tar_is_refused_by_name():
    data = archive(put("a\x1b", bytes(512)))
    assert list(TarSide(io.BytesIO(data), 0, 1024, "x").members) == ["a\x1b"]
    with pytest.raises(VerificationFailed, match=r"^x: a\\x1b does not fit into the file"):
        TarSide(io.BytesIO(data), 0, 1023, "x")


def test_a_folder_is_its_paths_in_byte_order_with_no_time_and_no_owner(tmp_path: Path):
    for name, mode in (("b/run", 0o755), ("b/plain", 0o640), ("a", 0o600)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
        (tmp_path / name).chmod(mode)
    found = FolderSide(tmp_path)
    nobody = (0, 0, "", "")
    assert list(found.members.values()) == [
        Member("a", "file", 0, nobody, 0, 1, "", 0), Member("b", "folder", 0, nobody, 0, 0, "", 0),
        Member("b/plain", "file", 0, nobody, 0, 7, "", 0), Member("b/run", "file", 0o100, nobody, 0, 5, "", 0),
    ]  # fmt: skip
    with found.open(found.members["b/run"]) as stream:
        assert stream.read() == b"b/run"
