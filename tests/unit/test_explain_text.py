"""What makes two lines and two texts differ: every cause by its patterns, and the words that a person is told."""

from __future__ import annotations

import pytest

from repro.audit.explain import causes
from repro.audit.explain.text import causes_of_line, causes_of_text


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ("2026-01-02", "2026-01-03T10:00:00Z", {causes.TIME}),
        ("2026-01-02 10:00:00 +01:00", "2026-01-02 11:00:00 +0200", {causes.TIME}),
        ("at 10:17", "at 9:03:22.5", {causes.TIME}),
        ("Sat, 28 Nov 2026 10:00:00 +0000", "Sun, 29 Nov 2026 11:00:00 +0100", {causes.TIME}),
        ("Sat Nov 28 10:17:57 UTC 2026", "Sun Nov 29 10:17:58 UTC 2026", {causes.TIME}),
        ("t=1700000000.25", "t=1800000000", {causes.TIME}),
        ("LANG=C", "LANG=de_DE.UTF-8", {causes.LOCALE}),
        ("C.utf8", "en_US@euro", {causes.LOCALE}),
        ("ISO-8859-1", "ANSI_X3.4-1968", {causes.LOCALE}),
        ("1,5 s", "1.5 s", {causes.LOCALE}),
        ("0x7f00aa", "0xdeadbeef", {causes.RANDOM}),
        ("tmpab12cd", "tmp.zz99yy", {causes.RANDOM}),
        ("ccAb12Cd.o", "ccZz99Yy.o", {causes.RANDOM}),
        ("pip-build-env-a1B2c3d4", "pip-build-env-zzZ2c3d4", {causes.RANDOM}),
        ("ABCDEF0123456789", "0123456789ABCDEF", {causes.RANDOM}),
        ("lib-1.2.3.so", "lib-1.2.4.so", {causes.VERSION}),
        ("2:1.0-1", "3:1.0-1", {causes.VERSION}),
        ("in /a/b", "in /c/d/e/", {causes.PATH}),
        ("1.5e-05", "1.50001e-05", {causes.FLOAT}),
        ("0.1234 on 2026-01-02", "0.12341 on 2026-01-03", {causes.FLOAT, causes.TIME}),
        ("0.0000 0.1234", "0.0000 0.12341", {causes.FLOAT}),
        ("/a/b of 10:17", "/c/d of 10:18", {causes.PATH, causes.TIME}),
        ("LANG=C of 10:17", "LANG=POSIX of 10:18", {causes.LOCALE, causes.TIME}),
    ],
)
def test_a_line_s_causes_are_those_that_together_explain_it(one: str, two: str, expected: set[str]):
    assert causes_of_line(one, two) == causes_of_line(two, one) == expected


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("the same of 10:17", "the same of 10:17"),
        ("yes", "no"),
        ("10:17 yes", "10:18 no"),  # a known cause beside an unknown one explains nothing
        ("/a", "/b"),
        ("0.1234 and 0.5678", "0.1234"),
        ("ccc", "ccd"),  # a word of small letters is no compiler's temporary name
        ("1,5 yes", "1.5 no"),
        ("10:17" + "x" * 65532, "10:18" + "x" * 65532),
    ],
)
def test_what_nothing_explains_has_no_cause(one: str, two: str):
    assert causes_of_line(one, two) == causes_of_line(two, one) == set()


def test_the_longest_line_that_is_looked_at_has_65536_characters():
    assert causes_of_line("10:17" + "x" * 65531, "10:18" + "x" * 65531) == {causes.TIME}


def test_numbers_are_the_same_up_to_a_thousandth():
    assert causes_of_line("x 1000.0000", "x 1000.9999") == {causes.FLOAT}
    assert causes.FLOAT not in causes_of_line("x 1000.0000", "x 1001.5000")
    assert causes.FLOAT not in causes_of_line("x 0.00000000 2.5000", "x 0.00000001 2.5000")


@pytest.mark.parametrize(
    ("one", "two", "found", "place"),
    [
        (b"a\nb\n", b"a\nc\n", set(), "line 2 'b' / 'c'"),
        (b"a\n", b"a\nb\n", set(), "line 2"),
        (b"a\nb\n", b"a\n", set(), "line 2"),
        (b"b\na\n", b"a\nb\n", {causes.ORDER}, "line 1 'b' / 'a': the same lines in another order"),
        (b"c\na\nb\n", b"b\nc\na\n", {causes.ORDER}, "line 1 'c' / 'b': the same lines in another order"),
        (b"a\nB\nc\n", b"B\na\nc\n", {causes.LOCALE}, "line 1 'a' / 'B': the same lines in another order"),
        (b"-b\na\n", b"a\n-b\n", {causes.LOCALE}, "line 1 '-b' / 'a': the same lines in another order"),
        (b"a\nb\n-c\n", b"-c\nb\na\n", {causes.ORDER}, "line 1 'a' / '-c': the same lines in another order"),
        (b"a\r\nb\r\n", b"a\nb\n", {causes.LOCALE}, "other line ends"),
        ("é\n".encode(), b"\xe9\n", {causes.LOCALE}, "another encoding of the same text"),
        ("é\n".encode(), b"\xe8\n", set(), ""),
        (b"\xe9\n", b"\xe8\n", set(), ""),
        (b"a 2026-01-02\nLANG=C\n", b"a 2026-01-03\nLANG=POSIX\n", {causes.TIME, causes.LOCALE},
         "line 1 'a 2026-01-02' / 'a 2026-01-03'"),
        (b"s\na 2026-01-02\ns\nyes\n", b"s\na 2026-01-03\ns\nno\n", set(), "line 2 'a 2026-01-02' / 'a 2026-01-03'"),
        (b"x" * 100 + b"1" + b"y" * 100, b"x" * 100 + b"2" + b"y" * 100, set(),
         f"line 1 '{'x' * 16}1{'y' * 31}' / '{'x' * 16}2{'y' * 31}'"),
        (b"x" * 100, b"x" * 100 + b"yz", set(), f"line 1 '{'x' * 16}' / '{'x' * 16}yz'"),
        (b"1" * 9 + b"a", b"1" * 9 + b"b", set(), "line 1 '111111111a' / '111111111b'"),
    ],
)  # fmt: skip
def test_texts_are_held_line_by_line_and_the_first_difference_is_shown(one: bytes, two: bytes, found, place: str):
    assert causes_of_text(one, two) == (found, place)


def test_more_than_20000_differing_lines_are_counted_and_not_explained():
    most = [b"%d 10:17\n" % n for n in range(20_000)]
    other = [line.replace(b"10:17", b"10:18") for line in most]
    place = "line 1 '0 10:17' / '0 10:18'"
    assert causes_of_text(b"".join(most), b"".join(other)) == ({causes.TIME}, place)
    more = b"".join([*most, b"10:17\n"]), b"".join([*other, b"10:18\n"])
    assert causes_of_text(*more) == (set(), f"{place}: 20001 lines differ")
