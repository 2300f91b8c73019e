"""The golden model case for tests: the weights that its README describes, from NumPy alone."""

import json
import struct
import zipfile
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


def write_plain_onnx(path, weights):
    """Write the recogniser as the exporter lays it out: two LSTMs a layer around flips, dynamic batch axis.

    Stands in for an export where PyTorch 1.8 is not at hand; needs the onnx package.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def normalise(x, prefix, name):
        keys = ("weight", "bias", "running_mean", "running_var")
        inputs = [constant(prefix + "." + key, weights[prefix + "." + key]) for key in keys]
        swapped = add("Transpose", [x], name + "_ncl", perm=[1, 2, 0])
        return add(
            "Transpose", [add("BatchNormalization", [swapped, *inputs], name + "_bn")], name + "_tnc", perm=[2, 0, 1]
        )

    def flip(x, name):
        ends = [constant(name + part, np.array([value])) for part, value in
                (("_from", -1), ("_to", np.iinfo(np.int64).min + 1), ("_axis", 0), ("_step", -1))]  # fmt: skip
        return add("Slice", [x, *ends], name)

    def lstm(x, prefix, name):
        order = np.r_[0:384, 1152:1536, 384:768, 768:1152]  # PyTorch's gates i, f, g, o; ONNX's i, o, f, c
        inputs = [x]
        for key in ("weight_ih_l0", "weight_hh_l0"):
            inputs.append(constant(prefix + key, weights[prefix + key][order][np.newaxis]))
        nodes.append(helper.make_node("LSTM", inputs, [name + "_y"], name=name + "_y", hidden_size=384))
        return add("Squeeze", [name + "_y"], name, axes=[1])

    x = add("Unsqueeze", ["actual_input_1"], "image", axes=[1])
    for index, strides in enumerate(([1, 2], [2, 2])):
        block = f"conv.{index}."
        scale = weights[block + "batch_norm.weight"] / np.sqrt(weights[block + "batch_norm.running_var"] + 1e-5)
        kernel = weights[block + "conv.weight"] * scale[:, None, None, None]
        bias = (weights[block + "conv.bias"] - weights[block + "batch_norm.running_mean"]) * scale
        bias = bias + weights[block + "batch_norm.bias"]
        inputs = [x, constant(block + "w", kernel.astype(np.float32)), constant(block + "b", bias.astype(np.float32))]
        x = add("Conv", inputs, block, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=strides)
        x = add("Relu", [x], block + "relu")
    x = add("Transpose", [x], "time_first", perm=[2, 0, 1, 3])
    x = add("Reshape", [x, constant("frames", np.array([0, 0, 1952]))], "flat")
    for layer in range(4):
        name = f"rnns.{layer}"
        x = normalise(x, name + ".batch_norm", name) if layer else x
        forward = lstm(x, name + ".rnn.", name + "_forward")
        backward = flip(lstm(flip(x, name + "_in"), name + ".rnn_w.", name + "_backward"), name + "_out")
        x = add("Concat", [forward, backward], name + "_both", axis=2)
    x = normalise(x, "fc.0", "fc")
    x = add("MatMul", [x, constant("fc.1", weights["fc.1.weight"].T)], "logits")
    add("LogSoftmax", [x], "output1", axis=2)
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("actual_input_1", TensorProto.FLOAT, ["-1", 390, 243])],
        [helper.make_tensor_value_info("output1", TensorProto.FLOAT, [195, "-1", 41])],
        initializer=constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 6
    onnx.save(model, str(path))


def write_stand_in(path, batch_size):
    """A small graph with the model's face: output1[t, b, c] = actual_input_1[b, t, c], for t < 195 and c < 41."""
    import onnx
    from onnx import helper, numpy_helper

    ends = [
        numpy_helper.from_array(np.array(values, dtype=np.int64), name)
        for name, values in (("from", [0, 0]), ("to", [195, 41]), ("axes", [1, 2]))
    ]
    nodes = [
        helper.make_node("Slice", ["actual_input_1", "from", "to", "axes"], ["part"]),
        helper.make_node("Transpose", ["part"], ["output1"], perm=[1, 0, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info("actual_input_1", onnx.TensorProto.FLOAT, [batch_size, 390, 243])],
        [helper.make_tensor_value_info("output1", onnx.TensorProto.FLOAT, [195, batch_size, 41])],
        initializer=ends,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 6
    onnx.save(model, str(path))


def write_converted(path, weights, batch_size):
    """Write the converted graph of a model with these weights, for one batch size."""
    from stages import convert

    plain = path.with_name("plain.onnx")
    write_plain_onnx(plain, weights)
    import onnx

    graph = convert.fuse(onnx.load(str(plain)), str(plain), batch_size)
    plain.unlink()
    path.write_bytes(graph.SerializeToString(deterministic=True))


def write_batches(folder, values, whole, tail, utterances=()):
    """The batches stage's folder, from `values`: float32 (whole + tail, B, 390, 243), one file each."""
    for index, rows in enumerate(values):
        target = folder / ("bins" if index < whole else "tail")
        target.mkdir(parents=True, exist_ok=True)
        (target / f"inputs_{index}.bin").write_bytes(rows.tobytes())
    manifest = {
        "batch_size": values.shape[1],
        "rows": 390,
        "columns": 243,
        "num_batches": whole,
        "num_tail_batches": tail,
        "split": "dev",
        "utterances": [
            {"stacked_frames": 2 * entry["output_frames"], "id": f"S_{number}", **entry}
            for number, entry in enumerate(utterances)
        ],
        "excluded": [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


_STORAGES = {
    "float16": b"HalfStorage",
    "float32": b"FloatStorage",
    "float64": b"DoubleStorage",
    "int64": b"LongStorage",
}


def _text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value):
    return b"J" + struct.pack("<i", value)


def _pickled_tensor(key, array):
    """What PyTorch's pickler writes for a contiguous tensor whose storage is called `key`."""
    storage = b"(" + _text("storage") + b"ctorch\n" + _STORAGES[array.dtype.name] + b"\n"
    storage += _text(key) + _text("cpu") + _number(array.size) + b"tQ"
    strides = [stride // array.itemsize for stride in array.strides]
    size = b"(" + b"".join(map(_number, array.shape)) + b"t"
    stride = b"(" + b"".join(map(_number, strides)) + b"t"
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(0) + size + stride + b"\x89" + hooks + b"tR"


def checkpoint_members(state, beside=b""):
    """Name -> content of the zip archive that `torch.save({"state_dict": state})` writes, made without PyTorch.

    A value of `state` is an array, or bytes: opcodes of a pickle, taken as they are. `beside`: opcodes of further
    keys and values of the outer dict.
    """
    members, items = {}, b""
    for number, (name, value) in enumerate(state.items()):
        if not isinstance(value, bytes):
            members[f"archive/data/{number}"] = value.tobytes()
            value = _pickled_tensor(str(number), value)
        items += _text(name) + value
    pickled = b"\x80\x02}(" + _text("state_dict") + b"}(" + items + b"u" + beside + b"u."
    return {"archive/data.pkl": pickled, **members, "archive/version": b"3\n"}


def write_checkpoint(path, state, beside=b""):
    """Write such an archive, and return its path as text."""
    with zipfile.ZipFile(str(path), "w") as archive:
        for name, data in checkpoint_members(state, beside).items():
            archive.writestr(name, data)
    return str(path)
