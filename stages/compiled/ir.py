"""LLVM IR as text, of arithmetic on vectors.

No operation carries a flag that would let the compiler fuse, reorder or approximate it: what is written is computed.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Iterator, Sequence


class Loop:
    """A loop that is being written: its counter, and what it carries from one round to the next."""

    def __init__(self, index: str, carried: list[str]) -> None:
        self.index = index
        self.carried = carried
        self.results = list(carried)

    def carry(self, values: Sequence[str]) -> None:
        """What the next round gets in place of `carried`, and what follows the loop finds in `results`."""
        self.results = list(values)


class Vectors:
    """IR of vectors of any kind of number, with loops; a value is its name. Counters and indices are i64."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self._lines: list[str] = []
        self._number = 0
        self._block = "entry"

    def add(self, text: str) -> None:
        """Append lines as they are."""
        self._lines.extend(text.split("\n"))

    def begin(self, head: str) -> None:
        """Begin a function: `head` is all of its first line before the brace."""
        self._block = "entry"
        self.add(head + " {\nentry:")

    def end(self) -> None:
        """End a function."""
        self.add("  ret void\n}")

    def value(self, expression: str) -> str:
        """Append `expression` with a fresh name, which is returned."""
        self._number += 1
        name = "%v{}".format(self._number)
        self._lines.append("  {} = {}".format(name, expression))
        return name

    def vector(self, kind: str) -> str:
        """The type of a vector of that kind."""
        return "<{} x {}>".format(self.lanes, kind)

    def apply(self, operation: str, kind: str, left: str, right: str) -> str:
        """An operation of two vectors."""
        return self.value("{} {} {}, {}".format(operation, self.vector(kind), left, right))

    def cast(self, operation: str, value: str, old: str, new: str) -> str:
        """A conversion of a vector."""
        return self.value("{} {} {} to {}".format(operation, self.vector(old), value, self.vector(new)))

    def call(self, function: str, kind: str, *values: str) -> str:
        """A function of LLVM's of vectors, llvm.sqrt say; it must be declared."""
        name = "@{}.v{}{}".format(function, self.lanes, {"double": "f64", "float": "f32"}[kind])
        parts = ", ".join("{} {}".format(self.vector(kind), value) for value in values)
        return self.value("call {} {}({})".format(self.vector(kind), name, parts))

    def splat(self, kind: str, number: int | str) -> str:
        """A constant in every lane."""
        return "<{}>".format(", ".join(["{} {}".format(kind, number)] * self.lanes))

    def double(self, number: float) -> str:
        """A float64 constant in every lane."""
        return self.splat("double", "0x{:016X}".format(struct.unpack("<Q", struct.pack("<d", number))[0]))

    def spread(self, scalar: str, kind: str) -> str:
        """A number in every lane."""
        vector = self.vector(kind)
        first = self.value("insertelement {} poison, {} {}, i32 0".format(vector, kind, scalar))
        return self.value(
            "shufflevector {0} {1}, {0} poison, <{2} x i32> zeroinitializer".format(vector, first, self.lanes)
        )

    def index(self, operation: str, left: int | str, right: int | str) -> str:
        """Arithmetic of indices."""
        return self.value("{} i64 {}, {}".format(operation, left, right))

    def compare(self, relation: str, left: int | str, right: int | str) -> str:
        """Whether a relation of two indices holds, 'ult' for less say: an i1."""
        return self.value("icmp {} i64 {}, {}".format(relation, left, right))

    def select(self, condition: str, holds: int | str, fails: int | str, kind: str = "i64") -> str:
        """One of two scalars."""
        return self.value("select i1 {0}, {1} {2}, {1} {3}".format(condition, kind, holds, fails))

    def at(self, pointer: str, index: int | str, kind: str) -> str:
        """The address of element `index` of an array of `kind`, which may be a vector's type."""
        return self.value("getelementptr {}, ptr {}, i64 {}".format(kind, pointer, index))

    def load(self, pointer: str, index: int | str, kind: str, align: int) -> str:
        """Element `index` of an array."""
        return self.value("load {}, ptr {}, align {}".format(kind, self.at(pointer, index, kind), align))

    def store(self, value: str, pointer: str, index: int | str, kind: str, align: int) -> None:
        """Set element `index` of an array."""
        place = self.at(pointer, index, kind)
        self._lines.append("  store {} {}, ptr {}, align {}".format(kind, value, place, align))

    @contextlib.contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Write what happens only where an i1 holds; no value of it can be used after it."""
        self._number += 1
        name = "c{}".format(self._number)
        self.add("  br i1 {1}, label %{0}.then, label %{0}.end\n{0}.then:".format(name, condition))
        self._block = name + ".then"
        yield
        self.add("  br label %{0}.end\n{0}.end:".format(name))
        self._block = name + ".end"

    @contextlib.contextmanager
    def loop(
        self, stop: int | str, start: int | str = 0, step: int | str = 1, carried: Sequence[str] = (), kind: str = ""
    ) -> Iterator[Loop]:
        """Write a loop of at least one round: the counter goes from `start` as long as it is below `stop`.

        Args:
            carried: values of type `kind` that the first round begins with.
        """
        self._number += 1
        name = "l{}".format(self._number)
        before, loop = self._block, Loop("%{}".format(name), ["%{}.{}".format(name, n) for n in range(len(carried))])
        self.add("  br label %{0}.body\n{0}.body:".format(name))
        self.add("  %{0} = phi i64 [ {1}, %{2} ], [ %{0}.next, %{0}.latch ]".format(name, start, before))
        places = [len(self._lines) + n for n in range(len(carried))]
        self._lines.extend("" for _ in carried)
        self._block = name + ".body"
        yield loop
        for place, new, first, last in zip(places, loop.carried, carried, loop.results):
            self._lines[place] = "  {0} = phi {1} [ {2}, %{3} ], [ {4}, %{5}.latch ]".format(
                new, kind, first, before, last, name
            )
        self.add("  br label %{0}.latch\n{0}.latch:\n  %{0}.next = add i64 %{0}, {1}".format(name, step))
        self.add("  %{0}.more = icmp ult i64 %{0}.next, {1}".format(name, stop))
        self.add("  br i1 %{0}.more, label %{0}.body, label %{0}.end\n{0}.end:".format(name))
        self._block = name + ".end"

    def text(self) -> str:
        """All lines."""
        return "\n".join(self._lines)


class Floats(Vectors):
    """IR of vectors of float32, whose rows lie anywhere in memory: their places are counted in values.

    Args:
        lanes: of a vector.
        fused: the processor has a fused multiply-add.
    """

    def __init__(self, lanes: int, *, fused: bool = True) -> None:
        super().__init__(lanes)
        self.floats = self.vector("float")
        self._fused = fused

    def part(self, pointer: str, index: int | str) -> str:
        """The vector from value `index` of an array on."""
        return self.value("load {}, ptr {}, align 4".format(self.floats, self.at(pointer, index, "float")))

    def put(self, value: str, pointer: str, index: int | str) -> None:
        """Store a vector from value `index` of an array on."""
        self.add("  store {} {}, ptr {}, align 4".format(self.floats, value, self.at(pointer, index, "float")))

    def prefetch(self, pointer: str, nearness: int) -> None:
        """Ask for a line of the cache: nearness 3 for the first level, 2 for the second."""
        self.add("  call void @llvm.prefetch.p0(ptr {}, i32 0, i32 {}, i32 1)".format(pointer, nearness))

    def constant(self, number: float) -> str:
        """A float32 constant in every lane: IR spells it by the bits of the double of the same value."""
        rounded = struct.unpack("<f", struct.pack("<f", number))[0]
        return self.splat("float", "0x{:016X}".format(struct.unpack("<Q", struct.pack("<d", rounded))[0]))

    def plus(self, left: str, right: str) -> str:
        return self.apply("fadd", "float", left, right)

    def minus(self, left: str, right: str) -> str:
        return self.apply("fsub", "float", left, right)

    def times(self, left: str, right: str) -> str:
        return self.apply("fmul", "float", left, right)

    def over(self, left: str, right: str) -> str:
        return self.apply("fdiv", "float", left, right)

    def fma(self, a: str, b: str, c: str) -> str:
        """a * b + c, rounded once."""
        return self.sum_of(self.add_products([self.sum_from(c)], a, [b])[0])

    @property
    def sums(self) -> str:
        """The type of sums of products, a vector of float32 values in the form in which `add_products` has them."""
        return self.vector("float" if self._fused else "double")

    def sum_from(self, value: str) -> str:
        """A sum that is so far only its start value."""
        return value if self._fused else self.cast("fpext", value, "float", "double")

    def sum_of(self, total: str) -> str:
        """The float32 values of a sum."""
        return total if self._fused else self.cast("fptrunc", total, "double", "float")

    def add_products(self, totals: Sequence[str], a: str, factors: Sequence[str]) -> list[str]:
        """Of each total and each b of `factors` total + a * b, rounded once.

        Where no instruction does that, in float64; the module needs `fma_by_hand` then. LLVM would call the C library's
        fmaf for each lane, which takes many times as long. In float64 the product is exact, and its sum with the total,
        rounded to float64 and then to float32, is the one right rounding, unless float64's lies just half way between
        two float32, where what the first rounding cut off decides. Where a lane may be so, which is one in 2^29, or is
        not in the range of float32's normal numbers, all are done anew.
        """
        if self._fused:
            return [self.call("llvm.fma", "float", a, b, total) for total, b in zip(totals, factors)]
        x = self.sum_from(a)
        near: list[str] = []
        doubtful: list[str] = []
        for total, b in zip(totals, factors):
            result = self.apply("fadd", "double", self.apply("fmul", "double", x, self.sum_from(b)), total)
            doubtful.append(self._doubtful(result))
            # What is not half way is rounded to float32, in place: the last 29 bits are those that it has no room for.
            bits = self.cast("bitcast", result, "double", "i64")
            up = self.apply("add", "i64", bits, self.splat("i64", 1 << 28))
            near.append(
                self.cast("bitcast", self.apply("and", "i64", up, self.splat("i64", -1 << 29)), "i64", "double")
            )
        self._number += 1
        name, before = "f{}".format(self._number), self._block
        self.add("  br i1 {1}, label %{0}.anew, label %{0}.end, !prof !0\n{0}.anew:".format(name, self._any(doubtful)))
        anew = []
        for total, b in zip(totals, factors):
            parts = ", ".join("{} {}".format(self.floats, value) for value in (a, b, self.sum_of(total)))
            anew.append(self.sum_from(self.value("call {} @fma_by_hand({})".format(self.floats, parts))))
        self.add("  br label %{0}.end\n{0}.end:".format(name))
        self._block = name + ".end"
        return [
            self.value("phi {} [ {}, %{}.anew ], [ {}, %{} ]".format(self.sums, late, name, early, before))
            for late, early in zip(anew, near)
        ]

    def _doubtful(self, result: str) -> str:
        """Where a float64 is half way between two float32, or zero, or no normal float32: a half is all ones there.

        One comparison asks all, of the halves of 32 bits. The low one: its last 29 bits are 1 and then zeros. The high
        one, without the sign: below that of 2^-126, or so near to that of 2^128 that rounding might lead there.
        """
        halves = Vectors(2 * self.lanes)
        # (low, high): what is kept of a half; what is added, so that all in question lies above the limit; the limit.
        mask, shift, limit = (
            "<{}>".format(", ".join(["i32 {}, i32 {}".format(*pair)] * self.lanes))
            for pair in ((0x1FFFFFFF, 0x7FFFFFFF), (0x6FFFFFFF, 0x47F00000), (0x7FFFFFFE, 0x8FDFFFFE - 2**32))
        )
        kind = halves.vector("i32")
        both = self.value("bitcast {} {} to {}".format(self.vector("double"), result, kind))
        shifted = self.value(
            "add {0} {1}, {2}".format(kind, self.value("and {} {}, {}".format(kind, both, mask)), shift)
        )
        above = self.value("icmp sgt {} {}, {}".format(kind, shifted, limit))
        return self.value("sext {} {} to {}".format(halves.vector("i1"), above, kind))

    def _any(self, doubtful: Sequence[str]) -> str:
        """Whether `_doubtful` found anything in any of these: an i1."""
        found, words = doubtful[0], 2 * self.lanes
        for other in doubtful[1:]:
            found = self.value("or <{} x i32> {}, {}".format(words, found, other))
        bits = self.value("bitcast <{0} x i32> {1} to i{2}".format(words, found, 32 * words))
        return self.value("icmp ne i{} {}, 0".format(32 * words, bits))

    def choose(self, relation: str, left: str, right: str, otherwise: str) -> str:
        """`right` in the lanes where `left` stands in that relation to it, 'ogt' for greater say; else `otherwise`."""
        holds = self.apply("fcmp " + relation, "float", left, right)
        return self.value(
            "select <{0} x i1> {1}, {2} {3}, {2} {4}".format(self.lanes, holds, self.floats, right, otherwise)
        )


def fma_by_hand(lanes: int) -> str:
    """IR of what `Floats.add_products` calls where its two roundings may not be as one: the right one in any lane.

    The sum is rounded to odd (to the neighbour whose last bit is 1, if it is not exact), and so the second rounding,
    to float32, gives what one alone would: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE
    Transactions on Computers 57(4), 2008. The error of the sum is Knuth's TwoSum.
    """
    text = Floats(lanes)
    text.add('!0 = !{{!"branch_weights", i32 1, i32 {}}}'.format(2**29 // lanes))
    names = ("%a", "%b", "%c")
    arguments = ", ".join("{} {}".format(text.floats, name) for name in names)
    text.begin("define internal {} @fma_by_hand({}) noinline cold nounwind".format(text.floats, arguments))
    x, y, z = (text.cast("fpext", name, "float", "double") for name in names)
    product = text.apply("fmul", "double", x, y)
    total = text.apply("fadd", "double", product, z)
    other = text.apply("fsub", "double", total, product)
    error = text.apply("fadd", "double",
                       text.apply("fsub", "double", product, text.apply("fsub", "double", total, other)),
                       text.apply("fsub", "double", z, other))  # fmt: skip
    inexact = text.cast("sext", text.apply("fcmp one", "double", error, text.double(0.0)), "i1", "i64")
    bits, sign = (text.cast("bitcast", value, "double", "i64") for value in (total, error))
    # Where the error's sign is the other one, the sum was rounded away from zero: -1 leads back.
    away = text.apply("ashr", "i64", text.apply("xor", "i64", bits, sign), text.splat("i64", 63))
    cut = text.apply("add", "i64", bits, text.apply("and", "i64", away, inexact))
    odd = text.apply("or", "i64", cut, text.apply("lshr", "i64", inexact, text.splat("i64", 63)))
    result = text.cast("fptrunc", text.cast("bitcast", odd, "i64", "double"), "double", "float")
    text.add("  ret {} {}\n}}".format(text.floats, result))
    return text.text()


LOG2_E = 1.4426950408889634
_POWER_LIMIT = 40.0  # 2 to this, times itself twice, is still a float32: what is beyond changes no gate's value
# 2^r = 1 + r (c1 + r (c2 + ...)) for |r| <= 1/2, within 9.4e-8: the best of this form with float32 coefficients.
_POWER_TERMS = (1.3269407209e-3, 9.6712941304e-3, 5.5507112294e-2, 2.4022246897e-1, 6.9314700365e-1)


def power_of_two(text: Floats, x: str, scale: float) -> str:
    """2 to the x * scale, |x * scale| cut to 40: relative error 1.8e-7 at 1.4, 5.2e-7 at 40.

    x * scale is rounded once, as what is left of it beside the nearest whole number; the error that grows is that of
    the float32 `scale`. A sigmoid made of it is within 4e-8, since it is flat where the error is large.
    """
    bound = _POWER_LIMIT / abs(scale)
    for relation, number in (("ogt", bound), ("olt", -bound)):
        x = text.choose(relation, x, text.constant(number), x)
    # Adding 1.5 * 2^23 rounds to a whole number, in the low bits of the sum.
    magic, factor = text.constant(12582912.0), text.constant(scale)
    shifted = text.fma(x, factor, magic)
    rest = text.fma(x, factor, text.minus(magic, shifted))
    result = text.constant(_POWER_TERMS[0])
    for term in _POWER_TERMS[1:] + (1.0,):
        result = text.fma(result, rest, text.constant(term))
    power = text.apply("shl", "i32", text.cast("bitcast", shifted, "float", "i32"), text.splat("i32", 23))
    bits = text.apply("add", "i32", text.cast("bitcast", result, "float", "i32"), power)
    return text.cast("bitcast", bits, "i32", "float")
