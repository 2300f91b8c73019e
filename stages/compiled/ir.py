"""LLVM IR as text, of arithmetic on vectors of float32."""

import struct


class Text:
    """Lines of IR."""

    def __init__(self, lanes):
        self.lanes = lanes
        self.vector = "<{} x float>".format(lanes)
        self._lines = []
        self._number = 0

    def add(self, text):
        self._lines.extend(text.strip("\n").split("\n"))

    def name(self):
        self._number += 1
        return "%v{}".format(self._number)

    def value(self, expression):
        """Append `expression` with a fresh name, which is returned."""
        name = self.name()
        self._lines.append("  {} = {}".format(name, expression))
        return name

    def at(self, pointer, index, kind="float"):
        """Address of element `index` of an array."""
        return self.value("getelementptr {}, ptr {}, i64 {}".format(kind, pointer, index))

    def load(self, pointer, index=0):
        return self.value("load {}, ptr {}, align 4".format(self.vector, self.at(pointer, index)))

    def store(self, value, pointer, index=0):
        self._lines.append("  store {} {}, ptr {}, align 4".format(self.vector, value, self.at(pointer, index)))

    def prefetch(self, pointer, nearness):
        """Ask for a line of the cache: nearness 3 for the first level, 2 for the second."""
        self._lines.append("  call void @llvm.prefetch.p0(ptr {}, i32 0, i32 {}, i32 1)".format(pointer, nearness))

    def spread(self, scalar):
        """A float in every lane."""
        first = self.value("insertelement {0} poison, float {1}, i32 0".format(self.vector, scalar))
        return self.value(
            "shufflevector {0} {1}, {0} poison, <{2} x i32> zeroinitializer".format(self.vector, first, self.lanes)
        )

    def constant(self, number):
        return self.spread(literal(number))

    def plus(self, left, right):
        return self._binary("fadd", left, right)

    def minus(self, left, right):
        return self._binary("fsub", left, right)

    def times(self, left, right):
        return self._binary("fmul", left, right)

    def over(self, left, right):
        return self._binary("fdiv", left, right)

    def _binary(self, operation, left, right):
        return self.value("{} {} {}, {}".format(operation, self.vector, left, right))

    def fma(self, a, b, c, name=""):
        """a * b + c, rounded once."""
        name = name or self.name()
        self._lines.append("  {5} = call {0} @llvm.fma.v{4}f32({0} {1}, {0} {2}, {0} {3})".format(
            self.vector, a, b, c, self.lanes, name))  # fmt: skip
        return name

    def text(self):
        return "\n".join(self._lines)


def literal(number):
    """A float32 constant as IR spells it: the bits of the double of the same value."""
    rounded = struct.unpack("<f", struct.pack("<f", number))[0]
    return "0x{:016X}".format(struct.unpack("<Q", struct.pack("<d", rounded))[0])


LOG2_E = 1.4426950408889634
_POWER_LIMIT = 40.0  # 2 to this, times itself twice, is still a float32: what is beyond changes no gate's value
# 2^r = 1 + r (c1 + r (c2 + ...)) for |r| <= 1/2, within 9.4e-8: the best of this form with float32 coefficients.
_POWER_TERMS = (1.3269407209e-3, 9.6712941304e-3, 5.5507112294e-2, 2.4022246897e-1, 6.9314700365e-1)


def power_of_two(text, x, scale):
    """2 to the x * scale, |x * scale| cut to 40: relative error 1.8e-7 at 1.4, 5.2e-7 at 40.

    x * scale is rounded once, as what is left of it beside the nearest whole number; the error that grows is that of
    the float32 `scale`. A sigmoid made of it is within 4e-8, since it is flat where the error is large.
    """
    bound = _POWER_LIMIT / abs(scale)
    for condition, number in (("ogt", bound), ("olt", -bound)):
        limit = text.constant(number)
        beyond = text.value("fcmp {} {} {}, {}".format(condition, text.vector, x, limit))
        x = text.value("select <{0} x i1> {1}, {2} {3}, {2} {4}".format(text.lanes, beyond, text.vector, limit, x))
    # Adding 1.5 * 2^23 rounds to a whole number, in the low bits of the sum.
    magic, factor = text.constant(12582912.0), text.constant(scale)
    shifted = text.fma(x, factor, magic)
    rest = text.fma(x, factor, text.minus(magic, shifted))
    result = text.constant(_POWER_TERMS[0])
    for term in _POWER_TERMS[1:] + (1.0,):
        result = text.fma(result, rest, text.constant(term))
    integers = "<{} x i32>".format(text.lanes)
    bits = text.value("bitcast {} {} to {}".format(text.vector, shifted, integers))
    power = text.value("shl {} {}, {}".format(integers, bits, _splat(text, 23)))
    bits = text.value("bitcast {} {} to {}".format(text.vector, result, integers))
    bits = text.value("add {} {}, {}".format(integers, bits, power))
    return text.value("bitcast {} {} to {}".format(integers, bits, text.vector))


def _splat(text, number):
    return "<{}>".format(", ".join(["i32 {}".format(number)] * text.lanes))
