"""The recurrent network in bfloat16 on AMX, the processor's matrix unit, as LLVM IR.

Operands are bfloat16, rounded to the nearest, ties to even; sums are float32, in the unit's own order: for 32 terms at
a time the products with even and with odd numbers each in their order, the two sums added, and that to what was there.
The order depends on neither batch size nor threads, and so the bytes do not either.

Weights lie in tiles: (columns / 16, K / 32, 16, 16, 2): within a tile pairs of terms, column by column.
"""

from __future__ import annotations

import ctypes
from typing import Mapping

from stages.compiled.ir import Floats

TILE_ROWS, TILE_COLUMNS, TILE_TERMS = 16, 16, 32
BLOCK_ROWS = 2 * TILE_ROWS
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # Linux on x86-64


def usable(features: Mapping[str, bool]) -> bool:
    """Whether the processor has AMX with bfloat16 and the kernel lets this process use it."""
    if not (features.get("amx-tile") and features.get("amx-bf16") and features.get("avx512f")):
        return False
    return ctypes.CDLL(None, use_errno=True).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0


SIGNATURES = {
    "product16": "pnppnpnnnn",
    "recurrence16": "pppnnnbppp",
}


def narrowed(text: Floats, value: str) -> str:
    """A vector of float32 as bfloat16, in the upper half of 32-bit integers: nearest, ties to even."""
    bits = text.cast("bitcast", value, "float", "i32")
    odd = text.apply("and", "i32", text.apply("lshr", "i32", bits, text.splat("i32", 16)), text.splat("i32", 1))
    bits = text.apply("add", "i32", text.apply("add", "i32", bits, odd), text.splat("i32", 0x7FFF))
    return text.apply("and", "i32", bits, text.splat("i32", 0xFFFF0000 - (1 << 32)))


def store_half(text: Floats, bits: str, pointer: str, index: str) -> None:
    """Store the upper halves of 32-bit integers as 16-bit ones."""
    half = text.cast("trunc", text.apply("lshr", "i32", bits, text.splat("i32", 16)), "i32", "i16")
    text.add("  store {} {}, ptr {}, align 2".format(text.vector("i16"), half, text.at(pointer, index, "i16")))


def narrow(lanes: int) -> str:
    """IR: void narrow(source, target, count): float32 to bfloat16; count is a multiple of the lanes."""
    text = Floats(lanes)
    text.begin("define void @narrow(ptr %source, ptr %target, i64 %count) #0")
    with text.loop("%count", step=lanes) as place:
        store_half(text, narrowed(text, text.part("%source", place.index)), "%target", place.index)
    text.end()
    return text.text()


# Palette 1; eight tiles of 16 rows of 64 bytes.
_CONFIGURATION = 'c"\\01' + "\\00" * 15 + "\\40\\00" * 8 + "\\00" * 16 + "\\10" * 8 + "\\00" * 8 + '"'

_COMMON = """
@tiles = internal constant [64 x i8] {configuration}, align 64
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)
declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)
declare void @llvm.x86.tdpbf16ps(i8 immarg, i8 immarg, i8 immarg)
"""

# void product16(a, lda, b, c, ldc, start, M, blocks, tiles, rows): c = start + a @ b; `start` is one row for all, lda
# counts bfloat16 and ldc float32 values, M is a multiple of 32, K = 32 * blocks, `tiles` is even; `rows` (a multiple
# of 32) pass over all columns before the next do.
_PRODUCT = """
define void @product16(ptr %a, i64 %lda, ptr %b, ptr %c, i64 %ldc, ptr %start, i64 %M, i64 %blocks, i64 %tiles,
                       i64 %rows) #0 {
entry:
  call void @llvm.x86.ldtilecfg(ptr @tiles)
  %as = mul i64 %lda, 2
  %cs = mul i64 %ldc, 4
  %bt = mul i64 %blocks, 1024
  %ah = mul i64 %as, 16
  %ch = mul i64 %cs, 16
  br label %outer
outer:
  %from = phi i64 [0, %entry], [%to, %outerend]
  %reach = add i64 %from, %rows
  %inside = icmp ult i64 %reach, %M
  %to = select i1 %inside, i64 %reach, i64 %M
  br label %column
column:
  %n = phi i64 [0, %outer], [%nn, %columnend]
  %bo = mul i64 %n, %bt
  %b0 = getelementptr i8, ptr %b, i64 %bo
  %b1 = getelementptr i8, ptr %b0, i64 %bt
  %no = mul i64 %n, 64
  %s0 = getelementptr i8, ptr %start, i64 %no
  %s1 = getelementptr i8, ptr %s0, i64 64
  br label %row
row:
  %m = phi i64 [%from, %column], [%mn, %rowend]
  %ao = mul i64 %m, %as
  %a0 = getelementptr i8, ptr %a, i64 %ao
  %a1 = getelementptr i8, ptr %a0, i64 %ah
  call void @llvm.x86.tileloadd64(i8 0, ptr %s0, i64 0)
  call void @llvm.x86.tileloadd64(i8 1, ptr %s1, i64 0)
  call void @llvm.x86.tileloadd64(i8 2, ptr %s0, i64 0)
  call void @llvm.x86.tileloadd64(i8 3, ptr %s1, i64 0)
  br label %term
term:
  %k = phi i64 [0, %row], [%kn, %term]
  %ko = mul i64 %k, 64
  %kt = mul i64 %k, 1024
  %ak0 = getelementptr i8, ptr %a0, i64 %ko
  %ak1 = getelementptr i8, ptr %a1, i64 %ko
  %bk0 = getelementptr i8, ptr %b0, i64 %kt
  %bk1 = getelementptr i8, ptr %b1, i64 %kt
  call void @llvm.x86.tileloadd64(i8 6, ptr %bk0, i64 64)
  call void @llvm.x86.tileloadd64(i8 4, ptr %ak0, i64 %as)
  call void @llvm.x86.tdpbf16ps(i8 0, i8 4, i8 6)
  call void @llvm.x86.tileloadd64(i8 7, ptr %bk1, i64 64)
  call void @llvm.x86.tdpbf16ps(i8 1, i8 4, i8 7)
  call void @llvm.x86.tileloadd64(i8 5, ptr %ak1, i64 %as)
  call void @llvm.x86.tdpbf16ps(i8 2, i8 5, i8 6)
  call void @llvm.x86.tdpbf16ps(i8 3, i8 5, i8 7)
  %kn = add i64 %k, 1
  %mk = icmp ult i64 %kn, %blocks
  br i1 %mk, label %term, label %rowend
rowend:
  %co = mul i64 %m, %cs
  %cn = add i64 %co, %no
  %c0 = getelementptr i8, ptr %c, i64 %cn
  %c1 = getelementptr i8, ptr %c0, i64 64
  %c2 = getelementptr i8, ptr %c0, i64 %ch
  %c3 = getelementptr i8, ptr %c1, i64 %ch
  call void @llvm.x86.tilestored64(i8 0, ptr %c0, i64 %cs)
  call void @llvm.x86.tilestored64(i8 1, ptr %c1, i64 %cs)
  call void @llvm.x86.tilestored64(i8 2, ptr %c2, i64 %cs)
  call void @llvm.x86.tilestored64(i8 3, ptr %c3, i64 %cs)
  %mn = add i64 %m, 32
  %mm = icmp ult i64 %mn, %to
  br i1 %mm, label %row, label %columnend
columnend:
  %nn = add i64 %n, 2
  %mc = icmp ult i64 %nn, %tiles
  br i1 %mc, label %column, label %outerend
outerend:
  %again = icmp ult i64 %to, %M
  br i1 %again, label %outer, label %end
end:
  call void @llvm.x86.tilerelease()
  ret void
}
"""

# void recurrence16(inputs, weights, output, ld, batch, frames, reverse, zeros, cell, sums): as `recurrence` of
# kernels.recogniser for at most 16 utterances, with output and `zeros` in bfloat16. The tiles of sums (0 to 3) and of
# the state (4) are given as many rows as there are utterances.
_RECURRENCE = """
define void @recurrence16(ptr %inputs, ptr %weights, ptr %output, i64 %ld, i64 %batch, i64 %frames, i1 %reverse,
                          ptr %zeros, ptr %cell, ptr %sums) #0 {{
entry:
  %configuration = alloca [64 x i8], align 64
  call void @llvm.memcpy.p0.p0.i64(ptr %configuration, ptr @tiles, i64 64, i1 false)
  %few = trunc i64 %batch to i8
  %rows0 = insertelement <5 x i8> poison, i8 %few, i32 0
  %rows = shufflevector <5 x i8> %rows0, <5 x i8> poison, <5 x i32> zeroinitializer
  %place = getelementptr i8, ptr %configuration, i64 48
  store <5 x i8> %rows, ptr %place, align 1
  call void @llvm.x86.ldtilecfg(ptr %configuration)
  %last = sub i64 %frames, 1
  %size = mul i64 %batch, {gates}
  %span = mul i64 %batch, %ld
  %bytes = mul i64 %ld, 2
  %back = sub i64 0, %size
  %along = select i1 %reverse, i64 %back, i64 %size
  br label %step
step:
  %s = phi i64 [0, %entry], [%sn, %stepend]
  %before = phi ptr [%zeros, %entry], [%out, %stepend]
  %ldb = phi i64 [{half}, %entry], [%bytes, %stepend]
  %mirror = sub i64 %last, %s
  %t = select i1 %reverse, i64 %mirror, i64 %s
  %io = mul i64 %t, %size
  %in = getelementptr float, ptr %inputs, i64 %io
  %oo = mul i64 %t, %span
  %out = getelementptr i16, ptr %output, i64 %oo
  br label %column
column:
  %n = phi i64 [0, %step], [%nn, %columnend]
  %bo = mul i64 %n, {tile_column}
  %b0 = getelementptr i8, ptr %weights, i64 %bo
  %b1 = getelementptr i8, ptr %b0, i64 {tile_column}
  %b2 = getelementptr i8, ptr %b1, i64 {tile_column}
  %b3 = getelementptr i8, ptr %b2, i64 {tile_column}
  %no = mul i64 %n, 64
  %i0 = getelementptr i8, ptr %in, i64 %no
  %i1 = getelementptr i8, ptr %i0, i64 64
  %i2 = getelementptr i8, ptr %i0, i64 128
  %i3 = getelementptr i8, ptr %i0, i64 192
  call void @llvm.x86.tileloadd64(i8 0, ptr %i0, i64 {row})
  call void @llvm.x86.tileloadd64(i8 1, ptr %i1, i64 {row})
  call void @llvm.x86.tileloadd64(i8 2, ptr %i2, i64 {row})
  call void @llvm.x86.tileloadd64(i8 3, ptr %i3, i64 {row})
  br label %term
term:
  %k = phi i64 [0, %column], [%kn, %term]
  %ko = mul i64 %k, 64
  %kt = mul i64 %k, 1024
  %ak = getelementptr i8, ptr %before, i64 %ko
  %bk0 = getelementptr i8, ptr %b0, i64 %kt
  %bk1 = getelementptr i8, ptr %b1, i64 %kt
  %bk2 = getelementptr i8, ptr %b2, i64 %kt
  %bk3 = getelementptr i8, ptr %b3, i64 %kt
  call void @llvm.x86.tileloadd64(i8 4, ptr %ak, i64 %ldb)
  call void @llvm.x86.tileloadd64(i8 5, ptr %bk0, i64 64)
  call void @llvm.x86.tdpbf16ps(i8 0, i8 4, i8 5)
  call void @llvm.x86.tileloadd64(i8 6, ptr %bk1, i64 64)
  call void @llvm.x86.tdpbf16ps(i8 1, i8 4, i8 6)
  call void @llvm.x86.tileloadd64(i8 7, ptr %bk2, i64 64)
  call void @llvm.x86.tdpbf16ps(i8 2, i8 4, i8 7)
  call void @llvm.x86.tileloadd64(i8 5, ptr %bk3, i64 64)
  call void @llvm.x86.tdpbf16ps(i8 3, i8 4, i8 5)
  %kn = add i64 %k, 1
  %mk = icmp ult i64 %kn, {blocks}
  br i1 %mk, label %term, label %columnend
columnend:
  %s0 = getelementptr i8, ptr %sums, i64 %no
  %s1 = getelementptr i8, ptr %s0, i64 64
  %s2 = getelementptr i8, ptr %s0, i64 128
  %s3 = getelementptr i8, ptr %s0, i64 192
  call void @llvm.x86.tilestored64(i8 0, ptr %s0, i64 {row})
  call void @llvm.x86.tilestored64(i8 1, ptr %s1, i64 {row})
  call void @llvm.x86.tilestored64(i8 2, ptr %s2, i64 {row})
  call void @llvm.x86.tilestored64(i8 3, ptr %s3, i64 {row})
  %nn = add i64 %n, 4
  %mc = icmp ult i64 %nn, {tiles}
  br i1 %mc, label %column, label %stepend
stepend:
  %soon = getelementptr float, ptr %in, i64 %along
  call void @gates16(ptr %sums, ptr %cell, ptr %out, i64 %ld, i64 %batch, ptr %soon)
  %sn = add i64 %s, 1
  %more = icmp ult i64 %sn, %frames
  br i1 %more, label %step, label %end
end:
  call void @llvm.x86.tilerelease()
  ret void
}}
"""


def source(hidden: int) -> str:
    """The IR that stands beside stages.model.kernels.recogniser.source, whose gates16 it calls."""
    blocks = hidden // TILE_TERMS
    recurrence = _RECURRENCE.format(
        gates=4 * hidden,
        half=2 * hidden,
        row=16 * hidden,
        blocks=blocks,
        tile_column=1024 * blocks,
        tiles=4 * hidden // TILE_COLUMNS,
    )
    return "\n".join([_COMMON.format(configuration=_CONFIGURATION), _PRODUCT, recurrence])
