"""The arithmetic of `fbank_arrays`, compiled for the processor: the same bytes, many times sooner.

Each lane of a vector is a frame, so the operations are those of one frame, in the same order and none fused, whatever
the processor's vectors hold. Tables that depend on a position come from memory, in loops: so a few hundred lines of IR
are compiled in place of tens of thousands.
"""

from __future__ import annotations

from typing import Sequence

import numpy

from stages.compiled.elementary import logarithm
from stages.compiled.ir import Vectors
from stages.speech.fbank_arrays import FLOOR, PARTIAL_SUMS, Recipe

LANES = 8
_ROW = LANES * 8  # bytes of a vector of float64


class _Kernel:
    """Writes the function, part after part.

    Memory: %x holds a frame's samples and later the spectrum, %z the transform's values, real part before imaginary;
    each is a row of vectors. %tables holds the window, the passes' twiddles, the unfolding's and the filters' weights.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._text = Vectors(LANES)
        self._kind = self._text.vector("double")
        self._offsets = Tables(recipe).offsets

    def source(self) -> str:
        """IR: void fbank(frames, groups, features, work, tables, places); see `Kernel`."""
        text, recipe = self._text, self._recipe
        for name in ("sqrt", "maxnum"):
            more = ", {}".format(self._kind) if name == "maxnum" else ""
            text.add("declare {0} @llvm.{1}.v{2}f64({0}{3})".format(self._kind, name, LANES, more))
        text.add('attributes #0 = { nounwind "prefer-vector-width"="512" }')
        text.begin("define void @fbank(ptr %frames, i64 %groups, ptr %features, ptr %x, ptr %tables, ptr %places) #0")
        z = text.at("%x", _rows(recipe), self._kind)
        with text.loop("%groups") as group:
            frames = text.at("%frames", text.index("mul", group.index, LANES * recipe.length), "float")
            features = text.at("%features", text.index("mul", group.index, LANES * recipe.num_features), "float")
            energy = self._samples(frames)
            windowed = self._window(z)
            if recipe.energy == "windowed":
                energy = windowed
            for number in range(len(recipe.passes)):
                self._pass(z, number)
            self._spectrum(z)
            self._filter(features)
            if recipe.energy:
                level = text.call("llvm.maxnum", "double", self._log(energy), text.double(recipe.least_energy))
                self._write(features, recipe.energy_column, level)
        text.end()
        return text.text()

    def _row(self, pointer: str, index: int | str) -> str:
        return self._text.load(pointer, index, self._kind, _ROW)

    def _put(self, value: str, pointer: str, index: int | str) -> None:
        self._text.store(value, pointer, index, self._kind, _ROW)

    def _table(self, name: str, index: int | str) -> str:
        """A value of %tables in every lane."""
        place = self._text.index("add", str(index), self._offsets[name])
        return self._text.spread(self._text.load("%tables", place, "double", 8), "double")

    def _do(self, operation: str, left: str, right: str) -> str:
        return self._text.apply(operation, "double", left, right)

    def _log(self, value: str) -> str:
        return logarithm(self._text, self._text.call("llvm.maxnum", "double", value, self._text.double(FLOOR)))

    def _joined(self, parts: Sequence[str]) -> str:
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [self._do("fadd", parts[n], parts[half + n]) for n in range(half)]
        return parts[0]

    def _samples(self, frames: str) -> str:
        """Samples, the mean removed, to %x; returns their energy."""
        text, recipe = self._text, self._recipe
        zeros = [text.double(0.0)] * PARTIAL_SUMS
        with text.loop(recipe.length, step=PARTIAL_SUMS, carried=zeros, kind=self._kind) as loop:
            sums = []
            for part in range(PARTIAL_SUMS):
                index = text.index("add", loop.index, part)
                value = self._gathered(frames, index)
                self._put(value, "%x", index)
                sums.append(self._do("fadd", loop.carried[part], value))
            loop.carry(sums)
        mean = self._do("fdiv", self._joined(loop.results), text.double(float(recipe.length)))
        if not recipe.remove_dc and recipe.energy != "raw":
            return mean
        with text.loop(recipe.length, step=PARTIAL_SUMS, carried=zeros, kind=self._kind) as loop:
            sums = []
            for part in range(PARTIAL_SUMS):
                index = text.index("add", loop.index, part)
                value = self._row("%x", index)
                if recipe.remove_dc:
                    value = self._do("fsub", value, mean)
                    self._put(value, "%x", index)
                sums.append(self._do("fadd", loop.carried[part], self._do("fmul", value, value)))
            loop.carry(sums)
        return self._joined(loop.results)

    def _gathered(self, frames: str, index: str) -> str:
        """Sample `index` of each lane's frame, as float64."""
        text, kind = self._text, self._text.vector("float")
        value = "poison"
        for lane in range(LANES):
            sample = text.load(frames, text.index("add", index, lane * self._recipe.length), "float", 4)
            value = text.value("insertelement {} {}, float {}, i32 {}".format(kind, value, sample, lane))
        return text.cast("fpext", value, "float", "double")

    def _window(self, z: str) -> str:
        """Pre-emphasis and window, from %x to the transform's input; returns the energy of what comes out."""
        text, recipe = self._text, self._recipe
        factor, zeros = text.double(recipe.preemphasis), [text.double(0.0)] * PARTIAL_SUMS
        before = [self._row("%x", 0)]
        with text.loop(recipe.length, step=PARTIAL_SUMS, carried=before + zeros, kind=self._kind) as loop:
            last, sums = loop.carried[0], []
            for part in range(PARTIAL_SUMS):
                index = text.index("add", loop.index, part)
                value = self._row("%x", index)
                changed = self._do("fsub", value, self._do("fmul", factor, last))
                changed = self._do("fmul", changed, self._table("window", index))
                last = value
                self._put(changed, z, self._place(index))
                sums.append(self._do("fadd", loop.carried[1 + part], self._do("fmul", changed, changed)))
            loop.carry([last] + sums)
        if recipe.length < recipe.size:
            with text.loop(recipe.size, start=recipe.length) as rest:
                self._put(text.double(0.0), z, self._place(rest.index))
        return self._joined(loop.results[1:])

    def _place(self, index: str) -> str:
        """Where a sample lies in %z: even ones as real parts, odd ones as imaginary parts."""
        return self._text.load("%places", index, "i64", 8)

    def _pass(self, z: str, number: int) -> None:
        each, size = self._recipe.passes[number], self._recipe.size // 2
        text, span = self._text, each.span
        with text.loop(size, step=each.radix * span) as group, text.loop(span) as place:
            first = text.index("add", group.index, place.index)
            values = []
            for part in range(each.radix):
                re, im = self._complex(z, text.index("add", first, part * span))
                if part and span > 1:
                    at = text.index("mul", place.index, 2 * (each.radix - 1))
                    cos, sin = (
                        self._table("pass{}".format(number), text.index("add", at, 2 * part - 2 + which))
                        for which in (0, 1)
                    )
                    re, im = self._turned(cos, sin, re, im)
                values.append((re, im))
            results = self._by_two(values) if each.radix == 2 else self._by_four(values)
            for part, (re, im) in enumerate(results):
                index = text.index("mul", text.index("add", first, part * span), 2)
                self._put(re, z, index)
                self._put(im, z, text.index("add", index, 1))

    def _complex(self, z: str, index: int | str) -> tuple[str, str]:
        place = self._text.index("mul", str(index), 2)
        return self._row(z, place), self._row(z, self._text.index("add", place, 1))

    def _turned(self, cos: str, sin: str, re: str, im: str) -> tuple[str, str]:
        """(re + i im) (cos + i sin)."""
        return (
            self._do("fsub", self._do("fmul", cos, re), self._do("fmul", sin, im)),
            self._do("fadd", self._do("fmul", cos, im), self._do("fmul", sin, re)),
        )

    def _by_two(self, values: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        (a, ai), (b, bi) = values
        return [(self._do(each, a, b), self._do(each, ai, bi)) for each in ("fadd", "fsub")]

    def _by_four(self, values: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        (even, even_i), (odd, odd_i) = self._by_two([values[0], values[2]])
        (total, total_i), (rest, rest_i) = self._by_two([values[1], values[3]])
        return [
            (self._do("fadd", even, total), self._do("fadd", even_i, total_i)),
            (self._do("fadd", odd, rest_i), self._do("fsub", odd_i, rest)),
            (self._do("fsub", even, total), self._do("fsub", even_i, total_i)),
            (self._do("fsub", odd, rest_i), self._do("fadd", odd_i, rest)),
        ]

    def _spectrum(self, z: str) -> None:
        """Powers or magnitudes of the real transform, to %x."""
        text, size = self._text, self._recipe.size // 2
        middle = size // 2
        re, im = self._complex(z, 0)
        total = self._do("fadd", re, im)
        self._power(0, self._do("fmul", total, total))
        re, im = self._complex(z, middle)
        self._power(middle, self._do("fadd", self._do("fmul", re, re), self._do("fmul", im, im)))
        with text.loop(middle, start=1) as loop:
            high = text.value("sub i64 {}, {}".format(size, loop.index))
            (a, ai), (b, bi) = self._complex(z, loop.index), self._complex(z, high)
            even, even_i = self._do("fadd", a, b), self._do("fsub", ai, bi)
            odd, odd_i = self._do("fadd", ai, bi), self._do("fsub", b, a)
            at = text.index("mul", loop.index, 2)
            cos, sin = (self._table("unfolding", text.index("add", at, which)) for which in (0, 1))
            turned, turned_i = self._turned(cos, sin, odd, odd_i)
            for index, operation in ((loop.index, "fadd"), (high, "fsub")):
                re, im = self._do(operation, even, turned), self._do(operation, even_i, turned_i)
                power = self._do("fadd", self._do("fmul", re, re), self._do("fmul", im, im))
                self._power(index, self._do("fmul", power, text.double(0.25)))

    def _power(self, index: int | str, power: str) -> None:
        if not self._recipe.power:
            power = self._text.call("llvm.sqrt", "double", power)
        self._put(power, "%x", index)

    def _filter(self, features: str) -> None:
        text, recipe = self._text, self._recipe
        offset, most = recipe.size, recipe.filters.weights.shape[1]  # of the filters among %places
        with text.loop(recipe.num_bins) as loop:
            start = text.load("%places", text.index("add", loop.index, offset), "i64", 8)
            count = text.load("%places", text.index("add", loop.index, offset + recipe.num_bins), "i64", 8)
            row = text.index("mul", loop.index, most)
            with text.loop(count, carried=[text.double(0.0)], kind=self._kind) as term:
                weight = self._table("weights", text.index("add", row, term.index))
                product = self._do("fmul", weight, self._row("%x", text.index("add", start, term.index)))
                term.carry([self._do("fadd", term.carried[0], product)])
            value = term.results[0]
            if recipe.log:
                value = self._log(value)
            self._write(features, text.index("add", loop.index, recipe.first_bin), value)

    def _write(self, features: str, column: int | str, value: str) -> None:
        """A feature of each lane's frame, as float32."""
        text = self._text
        rounded = text.cast("fptrunc", value, "double", "float")
        for lane in range(LANES):
            one = text.value("extractelement {} {}, i32 {}".format(text.vector("float"), rounded, lane))
            place = text.index("add", str(column), lane * self._recipe.num_features)
            text.store(one, features, place, "float", 4)


class Tables:
    """The numbers that the kernel reads.

    Attributes:
        values: float64, one table behind the other.
        offsets: of each table in it.
        places: int64: where each sample lies in the transform's memory, then the filters' starts and counts.
    """

    def __init__(self, recipe: Recipe) -> None:
        tables = {"window": recipe.window, "unfolding": recipe.unfolding, "weights": recipe.filters.weights}
        tables.update(("pass{}".format(number), each.twiddles) for number, each in enumerate(recipe.passes))
        self.offsets: dict[str, int] = {}
        position = 0
        for name, table in tables.items():
            self.offsets[name] = position
            position += table.size
        self.values = numpy.concatenate([table.ravel() for table in tables.values()])
        lies = numpy.empty(recipe.size, numpy.int64)
        lies[0::2], lies[1::2] = 2 * recipe.places, 2 * recipe.places + 1
        self.places = numpy.concatenate([lies, recipe.filters.starts, recipe.filters.counts])


def _rows(recipe: Recipe) -> int:
    """Vectors that %x takes."""
    return max(recipe.length, recipe.size // 2)


class Kernel:
    """Computes the features of whole groups of frames; for one thread at a time.

    Args:
        recipe: what is computed; its length is a multiple of 8.
    """

    def __init__(self, recipe: Recipe) -> None:
        from stages.compiled import llvm  # it imports llvmlite, which not every image has

        self._recipe = recipe
        self._tables = Tables(recipe)
        self._library = llvm.Library(_Kernel(recipe).source(), llvm.host_features(), {"fbank": "pnpppp"})
        self._work = _aligned((_rows(recipe) + recipe.size) * LANES)

    @staticmethod
    def fits(length: int) -> bool:
        """Whether frames of this length can be computed so, and there is a compiler."""
        try:
            import llvmlite  # noqa: F401 - asked for alone
        except ImportError:
            return False
        return length % PARTIAL_SUMS == 0

    def compute_into(self, features: numpy.ndarray, frames: numpy.ndarray) -> None:
        """(num_frames, num_features) float32 from (num_frames, length) float32, a multiple of 8 frames."""
        count, recipe = len(frames), self._recipe
        if count % LANES or features.shape != (count, recipe.num_features) or frames.shape[1] != recipe.length:
            raise ValueError("features {} of frames {}".format(features.shape, frames.shape))
        for array in (features, frames):
            if array.dtype != numpy.float32 or not array.flags.c_contiguous:
                raise ValueError("frames and features must be contiguous float32")
        if count:
            self._library.call.fbank(
                frames.ctypes.data, count // LANES, features.ctypes.data, self._work.ctypes.data,
                self._tables.values.ctypes.data, self._tables.places.ctypes.data,
            )  # fmt: skip


def _aligned(count: int) -> numpy.ndarray:
    """(count,) float64 at a multiple of a vector's bytes."""
    memory = numpy.zeros(count * 8 + _ROW, numpy.uint8)
    start = -memory.ctypes.data % _ROW
    return memory[start : start + count * 8].view(numpy.float64)
