"""The golden model case for tests: the weights that its README describes, from NumPy alone."""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "model"


def golden_shapes():
    """Name -> list of sizes, of the reference's state dict."""
    return json.loads((GOLDEN / "state_dict.json").read_text(encoding="utf-8"))["shapes"]


def golden_weights():
    """Name -> float32 array (int64 for counters), as the golden folder's README makes them."""
    random = np.random.RandomState(20261122)
    shapes = golden_shapes()
    return {name: _draw(random, name, shapes[name]) for name in sorted(shapes)}


def _draw(random, name, shape):
    if name.endswith("num_batches_tracked"):
        return np.array(1, dtype=np.int64)
    x = random.uniform(-1, 1, shape)
    if name.endswith("running_var"):
        x = 1 + 0.5 * x
    elif name.endswith("running_mean"):
        x = 0.1 * x
    elif name.endswith("batch_norm.weight") or name == "fc.0.weight":
        x = 1 + 0.2 * x
    elif name.endswith("bias"):
        x = 0.1 * x
    elif "weight_ih" in name or "weight_hh" in name:
        x = 2 * x / np.sqrt(384)
    elif name == "fc.1.weight":
        x = 0.5 * x
    else:
        x = x / 3
    return x.astype(np.float32)


def parity():
    """(input (2, 390, 243), output (195, 2, 41)) of the reference model with those weights, float32."""
    with np.load(GOLDEN / "parity.npz") as case:
        return case["input"], case["output"]
