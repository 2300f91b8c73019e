"""The network's last step, logits to log-probabilities, as LLVM IR: the bytes of `network.log_softmax`'s arrays.

A row's classes lie along the vector: eight partial sums, joined in pairs, then what is left over; so is the order fixed
in which a row's powers are added. All in float64, rounded once.
"""

from __future__ import annotations

from stages.compiled.elementary import exponential, logarithm
from stages.compiled.ir import Vectors

LANES = 8
SIGNATURES = {"log_softmax": "pnnpnnn"}


def _lane(text: Vectors, kind: str, vector: str, lane: int) -> str:
    return text.value("extractelement {} {}, i32 {}".format(text.vector(kind), vector, lane))


def _largest(text: Vectors, values: list[str]) -> str:
    while len(values) > 1:
        half = (len(values) + 1) // 2
        joined = [text.call("llvm.maxnum", "double", a, b) for a, b in zip(values, values[half:])]
        values = joined + values[len(joined) : half]
    lanes = [_lane(text, "double", values[0], lane) for lane in range(LANES)]
    while len(lanes) > 1:
        lanes = [
            text.value("call double @llvm.maxnum.f64(double {}, double {})".format(*lanes[at : at + 2]))
            for at in range(0, len(lanes), 2)
        ]
    return text.spread(lanes[0], "double")


def _total(text: Vectors, powers: list[str]) -> str:
    """The sum of a row's powers; of the last vector, the first lane alone."""
    partial = powers[0]
    for power in powers[1:-1]:
        partial = text.apply("fadd", "double", partial, power)
    lanes = [_lane(text, "double", partial, lane) for lane in range(LANES)]
    while len(lanes) > 1:
        lanes = [text.value("fadd double {}, {}".format(*lanes[at : at + 2])) for at in range(0, len(lanes), 2)]
    return text.spread(
        text.value("fadd double {}, {}".format(lanes[0], _lane(text, "double", powers[-1], 0))), "double"
    )


def source(classes: int) -> str:
    """IR: void log_softmax(logits, apart, next, output, frame, frames, rows).

    logits: float32 rows, `apart` values from one to the next and `next` from a frame's first row to the next frame's;
    output: rows of `classes` float32 that follow each other, `frame` values from frame to frame; `rows` rows of each of
    `frames` frames.

    Args:
        classes: one more than a multiple of 8.
    """
    if classes % LANES != 1 or classes < 2 * LANES:
        raise ValueError("{} classes are not one more than a multiple of {}".format(classes, LANES))
    text = Vectors(LANES)
    doubles, floats = text.vector("double"), text.vector("float")
    text.add("declare {0} @llvm.maxnum.v{1}f64({0}, {0})".format(doubles, LANES))
    text.add("declare double @llvm.maxnum.f64(double, double)")
    text.add('attributes #0 = { nounwind "prefer-vector-width"="512" }')
    text.begin(
        "define void @log_softmax(ptr %in, i64 %apart, i64 %next, ptr %out, i64 %frame, i64 %frames, i64 %rows) #0"
    )
    with text.loop("%frames") as frame, text.loop("%rows") as row:
        first = text.index("add", text.index("mul", frame.index, "%next"), text.index("mul", row.index, "%apart"))
        logits = text.at("%in", first, "float")
        values = []
        for start in range(0, classes - 1, LANES):
            loaded = text.value("load {}, ptr {}, align 4".format(floats, text.at(logits, start, "float")))
            values.append(text.cast("fpext", loaded, "float", "double"))
        last = text.spread(text.load(logits, classes - 1, "float", 4), "float")
        values.append(text.cast("fpext", last, "float", "double"))
        most = _largest(text, values)
        values = [text.apply("fsub", "double", value, most) for value in values]
        level = logarithm(text, _total(text, [exponential(text, value) for value in values]))
        at = text.index("mul", row.index, classes)
        output = text.at("%out", text.index("add", text.index("mul", frame.index, "%frame"), at), "float")
        for number, value in enumerate(values):
            rounded = text.cast("fptrunc", text.apply("fsub", "double", value, level), "double", "float")
            place = text.at(output, number * LANES, "float")
            if number < len(values) - 1:
                text.add("  store {} {}, ptr {}, align 4".format(floats, rounded, place))
            else:
                text.add("  store float {}, ptr {}, align 4".format(_lane(text, "float", rounded, 0), place))
    text.end()
    return text.text()
