"""LLVM IR compiled in memory for the processor at hand, as functions to call."""

from __future__ import annotations

import ctypes
import mmap
import types
from typing import Mapping

import llvmlite.binding as llvm

from stages.shared.stage import StageError

_POINTER, _COUNT, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_bool


class Library:
    """A compiled module: its functions, which release Python's lock, as attributes of `call`.

    Args:
        text: LLVM IR.
        features: LLVM's names of the processor's features and whether it has them.
        signatures: of each function its arguments: p a pointer, n a count, b a flag.

    Raises:
        StageError: the machine lets no program make memory executable.
    """

    def __init__(self, text: str, features: Mapping[str, bool], signatures: Mapping[str, str]) -> None:
        _require_executable_memory()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        module = llvm.parse_assembly(text)
        module.verify()
        flat = ",".join(("+" if has else "-") + name for name, has in sorted(features.items()))
        machine = llvm.Target.from_default_triple().create_target_machine(features=flat, opt=3, jit=True)
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
        builder.getModulePassManager().run(module, builder)
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        kinds = {"p": _POINTER, "n": _COUNT, "b": _FLAG}
        prototypes = {
            name: ctypes.CFUNCTYPE(None, *(kinds[letter] for letter in letters)) for name, letters in signatures.items()
        }
        # They live as long as this object: it holds the memory that their code lies in.
        self.call = types.SimpleNamespace(
            **{name: make(self._engine.get_function_address(name)) for name, make in prototypes.items()}
        )


def _require_executable_memory() -> None:
    """LLVM does not look whether its code could be made executable: the first call would end the process."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except PermissionError:
        raise StageError("memory cannot be made executable")


def host_features() -> dict[str, bool]:
    """LLVM's features of this processor: {name: bool}."""
    return dict(llvm.get_host_cpu_features())
