"""The recogniser's arithmetic as LLVM IR, compiled in memory for the processor that it runs on.

ONNX Runtime reaches 57 % of the processor's matrix-multiply peak in the recurrence at a batch of 8, and 15 % at 1; a
kernel that knows its one size of matrix reaches most of it (docs/performance/inference.md). What it computes does not
depend on the machine: every sum runs over its terms in their order, one fused multiply-add after the other, and
exponentials are polynomials made of the same few IEEE operations, so that vectors of 4, 8 or 16 lanes, any batch size
and any number of threads give the same bytes.
"""

from __future__ import annotations

from typing import Callable, Mapping, Sequence

from stages.compiled.ir import LOG2_E, Floats, Vectors, fma_by_hand, power_of_two
from stages.model.kernels import amx, parts
from stages.model.kernels.parts import PARTS
from stages.model.kernels.products import Block, Shape, block_product, product

Store = Callable[[Floats, str, str, str], None]
"""Writes a vector to a pointer at an index."""


def host_shape(features: Mapping[str, bool]) -> Shape:
    """The `Shape` for a processor with these LLVM features."""
    if features.get("avx512f"):
        return Shape(16, 32)
    if features.get("avx2") and features.get("fma"):
        return Shape(8, 16)
    if features.get("neon"):
        return Shape(4, 32)
    return Shape(4, 16, fused=bool(features.get("fma")))


def _gates(shape: Shape, hidden: int, units: int, name: str, store: Store) -> str:
    """IR of a step's gates of `units` units: void NAME(sums, cell, output, ld, batch, soon); `store` writes to output.

    sums (batch, 4 * units) in ONNX's order i, o, f, c, its rows 4 * hidden apart; cell (batch, units), hidden apart, is
    read and written; output has `ld` between rows. c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c), each
    as one quotient. With I = e^-i and so on, G = e^-2g and C = e^-2c:
    c = (c (1 + I) (1 + G) + (1 - G) (1 + F)) / ((1 + I) (1 + G) (1 + F)) and h = (1 - C) / ((1 + O) (1 + C)).

    `soon` is what the next step gets from below. It lies in rows so far apart that no processor fetches it by itself,
    and nothing else is fetched from memory here, so that this is the time to ask for it.
    """
    text = Floats(shape.lanes, fused=shape.fused)
    text.begin(
        "define internal void @{}(ptr %sums, ptr %cell, ptr %out, i64 %ld, i64 %batch, ptr %soon) #0".format(name)
    )
    one = text.constant(1.0)
    with text.loop("%batch") as row:
        sums, soon = (text.at(array, text.index("mul", row.index, 4 * hidden), "float") for array in ("%sums", "%soon"))
        cells = text.at("%cell", text.index("mul", row.index, hidden), "float")
        out_row = text.index("mul", row.index, "%ld")
        with text.loop(units, step=shape.lanes) as unit:
            places = [text.index("add", unit.index, gate * units) for gate in range(4)]
            for place in places:
                text.prefetch(text.at(soon, place, "float"), 3)
            inputs = [text.part(sums, place) for place in places]
            i, o, f = (power_of_two(text, value, -LOG2_E) for value in inputs[:3])
            g = power_of_two(text, inputs[3], -2 * LOG2_E)
            cell = text.part(cells, unit.index)
            above, others = text.plus(one, f), text.times(text.plus(one, i), text.plus(one, g))
            over = text.fma(cell, others, text.times(text.minus(one, g), above))
            cell = text.over(over, text.times(others, above))
            text.put(cell, cells, unit.index)
            c = power_of_two(text, cell, -2 * LOG2_E)
            output = text.over(text.minus(one, c), text.times(text.plus(one, o), text.plus(one, c)))
            store(text, output, "%out", text.index("add", out_row, unit.index))
    text.end()
    return text.text()


def _store_float(text: Floats, value: str, pointer: str, index: str) -> None:
    text.put(value, pointer, index)


def _store_half(text: Floats, value: str, pointer: str, index: str) -> None:
    amx.store_half(text, amx.narrowed(text, value), pointer, index)


_RECURRENCE = (
    "ptr %inputs, ptr %weights, ptr %output, i64 %ld, i64 %batch, i64 %frames, i1 %reverse, ptr %zeros, ptr %cell, "
    "ptr %sums, i64 %first, i64 %count, ptr %mine, ptr %theirs, i64 %meetings"
)


def _recurrence(shape: Shape, hidden: int, packed: int) -> str:
    """IR of `recurrence`; its parameters are _RECURRENCE.

    inputs: (frames, batch, 4 * hidden), what the gates get from below; weights: the recurrent panels; output row t of
    batch row b is at (t * batch + b) * ld, where ld counts places of a float32, which hold one value or, `packed`, two
    of bfloat16; `cell` and `zeros` start as zeros, (batch, hidden). `count` of PARTS parts
    of the hidden units are computed, from `first` on; inputs, weights, cell and sums are those of `first`. Where the
    other part is another thread's, each step ends with a meeting, the first with `meetings`; `theirs` is null where
    there is no other.
    """
    units, gates, terms = hidden // PARTS, 4 * hidden, hidden // packed
    state = "float" if packed == 1 else "i16"
    text = Vectors(1)
    text.begin("define void @recurrence({}) #0".format(_RECURRENCE))
    size, span = text.index("mul", "%batch", gates), text.index("mul", "%batch", "%ld")
    along, on = (text.select("%reverse", text.index("sub", 0, each), each) for each in (size, span))
    shift = text.index("mul", "%first", units)
    others = text.index("sub", units, shift)
    panels = text.index("mul", "%count", gates // PARTS // shape.width)
    together = text.value("icmp ne ptr %theirs, null")
    values = text.index("mul", "%ld", packed)
    few = text.compare("ule", "%batch", shape.blocks[0])
    many = text.value("xor i1 {}, true".format(few))
    with text.loop("%frames") as step:
        mirror = text.index("sub", text.index("sub", "%frames", 1), step.index)
        t = text.select("%reverse", mirror, step.index)
        inputs = text.at("%inputs", text.index("mul", t, size), "float")
        output = text.at("%output", text.index("mul", t, span), "float")
        start = text.compare("eq", step.index, 0)
        last = text.at(output, text.index("sub", 0, on), "float")
        before = text.select(start, "%zeros", last, "ptr")
        apart = text.select(start, terms, "%ld")
        odd = text.value("trunc i64 {} to i1".format(step.index))
        for condition, product_name in ((few, "multiply_again"), (many, "multiply")):
            with text.when(condition):
                text.add(
                    "  call void @{}(ptr {}, i64 {}, ptr %weights, ptr %sums, i64 {gates}, ptr {}, i64 {gates}, "
                    "i64 %batch, i64 {terms}, i64 {}, i64 %batch, i1 {})".format(
                        product_name, before, apart, inputs, panels, odd, gates=gates, terms=terms
                    )
                )
        soon = text.at(inputs, along, "float")
        with text.loop("%count") as part:
            column, unit = text.index("mul", part.index, gates // PARTS), text.index("mul", part.index, units)
            places = (("%sums", column), ("%cell", unit), (soon, column))
            sums, cell, coming = (text.at(array, place, "float") for array, place in places)
            out = text.at(output, text.index("add", shift, unit), state)
            text.add(
                "  call void @gates(ptr {}, ptr {}, ptr {}, i64 {}, i64 %batch, ptr {})".format(
                    sums, cell, out, values, coming
                )
            )
        with text.when(together):
            number = text.index("add", "%meetings", step.index)
            text.add("  call void @meet(ptr %mine, ptr %theirs, i64 {})".format(number))
            text.add("  call void @fetch(ptr {}, i64 %ld, i64 %batch)".format(text.at(output, others, state)))
    text.end()
    return text.text()


def _convolutions(shape: Shape, columns: int, middle: int, last: int) -> str:
    """IR: void convolutions(image, weights0, bias0, weights1, bias1, ring, output, stride, from, to), one utterance.

    image: (2 * rows + 2, pitch) with a border of zeros, its rows `columns` wide and 2 + columns apart; weights: one
    panel of 32 channels each, terms in the order row, column, channel below; output: row t at t * stride,
    (last, 32): columns, then channels; rows `from` to `to` (exclusive) are made. `ring`: four rows of the first
    convolution, (middle + 2, 32) each, all zeros at the start; its border stays so.
    """
    vectors, rows = shape.conv_vectors, shape.conv_rows
    first = block_product(shape, "first_convolution", Block(rows, 1, vectors, chunks=3, unroll=3, relu=True))
    second = block_product(shape, "second_convolution", Block(rows, 1, vectors, chunks=3, unroll=4, relu=True))
    pitch, ring = columns + 2, (middle + 2) * 32
    text = Vectors(1)

    def along(kernel: str, apart: int, terms: int, count: int, arrays: Sequence[str], target: str, number: str) -> None:
        """One row of a convolution: whole blocks of columns, the last moved back until it fits; `number` of weights."""
        with text.loop(count, step=rows) as loop:
            column = text.select(text.compare("ugt", loop.index, count - rows), count - rows, loop.index)
            skip = text.index("mul", column, apart)
            lines = ["ptr {}".format(text.at(array, skip, "float")) for array in arrays]
            place = text.at(target, text.index("mul", column, 32), "float")
            text.add(
                "  call void @{}({}, i64 {}, ptr %weights{n}, ptr {}, i64 32, ptr %bias{n}, i64 0, i64 {}, "
                "ptr %weights{n}, i64 0)".format(kernel, ", ".join(lines), apart, place, terms, n=number)
            )

    text.begin("define internal void @first_row(ptr %image, ptr %weights, ptr %bias, ptr %ring, i64 %j) #0")
    slot = text.index("add", text.index("mul", text.index("and", "%j", 3), ring), 32)
    images = [text.at("%image", text.index("mul", text.index("add", "%j", row), pitch), "float") for row in range(3)]
    along("first_convolution", 2, 3, middle, images, text.at("%ring", slot, "float"), "")
    text.end()
    text.begin(
        "define void @convolutions(ptr %image, ptr %weights0, ptr %bias0, ptr %weights1, ptr %bias1, ptr %ring, "
        "ptr %output, i64 %stride, i64 %from, i64 %to) #0"
    )

    def first_row(row: str) -> None:
        text.add("  call void @first_row(ptr %image, ptr %weights0, ptr %bias0, ptr %ring, i64 {})".format(row))

    with text.when(text.compare("ne", "%from", 0)):
        first_row(text.index("sub", text.index("mul", "%from", 2), 1))
    with text.loop("%to", start="%from") as time:
        even = text.index("mul", time.index, 2)
        three = [text.index("sub", even, 1), even, text.index("add", even, 1)]
        for row in three[1:]:
            first_row(row)
        rings = [text.at("%ring", text.index("mul", text.index("and", row, 3), ring), "float") for row in three]
        target = text.at("%output", text.index("mul", time.index, "%stride"), "float")
        along("second_convolution", 64, 96, last, rings, target, "1")
    text.end()
    return "\n".join([first, second, text.text()])


SIGNATURES = {
    "multiply": "pnppnpnnnnnb",
    "project": "pnppnpnnnnnb",
    "recurrence": "pppnnnbpppnnppn",
    "convolutions": "pppppppnnn",
    "meet": "ppn",
}
OF_BFLOAT16 = {"narrow": "ppn"}


FLOAT32, PAIRS, AMX = "float32", "bfloat16 on AVX512-BF16", "bfloat16 on AMX"
"""The kinds of arithmetic that a module is made for."""


def source(shape: Shape, kind: str, hidden: int, image_columns: int, middle_columns: int, last_columns: int) -> str:
    """The whole module's IR for one kind of processor and one kind of arithmetic."""
    declarations = """
declare <{lanes} x float> @llvm.fma.v{lanes}f32(<{lanes} x float>, <{lanes} x float>, <{lanes} x float>)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
attributes #0 = {{ nounwind "prefer-vector-width"="512" }}
""".format(lanes=shape.lanes)
    packed = kind == PAIRS
    narrowing = [amx.narrow(shape.lanes)] if kind != FLOAT32 else []
    if packed:
        pairs = "<{} x bfloat>".format(2 * shape.lanes)
        floats = "<{} x float>".format(shape.lanes)
        narrowing.append("declare {0} @llvm.x86.avx512bf16.dpbf16ps.512({0}, {1}, {1})".format(floats, pairs))
    return "\n".join([
        declarations,
        *([] if shape.fused else [fma_by_hand(shape.lanes)]),
        *narrowing,
        product(shape, "multiply", several=True, packed=packed),
        product(shape, "multiply_again", several=True, again=True, packed=packed),
        product(shape, "project", several=False, packed=packed),
        parts.source(hidden // 2 if packed else hidden),
        _gates(shape, hidden, hidden // PARTS, "gates", _store_half if packed else _store_float),
        _recurrence(shape, hidden, 2 if packed else 1),
        _convolutions(shape, image_columns, middle_columns, last_columns),
        *([_gates(shape, hidden, hidden, "gates16", _store_half), amx.source(hidden)]
          if kind == AMX else []),
    ])  # fmt: skip
