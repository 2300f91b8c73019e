"""The recurrence's work in two parts, for one thread or for two that keep step, as LLVM IR.

A direction's recurrent weights, 2.36 MB, do not fit a core's cache of 2 MB; half of them do. So a part is half of a
direction's hidden units with all that belongs to them: a quarter of its columns for each gate. Two threads that take
a part each have their half in the cache for good, and have to hand each other their half of the state after each step.
Every sum is the same in either way, and so are the bytes.
"""

from __future__ import annotations

from stages.compiled.ir import Vectors

PARTS = 2

LET_GO = 2**62
"""A counter with this value lets its partner pass all meetings: so is a thread let go whose partner will not come."""

# Looks, some 0.1 ms: a partner comes within microseconds, unless it is kept from its processor. There is no pause
# between looks: on recent processors one takes as long as what is waited for.
_PATIENCE = 100000

_MEET = """
declare i32 @sched_yield()
define void @meet(ptr %mine, ptr %theirs, i64 %number) #0 {{
entry:
  store atomic i64 %number, ptr %mine release, align 8
  br label %look
look:
  %looks = phi i64 [0, %entry], [%more, %again]
  %there = load atomic i64, ptr %theirs acquire, align 8
  %come = icmp sge i64 %there, %number
  br i1 %come, label %met, label %missed
missed:
  %more = add i64 %looks, 1
  %long = icmp ugt i64 %more, {patience}
  br i1 %long, label %offer, label %again
offer:
  call i32 @sched_yield()
  br label %again
again:
  br label %look
met:
  ret void
}}
"""


def source(hidden: int) -> str:
    """IR of what two threads meet with.

    void meet(mine, theirs, number): returns when both of two threads have come to the meeting `number`. mine, theirs:
    each one's counter, an int64 on a cache line of its own, 0 at the start; numbers only grow. What either wrote before
    is seen by the other after. Who has waited long offers the processor, which the partner may be waiting for.

    void fetch(rows, apart, count) asks for one part of `count` rows of the state at once.
    """
    text = Vectors(1)
    text.add(_MEET.format(patience=_PATIENCE))
    text.begin("define internal void @fetch(ptr %rows, i64 %apart, i64 %count) #0")
    with text.loop("%count") as row:
        line = text.at("%rows", text.index("mul", row.index, "%apart"), "float")
        with text.loop(4 * hidden // PARTS, step=64) as byte:
            place = text.at(line, byte.index, "i8")
            text.add("  call void @llvm.prefetch.p0(ptr {}, i32 0, i32 3, i32 1)".format(place))
    text.end()
    return text.text()
