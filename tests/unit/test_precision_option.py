"""--precision bf16 where the processor multiplies bfloat16, and its refusal where it does not."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from repro.base.errors import UsageError
from repro.graph.pipeline import Request
from repro.machine import facts
from repro.run.options import Options, check_request


@pytest.mark.parametrize(("flags", "refused"), [("avx512f", True), ("avx512f avx512_bf16", False), ("amx_bf16", False)])
def test_bf16_is_refused_as_wrong_use_where_the_processor_does_not_multiply_it(monkeypatch, flags, refused):
    monkeypatch.setattr(facts, "architecture", lambda: "amd64")
    monkeypatch.setattr(facts, "_cpuinfo", lambda: {"flags": flags})
    options = Options(Request((8,), precision="bf16"))
    with pytest.raises(UsageError, match="neither AMX nor AVX512-BF16") if refused else nullcontext():
        check_request(options)
