"""`invoke test`: code that nothing uses. vulture finds it; what it finds in error is argued here, name by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from vulture.core import Item, Vulture

_LOOKED_AT = ("repro", "stages", "tasks.py")
_ONNX_RUNTIME = "an attribute of ONNX Runtime's options or of an ONNX graph: they read it"
_PICKLE = "pickle calls it"
_INSTALLER = "PyPA's installer calls it: its interface of a destination"
_INVOKE = "Invoke calls it, or reads it"
_KALDI = "an option of kaldi-native-fbank, which the bench sets as fbank.conf has it"
_PROTOCOL = "a parameter that Python's own protocol names"
_ARGUED = {
    "log_severity_level": _ONNX_RUNTIME, "ir_version": _ONNX_RUNTIME, "inter_op_num_threads": _ONNX_RUNTIME,
    "execution_mode": _ONNX_RUNTIME, "use_deterministic_compute": _ONNX_RUNTIME,
    "dispatch_table": _PICKLE, "persistent_id": _PICKLE, "find_class": _PICKLE, "persistent_load": _PICKLE,
    "write_script": _INSTALLER, "write_file": _INSTALLER, "finalize_installation": _INSTALLER,
    "load_system": _INVOKE, "load_user": _INVOKE, "load_project": _INVOKE, "load_shell_env": _INVOKE, "ns": _INVOKE,
    "__signature__": "inspect reads it, and Invoke by that",
    "__init_subclass__": "the interpreter calls it",
    "dont_write_bytecode": "the interpreter reads it",
    "trace": _PROTOCOL,
    **dict.fromkeys((
        "samp_freq", "frame_length_ms", "frame_shift_ms", "preemph_coeff", "remove_dc_offset", "window_type",
        "snip_edges", "low_freq", "high_freq", "use_energy", "raw_energy", "energy_floor", "htk_compat",
        "use_log_fbank", "use_power"), _KALDI),
    "serial_number": "an attribute of CycloneDX's document, which its library writes",
    **dict.fromkeys(("numeric", "caption", "figures_label", "notice", "changes"), "a page's templates read it"),
    "bus_id": "part of what npu-smi says of a chip", "memory_used_mb": "likewise",
    "at_s": "of a sample, which is written to the record field by field",
    "create_system": "an attribute of a zip's entry, which zipfile writes",
}  # fmt: skip


def found(root: Path) -> list[Item]:
    """What vulture calls unused in product code.

    Commands are Invoke's to call; the fields of a record's and a stage file's types are read and written by msgspec.
    """
    vulture = Vulture(ignore_decorators=["@command"])
    vulture.scavenge([str(root / name) for name in _LOOKED_AT])
    items: list[Item] = vulture.get_unused_code(min_confidence=60)
    documents = (root / "repro" / "record", root / "repro" / "audit" / "stage_files.py")
    return [item for item in items if not (item.typ == "variable" and _lies_in(Path(item.filename), documents))]


def _lies_in(path: Path, places: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def complaints(items: list[Item]) -> Iterator[str]:
    """What is not argued, and what is argued and not found any more."""
    names = {item.name for item in items}
    yield from (str(item.get_report()) for item in items if item.name not in _ARGUED)
    yield from (f"repro/cli/dead_code.py: {name!r} is argued, and in use" for name in _ARGUED if name not in names)


def main() -> None:
    """End with 1 where something is unused, or argued without need."""
    lines = list(complaints(found(Path(__file__).resolve().parents[2])))
    sys.exit("\n".join(lines) if lines else 0)


if __name__ == "__main__":
    main()
