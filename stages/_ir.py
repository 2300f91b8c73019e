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

    def spread(self, scalar):
        """A float in every lane."""
        first = self.value("insertelement {0} poison, float {1}, i32 0".format(self.vector, scalar))
        return self.value(
            "shufflevector {0} {1}, {0} poison, <{2} x i32> zeroinitializer".format(self.vector, first, self.lanes)
        )

    def constant(self, number):
        return self.spread(literal(number))

    def binary(self, operation, left, right):
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


_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # together ln 2; the first has few enough bits to be exact times n
_EXP_TERMS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_EXP_LIMIT = 43.0  # e to this, squared, is still a float32: what is beyond changes no gate's value


def exponential(text, x):
    """e to the x, |x| cut to 43: 2^n times Cephes' polynomial (expf), within 2 units in the last place."""
    limit = text.constant(_EXP_LIMIT)
    low = text.constant(-_EXP_LIMIT)
    for condition, bound in (("ogt", limit), ("olt", low)):
        beyond = text.value("fcmp {} {} {}, {}".format(condition, text.vector, x, bound))
        x = text.value("select <{0} x i1> {1}, {2} {3}, {2} {4}".format(text.lanes, beyond, text.vector, bound, x))
    # Adding 1.5 * 2^23 rounds to a whole number, in the low bits of the sum.
    magic = text.constant(12582912.0)
    shifted = text.fma(x, text.constant(_LOG2_E), magic)
    whole = text.binary("fsub", shifted, magic)
    rest = text.fma(whole, text.constant(-_LN2_HIGH), x)
    rest = text.fma(whole, text.constant(-_LN2_LOW), rest)
    result = text.constant(_EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        result = text.fma(result, rest, text.constant(term))
    square = text.binary("fmul", rest, rest)
    result = text.fma(result, square, rest)
    result = text.binary("fadd", result, text.constant(1.0))
    integers = "<{} x i32>".format(text.lanes)
    bits = text.value("bitcast {} {} to {}".format(text.vector, shifted, integers))
    power = text.value("shl {} {}, {}".format(integers, bits, _splat(text, 23)))
    bits = text.value("bitcast {} {} to {}".format(text.vector, result, integers))
    bits = text.value("add {} {}, {}".format(integers, bits, power))
    return text.value("bitcast {} {} to {}".format(integers, bits, text.vector))


def _splat(text, number):
    return "<{}>".format(", ".join(["i32 {}".format(number)] * text.lanes))
