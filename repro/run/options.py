"""The command line of a run, parsed: what `invoke reproduce` and the stages are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from repro.base.errors import UsageError
from repro.graph.pipeline import PRECISIONS, Request
from repro.machine import facts, npu

LOCAL, SLURM = "local", "slurm"


@dataclass(frozen=True)
class Options:
    """The command line of a run, parsed.

    Attributes:
        engine: 'auto' or an engine's name.
        pinned: the stages that run in their pinned image, whatever `toolchain` says; None leaves it to that.
        devices: NPU devices; none for the first idle chip.
        cann: '' for the table's, 'host', or a version.
        on: where stages run: LOCAL, or SLURM for jobs of a cluster.
        leave: a person who interrupts leaves the jobs of a cluster running.
        ascend_host: where the NPU is looked for: this host, but in tests.
    """

    request: Request
    data_option: str = ""
    checkpoint_option: str = ""
    engine: str = "auto"
    toolchain: str = "auto"
    pinned: tuple[str, ...] | None = None
    devices: tuple[int, ...] = ()
    cann: str = ""
    ascend_host: npu.Host = field(default_factory=npu.Host)
    on: str = LOCAL
    leave: bool = False
    force: bool = False
    fetch: bool = True


def check_request(options: Options) -> None:
    """Refuse a value that no run can have.

    Raises:
        UsageError: says which option, and what it may be.
    """
    if options.on not in (LOCAL, SLURM):
        raise UsageError(f"--on {options.on!r} is not known", hint="local, or slurm: docs/guide-cluster.md")
    if options.leave and options.on != SLURM:
        raise UsageError("--leave is for --on slurm", hint="a run on this machine goes on where it was ended")
    if options.on == SLURM and options.request.on_npu:
        raise UsageError(
            "--on slurm runs on the nodes' processors in this version, not on their NPUs",
            hint="leave out --device npu, or start the command on a node that has one",
        )
    if options.request.decode not in ("Greedy", "Beam"):
        raise UsageError(f"--decode {options.request.decode!r} is not known", hint="Greedy or Beam")
    if options.request.split not in ("dev", "test"):
        raise UsageError(f"--split {options.request.split!r} is not known", hint="dev (the published set) or test")
    if options.request.precision not in PRECISIONS:
        raise UsageError(f"--precision {options.request.precision!r} is not known", hint=" or ".join(PRECISIONS))
    if options.request.on_npu and options.request.precision != PRECISIONS[0]:
        raise UsageError("--precision is the CPU's number format", hint="an NPU has --precision-mode, atc's option")
    if options.request.precision != PRECISIONS[0] and not facts.multiplies_bfloat16():
        raise UsageError(
            f"--precision {options.request.precision}: this processor has neither AMX nor AVX512-BF16, so it would be "
            "slower than fp32",
            hint="leave --precision out: fp32 is the model's own number format",
        )
    if options.request.loop < 1:
        raise UsageError("--loop must be at least 1")
