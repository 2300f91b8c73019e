"""Matrix products in LLVM IR, for a matrix of weights that is kept in panels.

Panels: (columns / width, K, width) float32, `width` = 3 vectors. Every sum runs over its terms in their order, from its
start value to the last, one fused multiply-add after the other, so that the result does not depend on how rows and
columns are cut into blocks.

Where terms are packed, a and the panels hold two bfloat16 terms in the place of each float32, and the processor adds
both products of a pair at once (AVX512-BF16): half as many terms and half the memory, and otherwise the same kernel.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

from stages.compiled.ir import Floats

VECTORS = 3  # of a panel: with 8 rows, 24 sums fill 32 registers
_UNROLL = 4  # terms
_SLICE = 256  # terms of a panel: 24 KiB with 8 lanes, of a nearest cache that has 32 on most processors of these
_LINE = 64  # bytes of a cache line


class Shape:
    """How the kernels are laid out for a processor: vector lanes and rows per block.

    Args:
        lanes: float32 values in a vector: 16 (AVX-512), 8 (AVX2) or 4 (NEON, SSE).
        registers: vector registers: 32, or 16 with AVX2 and SSE.
        fused: the processor has a fused multiply-add.
    """

    def __init__(self, lanes: int, registers: int, *, fused: bool = True) -> None:
        self.lanes = lanes
        self.fused = fused
        self.width = VECTORS * lanes
        most = 8 if registers >= 32 else 4
        # Four rows take so few operations of a panel's value that it has to come from the nearest cache.
        self.slice = _SLICE if registers < 32 else 0
        self.blocks = tuple(rows for rows in (8, 4, 2, 1) if rows <= most)
        # Few rows leave registers free: they take several panels at once, or the chain of sums would be too short.
        self.panels = {rows: most // rows for rows in self.blocks}
        self.conv_vectors = 32 // lanes
        self.conv_rows = {16: 8, 8: 2, 4: 2}[lanes]


class Block(NamedTuple):
    """What a kernel of `block_product` computes at once, and how.

    Attributes:
        rows, panels, vectors: of the result: `vectors` vectors in each row of each panel.
        chunks: arrays that the terms come from, one after the other.
        unroll: terms per turn of the loop; divides their number.
        relu: negative results become 0.
        ahead: cache lines, in bytes from %ahead, that are asked for in every turn.
        nearness: LLVM's locality of these prefetches, 0 to 3.
        packed: a term is a pair of bfloat16.
    """

    rows: int
    panels: int
    vectors: int
    chunks: int = 1
    unroll: int = 4
    relu: bool = False
    ahead: tuple[int, ...] = (0,)
    nearness: int = 2
    packed: bool = False


def block_product(shape: Shape, name: str, block: Block) -> str:
    """IR of c[rows, panels * width] = start + a @ b, in registers from the first term to the last.

    a: `chunks` arrays, each (rows, K) with `lda` between rows; b: the panels, K rows of each chunk after another;
    `start` has `ldi` between its rows (0: one row for all, a bias), and may be c itself, whose sums then go on. K is a
    multiple of `unroll`. After every `unroll` terms the cache lines at these bytes from %ahead are asked for, and
    %ahead moves on by %step bytes per term.
    """
    text = Floats(shape.lanes, fused=shape.fused)
    width = block.vectors * shape.lanes
    arrays = ", ".join("ptr %a{}".format(chunk) for chunk in range(block.chunks))
    text.begin(
        "define internal void @{}({}, i64 %lda, ptr %b, ptr %c, i64 %ldc, ptr %start, i64 %ldi, i64 %K, "
        "ptr %ahead, i64 %step) #0".format(name, arrays)
    )
    stride = text.index("mul", "%K", width * block.chunks)
    bases = [text.at("%b", text.index("mul", stride, panel), "float") for panel in range(block.panels)]
    places = [panel * width + vector * shape.lanes for panel in range(block.panels) for vector in range(block.vectors)]
    starts = [text.at("%start", text.index("mul", "%ldi", row), "float") for row in range(block.rows)]
    sums = [text.sum_from(text.part(start, place)) for start in starts for place in places]
    for chunk in range(block.chunks):
        array = "%a{}".format(chunk)
        lines = [text.at(array, text.index("mul", "%lda", row), "float") for row in range(block.rows)]
        with text.loop("%K", step=block.unroll, carried=sums, kind=text.sums) as term:
            fetched = text.at("%ahead", text.index("mul", term.index, "%step"), "i8")
            for line in block.ahead:
                text.prefetch(text.at(fetched, line, "i8"), block.nearness)
            offset = text.index("add", text.index("mul", term.index, width), text.index("mul", "%K", chunk * width))
            heads = [text.at(base, offset, "float") for base in bases]
            left = [text.at(line, term.index, "float") for line in lines]
            term.carry(_terms(text, block, left, heads, term.carried))
        sums = term.results
    zero = text.constant(0.0)
    for number, result in enumerate(sums):
        row, place = divmod(number, len(places))
        result = text.sum_of(result)
        if block.relu:
            result = text.choose("olt", zero, result, zero)
        text.put(result, text.at("%c", text.index("mul", "%ldc", row), "float"), places[place])
    text.end()
    return text.text()


def _terms(
    text: Floats, block: Block, left: Sequence[str], heads: Sequence[str], totals: Sequence[str]
) -> Sequence[str]:
    """The sums (row after row, panel after panel) after one turn's terms; `left` has a pointer per row, `heads` one per
    panel."""
    width = block.vectors * text.lanes
    for turn in range(block.unroll):
        right = [
            text.part(head, turn * width + vector * text.lanes) for head in heads for vector in range(block.vectors)
        ]
        sums: list[str] = []
        add = _add_pairs if block.packed else Floats.add_products
        for line in left:
            spread = text.spread(text.load(line, turn, "float", 4), "float")
            for first in range(0, len(right), block.vectors):
                factors = right[first : first + block.vectors]
                sums += add(text, totals[len(sums) : len(sums) + len(factors)], spread, factors)
        totals = sums
    return totals


def _add_pairs(text: Floats, totals: Sequence[str], a: str, factors: Sequence[str]) -> list[str]:
    """`Floats.add_products` of pairs of bfloat16: in each lane two products, as the processor adds them."""
    kind = "<{} x bfloat>".format(2 * text.lanes)

    def pairs(value: str) -> str:
        return text.value("bitcast {} {} to {}".format(text.floats, value, kind))

    return [
        text.value("call {0} @llvm.x86.avx512bf16.dpbf16ps.512({0} {1}, {2} {3}, {2} {4})".format(
            text.floats, total, kind, pairs(a), pairs(b)))
        for total, b in zip(totals, factors)
    ]  # fmt: skip


def _ahead_bytes(rows: int) -> int:
    """Bytes of the next panel that are prefetched while one term is added: most where there is least to compute."""
    return 64 if rows == 1 else 16


def product(shape: Shape, name: str, *, several: bool, again: bool = False, packed: bool = False) -> str:
    """IR of a whole product: blocks of 8 rows, then what is left in smaller ones, panel after panel.

    void NAME(a, lda, b, c, ldc, start, ldi, M, K, panels, rows, backwards): `rows` rows pass over all panels before the
    next do, so that they stay in the cache; `backwards` takes the panels from the last to the first, so that those
    which were used last, and are in the cache still, come first. While a panel is used, the next is prefetched.

    `again`: the product is made with the same weights again and again, in turns forwards and backwards. Then the first
    half of the panels are in the cache, and those that come last are not: while the whole product lasts, its second
    half is prefetched, half a panel with each. For one block of the largest size: a smaller one has no time to spare,
    and several blocks need the panels so much later that they are there.

    Where `shape.slice` terms of a panel are taken at a time, all blocks of rows take these before the next. Meanwhile
    sums wait in c, as the float32 values that they are in registers too: the order of terms stays, and so do the bytes.
    """
    kernels = []
    text = Floats(shape.lanes, fused=shape.fused)
    text.begin(
        "define void @{}(ptr %a, i64 %lda, ptr %b, ptr %c, i64 %ldc, ptr %start, i64 %ldi, i64 %M, i64 %K, "
        "i64 %panels, i64 %rows, i1 %backwards) #0".format(name)
    )
    stride = text.index("mul", "%K", shape.width)
    with text.loop("%M", step="%rows") as outer:
        reach = text.index("add", outer.index, "%rows")
        to, start = text.select(text.compare("ult", reach, "%M"), reach, "%M"), outer.index
        for number, rows in enumerate(shape.blocks):
            panels = shape.panels[rows] if several else 1
            kernel = "{}_{}x{}".format(name, rows, panels)
            step, second_half = _ahead_bytes(rows), again and number == 0
            block = Block(rows, panels, VECTORS, unroll=_UNROLL, packed=packed)
            if second_half:
                step = 2 * shape.width  # half of a panel's bytes per term
                block = block._replace(ahead=tuple(range(0, _UNROLL * step, _LINE)), nearness=3)
            kernels.append(block_product(shape, kernel, block))
            count = text.index("udiv", text.index("sub", to, start), rows)
            end = text.index("add", start, text.index("mul", count, rows))
            groups = text.index("udiv", "%panels", panels)
            with text.when(text.compare("ugt", count, 0)), text.loop(groups) as group:
                mirror = text.index("sub", text.index("sub", groups, 1), group.index)
                panel = text.index("mul", text.select("%backwards", mirror, group.index), panels)
                base = text.at("%b", text.index("mul", panel, stride), "float")
                column = text.index("mul", panel, shape.width)
                following = _next(text, stride, base, panels)
                if second_half:
                    following = _second_half(text, stride, group.index)
                size = shape.slice if number == 0 and not again else 0
                with text.loop("%K", step=size or "%K") as part:
                    piece = _slice(text, part.index, base, size, shape.width)
                    amount = text.index("mul", piece.terms, 4 * shape.width * panels)
                    following = text.select(piece.last, following, text.at(piece.b, amount, "i8"), "ptr")
                    with text.loop(end, start=start, step=rows) as row:
                        ahead: tuple[str, int | str] = following, step
                        if not second_half:
                            block_number = text.index("udiv", text.index("sub", row.index, start), rows)
                            fetched = text.index("mul", piece.terms, step)
                            ahead = _once(text, following, amount, fetched, block_number, step)
                        _call(text, kernel, row.index, column, piece, ahead)
            start = end
    text.end()
    return "\n".join([*kernels, text.text()])


class _Slice(NamedTuple):
    """Terms that all blocks of rows take before the next: the number of the first, how many, whether they are the first
    and the last of the sums, and the panel from there."""

    start: str
    terms: str
    first: str
    last: str
    b: str


def _slice(text: Floats, index: str, base: str, size: int, width: int) -> _Slice:
    """The `size` terms (0: all) of a panel from `index` on, or what is left of them."""
    if not size:
        return _Slice(index, "%K", "true", "true", base)
    rest = text.index("sub", "%K", index)
    first, last = text.compare("eq", index, 0), text.compare("ule", rest, size)
    terms = text.select(last, rest, size)
    return _Slice(index, terms, first, last, text.at(base, text.index("mul", index, width), "float"))


def _call(text: Floats, kernel: str, row: str, column: str, part: _Slice, ahead: tuple[str, int | str]) -> None:
    """Have a block of rows take a slice of a panel: from the start values, or from the sums as they wait in c."""
    a = text.at("%a", text.index("add", text.index("mul", row, "%lda"), part.start), "float")
    c, begin = (
        text.at(array, text.index("add", text.index("mul", row, apart), column), "float")
        for array, apart in (("%c", "%ldc"), ("%start", "%ldi"))
    )
    start, apart = text.select(part.first, begin, c, "ptr"), text.select(part.first, "%ldi", "%ldc")
    text.add(
        "  call void @{}(ptr {}, i64 %lda, ptr {}, ptr {}, i64 %ldc, ptr {}, i64 {}, i64 {}, ptr {}, i64 {})".format(
            kernel, a, part.b, c, start, apart, part.terms, *ahead
        )
    )


def _once(text: Floats, following: str, size: str, fetched: str, block: str, step: int) -> tuple[str, str]:
    """(%ahead, %step) of a block of rows, each of which fetches so many bytes: when all `size` are there, no more.

    To ask for what comes much later takes time, and it may lie in no page that is mapped.
    """
    done = text.index("mul", block, fetched)
    wanted = text.compare("ult", done, size)
    return text.at(following, text.select(wanted, done, 0), "i8"), text.select(wanted, step, 0)


def _next(text: Floats, stride: str, base: str, panels: int) -> str:
    """Where the panels lie that come after these."""
    hop = text.index("mul", stride, panels)
    return text.at(base, text.select("%backwards", text.index("sub", 0, hop), hop), "float")


def _second_half(text: Floats, stride: str, group: str) -> str:
    """Where the half of a panel lies that is prefetched with this one: in the second half of the panels."""
    half = text.index("udiv", stride, 2)
    back = text.index("sub", 0, text.index("mul", text.index("add", group, 1), half))
    along = text.select("%backwards", back, text.index("mul", group, half))
    return text.at("%b", text.index("add", text.index("mul", half, "%panels"), along), "float")
