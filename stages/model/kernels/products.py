"""Matrix products in LLVM IR, for a matrix of weights that is kept in panels.

Panels: (columns / width, K, width) float32, `width` = 3 vectors. Every sum runs over its terms in their order, from its
start value to the last, one fused multiply-add after the other, so that the result does not depend on how rows and
columns are cut into blocks.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Sequence

from stages.compiled.ir import Text

VECTORS = 3  # of a panel: with 8 rows, 24 sums fill 32 registers
_UNROLL = 4  # terms
_LINE = 64  # bytes of a cache line


class Shape:
    """How the kernels are laid out for a processor: vector lanes and rows per block.

    Args:
        lanes: float32 values in a vector: 16 (AVX-512), 8 (AVX2) or 4 (NEON, SSE).
        registers: vector registers: 32, or 16 with AVX2 and SSE.
    """

    def __init__(self, lanes: int, registers: int) -> None:
        self.lanes = lanes
        self.width = VECTORS * lanes
        most = 8 if registers >= 32 else 4
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
    """

    rows: int
    panels: int
    vectors: int
    chunks: int = 1
    unroll: int = 4
    relu: bool = False
    ahead: tuple[int, ...] = (0,)
    nearness: int = 2


def block_product(shape: Shape, name: str, block: Block) -> str:
    """IR of c[rows, panels * width] = start + a @ b, in registers from the first term to the last.

    a: `chunks` arrays, each (rows, K) with `lda` between rows; b: the panels, K rows of each chunk after another;
    `start` has `ldi` between its rows (0: one row for all, a bias). K is a multiple of `unroll`. After every `unroll`
    terms the cache lines at these bytes from %ahead are asked for, and %ahead moves on by %step bytes per term.
    """
    text = Text(shape.lanes)
    width = block.vectors * shape.lanes
    arrays = ", ".join("ptr %a{}".format(chunk) for chunk in range(block.chunks))
    text.add(
        "define internal void @{}({}, i64 %lda, ptr %b, ptr noalias %c, i64 %ldc, ptr %start, i64 %ldi, i64 %K, "
        "ptr %ahead, i64 %step) #0 {{\nentry:".format(name, arrays)
    )
    stride = text.value("mul i64 %K, {}".format(width * block.chunks))
    bases = [text.at("%b", text.value("mul i64 {}, {}".format(stride, panel))) for panel in range(block.panels)]
    columns = [(panel, vector) for panel in range(block.panels) for vector in range(block.vectors)]
    sums = {}
    for row in range(block.rows):
        start = text.at("%start", text.value("mul i64 %ldi, {}".format(row)))
        for panel, vector in columns:
            sums[row, panel, vector] = text.load(start, panel * width + vector * shape.lanes)
    before = "entry"
    for chunk in range(block.chunks):
        lines = [
            text.at("%a{}".format(chunk), text.value("mul i64 %lda, {}".format(row))) for row in range(block.rows)
        ]  # fmt: skip
        loop = "loop{}".format(chunk)
        text.add("  br label %{0}\n{0}:".format(loop))
        index, following = "%k{}".format(chunk), "%next{}".format(chunk)
        text.add("  {} = phi i64 [0, %{}], [{}, %{}]".format(index, before, following, loop))
        totals = {}
        for key in sorted(sums):
            totals[key] = "%s{}_{}".format(chunk, "_".join(str(part) for part in key))
            text.add("  {0} = phi {1} [{2}, %{3}], [{0}n, %{4}]".format(
                totals[key], text.vector, sums[key], before, loop))  # fmt: skip
        fetched = text.at("%ahead", text.value("mul i64 {}, %step".format(index)), "i8")
        for place in block.ahead:
            text.prefetch(text.at(fetched, place, "i8") if place else fetched, block.nearness)
        offset = text.value("mul i64 {}, {}".format(index, width))
        offset = text.value("add i64 {}, {}".format(offset, text.value("mul i64 %K, {}".format(chunk * width))))
        heads = [text.at(base, offset) for base in bases]
        left = [text.at(line, index) for line in lines]
        sums = _terms(text, block, left, heads, totals)
        text.add("  {} = add i64 {}, {}".format(following, index, block.unroll))
        more = text.value("icmp ult i64 {}, %K".format(following))
        text.add("  br i1 {}, label %{}, label %after{}\nafter{}:".format(more, loop, chunk, chunk))
        before = "after{}".format(chunk)
    zero = text.constant(0.0)
    for row in range(block.rows):
        line = text.at("%c", text.value("mul i64 %ldc, {}".format(row)))
        for panel, vector in columns:
            result = sums[row, panel, vector]
            if block.relu:
                above = text.value("fcmp ogt {} {}, {}".format(text.vector, result, zero))
                result = text.value("select <{0} x i1> {1}, {2} {3}, {2} {4}".format(
                    shape.lanes, above, text.vector, result, zero))  # fmt: skip
            text.store(result, line, panel * width + vector * shape.lanes)
    text.add("  ret void\n}")
    return text.text()


_DRIVER = """
define void @{name}(ptr %a, i64 %lda, ptr %b, ptr %c, i64 %ldc, ptr %start, i64 %ldi, i64 %M, i64 %K, i64 %panels,
                    i64 %rows, i1 %backwards) #0 {{
entry:
  %stride = mul i64 %K, {width}
  br label %outer
outer:
  %from = phi i64 [0, %entry], [%to, %done]
  %reach = add i64 %from, %rows
  %inside = icmp ult i64 %reach, %M
  %to = select i1 %inside, i64 %reach, i64 %M
  br label %begin{first}
{parts}
done:
  %again = icmp ult i64 %to, %M
  br i1 %again, label %outer, label %end
end:
  ret void
}}
"""

_PART = """
begin{r}:
  %from{r} = phi i64 [{start}, %{before}]
  %left{r} = sub i64 %to, %from{r}
  %blocks{r} = udiv i64 %left{r}, {r}
  %many{r} = mul i64 %blocks{r}, {r}
  %to{r} = add i64 %from{r}, %many{r}
  %groups{r} = udiv i64 %panels, {p}
  %any{r} = icmp ugt i64 %blocks{r}, 0
  br i1 %any{r}, label %group{r}, label %skip{r}
group{r}:
  %n{r} = phi i64 [0, %begin{r}], [%nn{r}, %groupend{r}]
  %last{r} = sub i64 %groups{r}, 1
  %mirror{r} = sub i64 %last{r}, %n{r}
  %g{r} = select i1 %backwards, i64 %mirror{r}, i64 %n{r}
  %p{r} = mul i64 %g{r}, {p}
  %bo{r} = mul i64 %p{r}, %stride
  %bp{r} = getelementptr float, ptr %b, i64 %bo{r}
{where}
  %column{r} = mul i64 %p{r}, {width}
  br label %row{r}
row{r}:
  %i{r} = phi i64 [%from{r}, %group{r}], [%in{r}, %row{r}]
  %ao{r} = mul i64 %i{r}, %lda
  %ap{r} = getelementptr float, ptr %a, i64 %ao{r}
  %co{r} = mul i64 %i{r}, %ldc
  %cc{r} = add i64 %co{r}, %column{r}
  %cp{r} = getelementptr float, ptr %c, i64 %cc{r}
  %so{r} = mul i64 %i{r}, %ldi
  %sc{r} = add i64 %so{r}, %column{r}
  %sp{r} = getelementptr float, ptr %start, i64 %sc{r}
  %done{r} = sub i64 %i{r}, %from{r}
  %ahead{r} = mul i64 %done{r}, %K
  %bytes{r} = mul i64 %ahead{r}, {step_row}
  %pf{r} = getelementptr i8, ptr %fetched{r}, i64 %bytes{r}
  call void @{kernel}(ptr %ap{r}, i64 %lda, ptr %bp{r}, ptr %cp{r}, i64 %ldc, ptr %sp{r}, i64 %ldi, i64 %K, ptr %pf{r},
                      i64 {step})
  %in{r} = add i64 %i{r}, {r}
  %morerows{r} = icmp ult i64 %in{r}, %to{r}
  br i1 %morerows{r}, label %row{r}, label %groupend{r}
groupend{r}:
  %nn{r} = add i64 %n{r}, 1
  %moregroups{r} = icmp ult i64 %nn{r}, %groups{r}
  br i1 %moregroups{r}, label %group{r}, label %skip{r}
skip{r}:
  br label %{after}
"""


_NEXT = """  %hop{r} = mul i64 %stride, {p}
  %nohop{r} = sub i64 0, %hop{r}
  %move{r} = select i1 %backwards, i64 %nohop{r}, i64 %hop{r}
  %fetched{r} = getelementptr float, ptr %bp{r}, i64 %move{r}"""

_SECOND_HALF = """  %half{r} = udiv i64 %stride, 2
  %n1{r} = add i64 %n{r}, 1
  %on{r} = mul i64 %n{r}, %half{r}
  %on1{r} = mul i64 %n1{r}, %half{r}
  %nback{r} = sub i64 0, %on1{r}
  %along{r} = select i1 %backwards, i64 %nback{r}, i64 %on{r}
  %middle{r} = mul i64 %half{r}, %panels
  %place{r} = add i64 %middle{r}, %along{r}
  %fetched{r} = getelementptr float, ptr %b, i64 %place{r}"""


def _terms(
    text: Text, block: Block, left: Sequence[str], heads: Sequence[str], totals: Mapping[tuple[int, int, int], str]
) -> dict[tuple[int, int, int], str]:
    """The sums (row, panel, vector) after one turn's terms; `left` has a pointer per row, `heads` one per panel."""
    width = block.vectors * text.lanes
    columns = [(panel, vector) for panel in range(block.panels) for vector in range(block.vectors)]
    current = dict(totals)
    for turn in range(block.unroll):
        right = {
            (panel, vector): text.load(heads[panel], turn * width + vector * text.lanes) for panel, vector in columns
        }
        for row in range(block.rows):
            scalar = text.value("load float, ptr {}, align 4".format(text.at(left[row], turn)))
            spread = text.spread(scalar)
            for panel, vector in columns:
                key = row, panel, vector
                name = totals[key] + "n" if turn == block.unroll - 1 else ""
                current[key] = text.fma(spread, right[panel, vector], current[key], name)
    return current


def _ahead_bytes(rows: int) -> int:
    """Bytes of the next panel that are prefetched while one term is added: most where there is least to compute."""
    return 64 if rows == 1 else 16


def product(shape: Shape, name: str, *, several: bool, again: bool = False) -> str:
    """IR of a whole product: blocks of 8 rows, then what is left in smaller ones, panel after panel.

    void NAME(a, lda, b, c, ldc, start, ldi, M, K, panels, rows, backwards): `rows` rows pass over all panels before the
    next do, so that they stay in the cache; `backwards` takes the panels from the last to the first, so that those
    which were used last, and are in the cache still, come first. While a panel is used, the next is prefetched.

    `again`: the product is made with the same weights again and again, in turns forwards and backwards. Then the first
    half of the panels are in the cache, and those that come last are not: while the whole product lasts, its second
    half is prefetched, half a panel with each. For one block of the largest size: a smaller one has no time to spare,
    and several blocks need the panels so much later that they are there.
    """
    kernels, parts = [], []
    for number, rows in enumerate(shape.blocks):
        panels = shape.panels[rows] if several else 1
        kernel = "{}_{}x{}".format(name, rows, panels)
        step, step_row, where = _ahead_bytes(rows), _ahead_bytes(rows) // rows, _NEXT
        block = Block(rows, panels, VECTORS, unroll=_UNROLL)
        if again and number == 0:
            step, step_row, where = 2 * shape.width, 0, _SECOND_HALF  # half of a panel's bytes per term
            block = block._replace(ahead=tuple(range(0, _UNROLL * step, _LINE)), nearness=3)
        kernels.append(block_product(shape, kernel, block))
        before = "skip{}".format(shape.blocks[number - 1]) if number else "outer"
        after = "begin{}".format(shape.blocks[number + 1]) if number + 1 < len(shape.blocks) else "done"
        start = "%to{}".format(shape.blocks[number - 1]) if number else "%from"
        parts.append(_PART.format(r=rows, p=panels, width=shape.width, kernel=kernel, before=before, after=after,
                                  start=start, step=step, step_row=step_row,
                                  where=where.format(r=rows, p=panels)))  # fmt: skip
    driver = _DRIVER.format(name=name, width=shape.width, first=shape.blocks[0], parts="".join(parts))
    return "\n".join([*kernels, driver])
