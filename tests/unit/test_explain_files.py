"""Why one file's contents differ: cause, place and doubt, whole, for every kind of file that is known."""

from __future__ import annotations

import io
import struct

import pytest

from repro.audit.explain import binary, causes
from repro.audit.explain.binary import OTHER_CODE, Sections, texts_at
from repro.audit.explain.contents import Place, places
from repro.audit.explain.files import UNCOMPILED, Difference, Looking, difference
from tests.planted_causes import npy, zipped
from tests.unit.test_explain import elf


def why(name: str, one: bytes, two: bytes, looking: Looking | None = None, utterances=None) -> Difference | None:
    return difference(name, io.BytesIO(one), io.BytesIO(two), looking or Looking(), utterances)


def shifted(one: int, two: int) -> str:
    return f"{one} and {two} bytes: behind the first difference nothing stands at the same place"


def ar(*members: tuple[bytes, bytes]) -> bytes:
    return b"!<arch>\n" + b"".join(
        b"%-16s%-12s%-6s%-6s%-8s%-10d`\n" % (name, b"1700000000", b"0", b"0", b"100644", len(data))
        + data + b"\n" * (len(data) % 2)
        for name, data in members
    )  # fmt: skip


def pyc(head=b"\xa7\r\r\n", mtime=b"\1\2\3\4", code=b"code" * 9) -> bytes:
    return head + bytes(4) + mtime + b"\5\6\7\x08" + code


LIB = ar((b"a.o/", b"xyz"), (b"b.o/", b"abcd"))
SECOND_HEADER = 8 + 60 + 4


def lib(at: int, data: bytes) -> bytes:
    return LIB[:at] + data + LIB[at + len(data) :]


def floats(*values: float) -> bytes:
    return npy(struct.pack(f"<{len(values)}f", *values))


FAR = struct.pack("<2f", 1, 2), struct.pack("<2f", 1, 2.0000002)


@pytest.mark.parametrize(
    ("name", "one", "two", "cause", "where", "doubt"),
    [
        ("lib.a", LIB, lib(24, b"2"), causes.TIME,
         "header of a member of the ar archive, byte 24: 31 37 30 30 30 30 30 30 / 32 37 30 30 30 30 30 30", ""),
        ("lib.a", LIB, lib(SECOND_HEADER + 28, b"7"), causes.OWNER,
         "header of a member of the ar archive, byte 100: 30 20 20 20 20 20 30 20 / 37 20 20 20 20 20 30 20", ""),
        ("lib.a", LIB, lib(SECOND_HEADER + 47, b"1"), causes.MODE,
         "header of a member of the ar archive, byte 119: 20 34 20 20 20 20 20 20 / 31 34 20 20 20 20 20 20", ""),
        ("lib.a", LIB, lib(SECOND_HEADER + 60, b"b"), causes.FOREIGN,
         "line 5 'abcd' / 'bbcd', byte 132: 61 62 63 64 / 62 62 63 64", ""),
        ("m.pyc", pyc(), pyc(mtime=b"\1\2\3\5"), causes.BYTE_CODE,
         "the time or hash of the source in its header, and nothing else; "
         "byte 11: 04 05 06 07 08 63 6f 64 / 05 05 06 07 08 63 6f 64", ""),
        ("m.pyc", pyc(), pyc(head=b"\xcb\r\r\n"), causes.BYTE_CODE,
         "made by another version of Python; byte 0: a7 0d 0d 0a 00 00 00 00 / cb 0d 0d 0a 00 00 00 00", ""),
        ("m.pyc", pyc(), pyc(mtime=b"\1\2\3\5", code=b"edoc" * 9), causes.BYTE_CODE,
         "the code itself; byte 11: 04 05 06 07 08 63 6f 64 / 05 05 06 07 08 65 64 6f", UNCOMPILED),
        ("m.pyc", pyc(), pyc(code=b"edoc" * 9), causes.BYTE_CODE,
         "the code itself; byte 16: 63 6f 64 65 63 6f 64 65 / 65 64 6f 63 65 64 6f 63", UNCOMPILED),
        ("a.gz", zipped(b"x\n", 1), zipped(b"x\n", 2), causes.COMPRESSION,
         "the same content inside; the gzip header, byte 4: 01 00 00 00 02 ff ab e0 / 02 00 00 00 02 ff ab e0", ""),
        ("a.gz", zipped(b"made 2026-01-02\n", 1), zipped(b"made 2026-01-03\n", 1), causes.TIME,
         "inside the gzip file, line 1 'made 2026-01-02' / 'made 2026-01-03', byte 14: 32 0a / 33 0a", ""),
        ("a.npy.gz", zipped(floats(1, 2), 1), zipped(floats(1, 2.0000002), 1), causes.FLOAT,
         "inside the gzip file, value 1: 2 and 2.00000024; 2 values, largest difference 2.38e-07, mean 1.19e-07; "
         "byte 132: 00 00 00 40 / 01 00 00 40", ""),
        ("a.gz.gz", zipped(zipped(b"x\n", 1), 1), zipped(zipped(b"x\n", 2), 1), causes.FOREIGN,
         "inside the gzip file, byte 4: 01 00 00 00 02 ff ab e0 / 02 00 00 00 02 ff ab e0", ""),
        ("a.gz", zipped(b"x\n", 1)[:-4], zipped(b"y\n", 1), causes.FOREIGN,
         "byte 11: e0 02 00 1f 08 ea 46 / e4 02 00 5e 39 f1 5f 02", shifted(18, 22)),
        ("prog", elf(b"\x90" * 32), elf(b"\x90" * 31 + b"\xcc"), causes.FOREIGN,
         "section .text, byte 95: 90 01 01 01 01 01 01 01 / cc 01 01 01 01 01 01 01", ""),
        ("prog", elf(b"\x90" * 32), elf(b"\x90" * 32, b"\2" * 20), causes.RANDOM,
         "section .note.gnu.build-id, byte 96: 01 01 01 01 01 01 01 01 / 02 02 02 02 02 02 02 02", ""),
        ("prog", elf(b"\0made 2026-01-02\0"), elf(b"\0made 2026-01-03\0", b"\2" * 20), causes.TIME,
         "section .text, byte 79: 32 00 01 01 01 01 01 01 / 33 00 02 02 02 02 02 02", ""),
        ("prog", elf(b"\x90" * 32), elf(b"\x90" * 32)[:-1] + b"\1", causes.FOREIGN,
         "no section: headers or padding, byte 407: 00 / 01", ""),
        ("prog", elf(b"\0/build/one/x.c\0\0"), elf(b"\0/home/elsewhere/x.c\0\0", b"\2" * 20), causes.PATH,
         "section .text, byte 2 of it: '/build/one/x.c' / '/home/elsewhere/x.c'", shifted(393, 398)),
        ("prog", elf(b"\x90" * 32), elf(b"\x90" * 40), causes.FOREIGN,
         "section .text, byte 32 of it: the end / 90 90 90 90 90 90 90 90", shifted(408, 416)),
        ("prog", elf(b"\x90" * 32), elf(b"\x90" * 32) + b"tail", causes.FOREIGN,
         "byte 408: the end / 74 61 69 6c", shifted(408, 412)),
        ("data", b"\0\1\2\3", b"\0\1\2", causes.FOREIGN, "byte 3: 03 / the end", shifted(4, 3)),
        ("data", b"\0made 2026-01-02\0\1", b"\0made 2026-01-03\0\1\2", causes.TIME,
         "byte 15: 32 00 01 / 33 00 01 02", shifted(18, 19)),
        ("text", b"t 10:17\n", b"t 10:18\n", causes.TIME, "line 1 't 10:17' / 't 10:18', byte 6: 37 0a / 38 0a", ""),
        ("text", "é".encode(), b"\xe8", causes.FOREIGN, "byte 0: c3 a9 / e8", ""),
        ("w.npy", floats(1, 2), floats(1, 3), causes.FOREIGN,
         "value 1: 2 and 3; 2 values, largest difference 1, mean 0.5; byte 134: 00 40 / 40 40", ""),
        ("w.npy", b"no array\0", b"no array\1", causes.FOREIGN, "byte 8: 00 / 01", ""),
        ("cmvn.txt", b"1.0 2.0\n", b"1.0 2.1\n", causes.FOREIGN,
         "value 1: 2 and 2.1; 2 values, largest difference 0.0476, mean 0.0238; byte 6: 30 0a / 31 0a", ""),
        ("compare.json", b'{"a": 1.0}', b'{"a": 1.1}', causes.FOREIGN,
         "value 0: 1 and 1.1; 1 values, largest difference 0.1, mean 0.1; byte 8: 30 7d / 31 7d", ""),
        ("w.pt", bytes(8) + FAR[0], bytes(8) + FAR[1], causes.FLOAT, "byte 12: 00 00 00 40 / 01 00 00 40", ""),
        ("w.dat", bytes(8) + FAR[0], bytes(8) + FAR[1], causes.FOREIGN, "byte 12: 00 00 00 40 / 01 00 00 40", ""),
        ("w.pth", bytes(8) + struct.pack("<d", 1 / 3), bytes(8) + struct.pack("<d", 1 / 3 + 1e-10), causes.FLOAT,
         "byte 8: 55 55 55 55 55 55 d5 3f / 35 d2 70 55 55 55 d5 3f", ""),
        ("w.pt", bytes(8) + struct.pack("<f", 1), bytes(8) + struct.pack("<f", 3), causes.FOREIGN,
         "byte 10: 80 3f / 40 40", ""),
    ],
)  # fmt: skip
def test_a_difference_is_told_with_cause_place_and_doubt(name, one, two, cause, where, doubt):
    assert why(name, one, two) == Difference((cause,), where, doubt)


def test_equal_contents_are_no_difference():
    assert why("a.pyc", pyc(), pyc()) is None


def test_several_causes_of_one_file_stand_in_the_order_of_the_alphabet():
    found = why("data", b"\0of 10:17\0LANG=C\0", b"\0of 10:18\0LANG=D\0")
    assert found == Difference(("locale", "time"), "byte 8: 37 00 4c 41 4e 47 3d 43 / 38 00 4c 41 4e 47 3d 44")


def test_only_so_many_places_are_looked_at_and_that_is_a_doubt():
    pieces = [b"\0".join(b"%04d-01-02" % (year + shift) for year in range(64)) for shift in (1, 2)]
    doubt = "the first 64 differing places alone were looked at"
    assert why("data", b"\0" + pieces[0], b"\0" + pieces[1]).doubt == doubt
    assert why("data", b"\0" + pieces[0][:-11], b"\0" + pieces[1][:-11]).doubt == ""
    code = elf(b"\0" + pieces[0] + b"\0"), elf(b"\0" + pieces[1] + b"\0")
    assert why("program", *code) == Difference(
        (causes.TIME,), "section .text, byte 68: 31 2d 30 31 2d 30 32 00 / 32 2d 30 31 2d 30 32 00", doubt
    )


def test_a_text_with_a_zero_byte_is_no_text():
    assert why("t", b"at 10:17\n\0a", b"at 10:18\n\0a").where == "byte 7: 37 0a 00 61 / 38 0a 00 61"
    assert why("t", b"at 10:17\n", b"at 10:18\n\0").causes == (causes.TIME,)  # by what stands there


def test_no_more_is_inflated_than_a_comparison_may_look_into():
    one, two = zipped(b"made 2026-01-02\n", 1), zipped(b"made 2026-01-03\n", 1)
    looking = Looking(17)  # the two contents take 32 bytes
    assert why("a.gz", one, two, looking).where.startswith("inside the gzip file, line 1")
    for spent in (looking, Looking(16)):
        found = why("a.gz", one, two, spent)
        assert found.causes == (causes.FOREIGN,) and found.where.startswith("byte ")
    assert Looking(0).inflated(io.BytesIO(one)) is None
    assert Looking(1).inflated(io.BytesIO(one)) == b"made 2026-01-02\n"
    spent = Looking(32 << 20)
    assert spent.inflated(io.BytesIO(b"no gzip")) is None  # as costly as the largest that is looked into
    assert spent.inflated(io.BytesIO(one)) is None


@pytest.mark.parametrize(
    ("data", "most", "expected"),
    [
        (zipped(b"12345678", 1), 8, b"12345678"),
        (zipped(b"12345678", 1), 7, None),
        (zipped(b"12345678", 1)[:-9], 8, None),
        (zipped(b"12345678", 1)[:-1] + b"\xff", 8, None),
        (b"\x1f\x8c" + zipped(b"12345678", 1)[2:], 8, None),
        (b"", 8, None),
    ],
)
def test_a_gzip_file_is_inflated_whole_or_not_at_all(data: bytes, most: int, expected: bytes | None):
    stream = io.BytesIO(data)
    stream.read(3)
    assert binary.inflated(stream, most) == expected


def test_a_large_gzip_file_is_inflated_piece_by_piece():
    content = bytes(range(256)) * 3000
    assert binary.inflated(io.BytesIO(zipped(content, 1, 0))) == content  # level 0: more than a piece, stored as it is


def program(wide: bool, order: str, names: bytes = b"\0.data\0.bss\0.names\0", count: int = 4) -> bytes:
    """An ELF file with sections .data (bytes 64 to 72), .bss (of no bytes) and .names."""
    head = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    table, entry = 72 + len(names), 64 if wide else 40
    if wide:
        head += struct.pack(f"{order}HHIQQQIHHHHHH", 3, 62, 1, 64, 0, table, 0, 64, 0, 0, entry, count, 3)
    else:
        head += struct.pack(f"{order}HHIIIIIHHHHHH", 3, 3, 1, 52, 0, table, 0, 52, 0, 0, entry, count, 3)
    layout = f"{order}IIQQQQ" if wide else f"{order}IIIIII"
    rows = [(0, 0, 0, 0, 0, 0), (1, 1, 0, 0, 64, 8), (7, 8, 0, 0, 64, 99), (12, 3, 0, 0, 72, len(names))]
    return (
        head.ljust(64, b"\0")
        + b"contents"
        + names
        + b"".join(struct.pack(layout, *r).ljust(entry, b"\0") for r in rows)
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("wide", [True, False])
def test_sections_of_elf_files_of_every_width_and_byte_order_are_known(wide: bool, order: str):
    sections = Sections(io.BytesIO(program(wide, order)))
    assert sections
    assert [sections.at(offset) for offset in (63, 64, 71, 72, 90, 91)] == [
        "",
        ".data",
        ".data",
        ".names",
        ".names",
        "",
    ]
    named = sections.named()
    assert {name: section.read() for name, section in named.items()} == {
        ".data": b"contents", ".names": b"\0.data\0.bss\0.names\0",
    }  # fmt: skip


WIDE, NARROW = program(True, "<"), program(False, "<")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        WIDE[:80],
        b"\x7fELF\3" + WIDE[5:],
        b"\x7fELF\2\3" + WIDE[6:],
        b"\x7fELG" + WIDE[4:],
        program(True, "<", count=4097),
        program(True, "<", names=b"no end of a name"),
        NARROW[:46] + b"\1" + NARROW[47:],
    ],
)
def test_what_does_not_fit_is_no_elf_file(data: bytes):
    sections = Sections(io.BytesIO(data))
    assert not sections and sections.named() == {} and sections.at(64) == ""


def test_sections_that_follow_from_the_rest_are_two():
    names = (".note.gnu.build-id", ".gnu_debuglink", ".text", "")
    assert [binary.is_identity(name) for name in names] == [True, True, False, False]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (7, ""), (8, ""), (23, ""), (24, causes.TIME), (35, causes.TIME), (36, causes.OWNER), (47, causes.OWNER),
        (48, causes.MODE), (55, causes.MODE), (56, ""), (67, ""), (68, ""), (SECOND_HEADER + 15, ""),
        (SECOND_HEADER + 16, causes.TIME), (SECOND_HEADER + 60, ""), (len(LIB) + 20, ""),
    ],
)  # fmt: skip
def test_each_byte_of_an_archive_s_headers_belongs_to_a_field(at: int, expected: str):
    assert binary.cause_in_archive(LIB[:64], at, io.BytesIO(LIB)) == expected


def test_what_only_begins_as_an_archive_has_no_fields():
    assert binary.cause_in_archive(b"!<arch>?", 24, io.BytesIO(LIB)) == ""
    odd = LIB[:56] + b"x" + LIB[57:]
    assert binary.cause_in_archive(odd[:64], 24, io.BytesIO(odd)) == ""


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (pyc(), pyc(head=b"\xcb\r\r\n"), "made by another version of Python"),
        (pyc(), pyc(mtime=b"abcd"), "the time or hash of the source in its header, and nothing else"),
        (pyc(), pyc(code=b"other"), OTHER_CODE),
        (pyc(), pyc(mtime=b"abcd", code=b"other"), OTHER_CODE),
    ],
)
def test_byte_code_is_another_python_s_another_source_s_or_other_code(one: bytes, two: bytes, expected: str):
    assert binary.cause_in_byte_code(one, two) == expected


def test_byte_code_of_more_than_a_text_is_other_code_without_being_read():
    large = bytes(4 << 20)
    found = why("m.pyc", pyc() + large, pyc(mtime=b"abcd") + large)
    assert found == Difference(
        (causes.BYTE_CODE,), f"{OTHER_CODE}; byte 8: 01 02 03 04 05 06 07 08 / 61 62 63 64 05 06 07 08", UNCOMPILED
    )


def test_the_text_at_a_place_is_what_is_printable_before_and_behind_it():
    assert texts_at(Place(9, 4, b"\0abcdef\0gh", b"\0ab\tX\xe9\0")) == ("abcdef", "ab\tX\xe9")
    assert texts_at(Place(9, 2, b"ab", b"\x01\x02\x03")) == ("ab", "")


def test_places_are_the_first_byte_of_each_text_with_what_stands_around_it():
    one = bytes(300) + b"first" + bytes(300) + b"second" + bytes(10)
    two = one.replace(b"first", b"fIRst").replace(b"second", b"seconD")
    found = places(io.BytesIO(one), io.BytesIO(two))
    assert [(place.offset, place.before) for place in found] == [(301, 256), (610, 256)]
    assert [place.bytes_shown() for place in found] == [
        "69 72 73 74 00 00 00 00 / 49 52 73 74 00 00 00 00", "64 00 00 00 00 00 00 00 / 44 00 00 00 00 00 00 00",
    ]  # fmt: skip
    assert (found[0].one, found[0].two) == (one[45:557], two[45:557])


@pytest.mark.parametrize("at", [(1 << 20) - 1, 1 << 20, (2 << 20) + 5])
def test_places_are_found_in_every_piece_that_is_read(at: int):
    one = bytes((2 << 20) + 10)
    two = one[:at] + b"\1" + one[at + 1 :]
    assert [place.offset for place in places(io.BytesIO(one), io.BytesIO(two))] == [at]
    both = two[:5] + b"\1" + two[6:]
    assert [place.offset for place in places(io.BytesIO(one), io.BytesIO(both))] == [5, at]
    ended = io.BytesIO(one), io.BytesIO(one[:at])
    assert places(*ended)[0].offset == at


def test_a_value_of_a_batch_is_told_by_its_utterance():
    one, two = (npy(struct.pack("<4f", 1, 2, 3, value)) for value in (4, 5))
    shape = b"'shape': (4,), }", b"'shape': (2, 1, 2), }"
    one, two = (data.replace(shape[0] + b" " * 5, shape[1]) for data in (one, two))
    found = why("result/inputs_0_0.npy", one, two, utterances={(0, 0): "spoken"})
    assert found.where.startswith("utterance spoken, frame 1, class 1: 4 and 5; ")
