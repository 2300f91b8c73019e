"""The recogniser's arithmetic as LLVM IR, compiled in memory for the processor that it runs on.

ONNX Runtime reaches 57 % of the processor's matrix-multiply peak in the recurrence at a batch of 8, and 15 % at 1; a
kernel that knows its one size of matrix reaches most of it (docs/performance/inference.md). What it computes does not
depend on the machine: every sum runs over its terms in their order, one fused multiply-add after the other, and
exponentials are polynomials made of the same few IEEE operations, so that vectors of 4, 8 or 16 lanes, any batch size
and any number of threads give the same bytes.
"""

from __future__ import annotations

from typing import Callable, Mapping

from stages.compiled.ir import LOG2_E, Text, power_of_two
from stages.model.kernels import amx, parts
from stages.model.kernels.parts import PARTS
from stages.model.kernels.products import Block, Shape, block_product, product

Store = Callable[[Text, str, str, str], None]
"""Writes a vector to a pointer at an index."""


def host_shape(features: Mapping[str, bool]) -> Shape:
    """The `Shape` for a processor with these LLVM features."""
    if features.get("avx512f"):
        return Shape(16, 32)
    if features.get("avx2") and features.get("fma"):
        return Shape(8, 16)
    return Shape(4, 32 if features.get("neon") else 16)


def _gates(shape: Shape, hidden: int, units: int, name: str, store: Store) -> str:
    """IR of a step's gates of `units` units: void NAME(sums, cell, output, ld, batch, soon); `store` writes to output.

    sums (batch, 4 * units) in ONNX's order i, o, f, c, its rows 4 * hidden apart; cell (batch, units), hidden apart, is
    read and written; output has `ld` between rows. c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c), each
    as one quotient. With I = e^-i and so on, G = e^-2g and C = e^-2c:
    c = (c (1 + I) (1 + G) + (1 - G) (1 + F)) / ((1 + I) (1 + G) (1 + F)) and h = (1 - C) / ((1 + O) (1 + C)).

    `soon` is what the next step gets from below. It lies in rows so far apart that no processor fetches it by itself,
    and nothing else is fetched from memory here, so that this is the time to ask for it.
    """
    text = Text(shape.lanes)
    text.add("define internal void @{}(ptr %sums, ptr %cell, ptr %out, i64 %ld, i64 %batch, "
             "ptr %soon) #0 {{\nentry:".format(name))  # fmt: skip
    one = text.constant(1.0)
    text.add("  br label %rows\nrows:\n  %r = phi i64 [0, %entry], [%rn, %rowend]")
    sums = text.at("%sums", text.value("mul i64 %r, {}".format(4 * hidden)))
    soon = text.at("%soon", text.value("mul i64 %r, {}".format(4 * hidden)))
    cells = text.at("%cell", text.value("mul i64 %r, {}".format(hidden)))
    out_row = text.value("mul i64 %r, %ld")
    text.add("  br label %units\nunits:\n  %u = phi i64 [0, %rows], [%un, %units]")
    places = [text.value("add i64 %u, {}".format(gate * units)) for gate in range(4)]
    for place in places:
        text.prefetch(text.at(soon, place), 3)
    inputs = [text.load(sums, place) for place in places]
    i, o, f = (power_of_two(text, value, -LOG2_E) for value in inputs[:3])
    g = power_of_two(text, inputs[3], -2 * LOG2_E)
    cell = text.load(cells, "%u")
    above, others = text.plus(one, f), text.times(text.plus(one, i), text.plus(one, g))
    over = text.fma(cell, others, text.times(text.minus(one, g), above))
    cell = text.over(over, text.times(others, above))
    text.store(cell, cells, "%u")
    c = power_of_two(text, cell, -2 * LOG2_E)
    output = text.over(text.minus(one, c), text.times(text.plus(one, o), text.plus(one, c)))
    store(text, output, "%out", text.value("add i64 {}, %u".format(out_row)))
    text.add("  %un = add i64 %u, {}\n  %mu = icmp ult i64 %un, {}".format(shape.lanes, units))
    text.add("  br i1 %mu, label %units, label %rowend\nrowend:\n  %rn = add i64 %r, 1")
    text.add("  %mr = icmp ult i64 %rn, %batch\n  br i1 %mr, label %rows, label %end\nend:\n  ret void\n}")
    return text.text()


def _store_float(text: Text, value: str, pointer: str, index: str) -> None:
    text.store(value, pointer, index)


def _store_rounded(text: Text, value: str, pointer: str, index: str) -> None:
    """As a float32 that a bfloat16 holds exactly."""
    bits = amx.narrowed(text, value)
    text.store(text.value("bitcast <{} x i32> {} to {}".format(text.lanes, bits, text.vector)), pointer, index)


def _store_half(text: Text, value: str, pointer: str, index: str) -> None:
    amx.store_half(text, amx.narrowed(text, value), pointer, index)


# See `_recurrence`.
_RECURRENCE = """
define void @recurrence(ptr %inputs, ptr %weights, ptr %output, i64 %ld, i64 %batch, i64 %frames, i1 %reverse,
                        ptr %zeros, ptr %cell, ptr %sums, i64 %first, i64 %count, ptr %mine, ptr %theirs,
                        i64 %meetings) #0 {{
entry:
  %last = sub i64 %frames, 1
  %size = mul i64 %batch, {gates}
  %span = mul i64 %batch, %ld
  %back = sub i64 0, %size
  %along = select i1 %reverse, i64 %back, i64 %size
  %shift = mul i64 %first, {units}
  %panels = mul i64 %count, {panels}
  %alone = icmp eq ptr %theirs, null
  %others = sub i64 {units}, %shift
  %few = icmp ule i64 %batch, {block}
  br label %step
step:
  %s = phi i64 [0, %entry], [%sn, %stepend]
  %before = phi ptr [%zeros, %entry], [%out, %stepend]
  %ldb = phi i64 [{hidden}, %entry], [%ld, %stepend]
  %mirror = sub i64 %last, %s
  %t = select i1 %reverse, i64 %mirror, i64 %s
  %io = mul i64 %t, %size
  %in = getelementptr float, ptr %inputs, i64 %io
  %oo = mul i64 %t, %span
  %out = getelementptr float, ptr %output, i64 %oo
  %odd = trunc i64 %s to i1
  br i1 %few, label %again, label %once
again:
  call void @multiply_again(ptr %before, i64 %ldb, ptr %weights, ptr %sums, i64 {gates}, ptr %in, i64 {gates},
                            i64 %batch, i64 {hidden}, i64 %panels, i64 %batch, i1 %odd)
  br label %summed
once:
  call void @multiply(ptr %before, i64 %ldb, ptr %weights, ptr %sums, i64 {gates}, ptr %in, i64 {gates}, i64 %batch,
                      i64 {hidden}, i64 %panels, i64 %batch, i1 %odd)
  br label %summed
summed:
  %soon = getelementptr float, ptr %in, i64 %along
  br label %part
part:
  %p = phi i64 [0, %summed], [%pn, %part]
  %po = mul i64 %p, {columns}
  %psums = getelementptr float, ptr %sums, i64 %po
  %psoon = getelementptr float, ptr %soon, i64 %po
  %pu = mul i64 %p, {units}
  %pcell = getelementptr float, ptr %cell, i64 %pu
  %place = add i64 %shift, %pu
  %pout = getelementptr float, ptr %out, i64 %place
  call void @gates(ptr %psums, ptr %pcell, ptr %pout, i64 %ld, i64 %batch, ptr %psoon)
  %pn = add i64 %p, 1
  %mp = icmp ult i64 %pn, %count
  br i1 %mp, label %part, label %gated
gated:
  br i1 %alone, label %stepend, label %meeting
meeting:
  %number = add i64 %meetings, %s
  call void @meet(ptr %mine, ptr %theirs, i64 %number)
  %half = getelementptr float, ptr %out, i64 %others
  call void @fetch(ptr %half, i64 %ld, i64 %batch)
  br label %stepend
stepend:
  %sn = add i64 %s, 1
  %more = icmp ult i64 %sn, %frames
  br i1 %more, label %step, label %end
end:
  ret void
}}
"""


def _recurrence(shape: Shape, hidden: int) -> str:
    """IR: void recurrence(inputs, weights, output, ld, batch, frames, reverse, zeros, cell, sums, first, count, mine,
    theirs, meetings).

    inputs: (frames, batch, 4 * hidden), what the gates get from below; weights: the recurrent panels; output row t of
    batch row b is at (t * batch + b) * ld; `cell` and `zeros` start as zeros, (batch, hidden). `count` of PARTS parts
    of the hidden units are computed, from `first` on; inputs, weights, cell and sums are those of `first`. Where the
    other part is another thread's, each step ends with a meeting, the first with `meetings`; `theirs` is null where
    there is no other.
    """
    return _RECURRENCE.format(
        gates=4 * hidden,
        hidden=hidden,
        units=hidden // PARTS,
        columns=4 * hidden // PARTS,
        panels=4 * hidden // PARTS // shape.width,
        block=shape.blocks[0],
    )


# See `_convolutions`.
_CONVOLUTIONS = """
define internal void @first_row(ptr %image, ptr %weights, ptr %bias, ptr %ring, i64 %j) #0 {{
entry:
  %slot = and i64 %j, 3
  %so = mul i64 %slot, {ring}
  %sb = add i64 %so, 32
  %c = getelementptr float, ptr %ring, i64 %sb
  %r0 = mul i64 %j, {pitch}
  %r1 = add i64 %r0, {pitch}
  %r2 = add i64 %r1, {pitch}
  br label %loop
loop:
  %f = phi i64 [0, %entry], [%fn, %loop]
  %beyond = icmp ugt i64 %f, {top0}
  %g = select i1 %beyond, i64 {top0}, i64 %f
  %two = mul i64 %g, 2
  %o0 = add i64 %r0, %two
  %o1 = add i64 %r1, %two
  %o2 = add i64 %r2, %two
  %a0 = getelementptr float, ptr %image, i64 %o0
  %a1 = getelementptr float, ptr %image, i64 %o1
  %a2 = getelementptr float, ptr %image, i64 %o2
  %co = mul i64 %g, 32
  %cp = getelementptr float, ptr %c, i64 %co
  call void @first_convolution(ptr %a0, ptr %a1, ptr %a2, i64 2, ptr %weights, ptr %cp, i64 32, ptr %bias, i64 0, i64 3,
                               ptr %weights, i64 0)
  %fn = add i64 %f, {rows}
  %more = icmp ult i64 %fn, {middle}
  br i1 %more, label %loop, label %end
end:
  ret void
}}
define void @convolutions(ptr %image, ptr %weights0, ptr %bias0, ptr %weights1, ptr %bias1, ptr %ring, ptr %output,
                          i64 %stride, i64 %from, i64 %to) #0 {{
entry:
  %top = icmp eq i64 %from, 0
  br i1 %top, label %time, label %above
above:
  %fd = mul i64 %from, 2
  %fa = sub i64 %fd, 1
  call void @first_row(ptr %image, ptr %weights0, ptr %bias0, ptr %ring, i64 %fa)
  br label %time
time:
  %t = phi i64 [%from, %entry], [%from, %above], [%tn, %timeend]
  %j0 = mul i64 %t, 2
  %j1 = add i64 %j0, 1
  %jm = sub i64 %j0, 1
  call void @first_row(ptr %image, ptr %weights0, ptr %bias0, ptr %ring, i64 %j0)
  call void @first_row(ptr %image, ptr %weights0, ptr %bias0, ptr %ring, i64 %j1)
  %s0 = and i64 %jm, 3
  %s1 = and i64 %j0, 3
  %s2 = and i64 %j1, 3
  %b0 = mul i64 %s0, {ring}
  %b1 = mul i64 %s1, {ring}
  %b2 = mul i64 %s2, {ring}
  %row = mul i64 %t, %stride
  br label %loop
loop:
  %f = phi i64 [0, %time], [%fn, %loop]
  %beyond = icmp ugt i64 %f, {top1}
  %g = select i1 %beyond, i64 {top1}, i64 %f
  %skip = mul i64 %g, 64
  %o0 = add i64 %b0, %skip
  %o1 = add i64 %b1, %skip
  %o2 = add i64 %b2, %skip
  %a0 = getelementptr float, ptr %ring, i64 %o0
  %a1 = getelementptr float, ptr %ring, i64 %o1
  %a2 = getelementptr float, ptr %ring, i64 %o2
  %go = mul i64 %g, 32
  %co = add i64 %row, %go
  %cp = getelementptr float, ptr %output, i64 %co
  call void @second_convolution(ptr %a0, ptr %a1, ptr %a2, i64 64, ptr %weights1, ptr %cp, i64 32, ptr %bias1, i64 0,
                                i64 96, ptr %weights1, i64 0)
  %fn = add i64 %f, {rows}
  %more = icmp ult i64 %fn, {last}
  br i1 %more, label %loop, label %timeend
timeend:
  %tn = add i64 %t, 1
  %moretime = icmp ult i64 %tn, %to
  br i1 %moretime, label %time, label %end
end:
  ret void
}}
"""


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
    text = _CONVOLUTIONS.format(ring=ring, pitch=pitch, top0=middle - rows, top1=last - rows, rows=rows, middle=middle,
                                last=last)  # fmt: skip
    return first + second + text


SIGNATURES = {
    "multiply": "pnppnpnnnnnb",
    "project": "pnppnpnnnnnb",
    "recurrence": "pppnnnbpppnnppn",
    "convolutions": "pppppppnnn",
    "meet": "ppn",
}


FLOAT32, ROUNDED, AMX = "float32", "operands rounded to bfloat16", "bfloat16 on AMX"
"""The kinds of arithmetic that a module is made for."""


def source(shape: Shape, kind: str, hidden: int, image_columns: int, middle_columns: int, last_columns: int) -> str:
    """The whole module's IR for one kind of processor and one kind of arithmetic."""
    declarations = """
declare <{lanes} x float> @llvm.fma.v{lanes}f32(<{lanes} x float>, <{lanes} x float>, <{lanes} x float>)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
attributes #0 = {{ nounwind "prefer-vector-width"="512" }}
""".format(lanes=shape.lanes)
    return "\n".join([
        declarations,
        product(shape, "multiply", several=True),
        product(shape, "multiply_again", several=True, again=True),
        product(shape, "project", several=False),
        parts.source(hidden),
        _gates(shape, hidden, hidden // PARTS, "gates", _store_rounded if kind == ROUNDED else _store_float),
        _recurrence(shape, hidden),
        _convolutions(shape, image_columns, middle_columns, last_columns),
        *([_gates(shape, hidden, hidden, "gates16", _store_half), amx.source(shape.lanes, hidden)]
          if kind == AMX else []),
    ])  # fmt: skip
