"""Stands in for aclruntime 0.0.2: the surface that ais_bench calls, computing by ONNX Runtime.

Its behaviour follows the public sources of aclruntime (Ascend/tools, ais-bench_workload/tool/ais_bench/backend). What
the driver would say is read from its version.info: `fault=` names a recorded failure, `chip=` the chip that is there.
"""

import ctypes
import json
import os
import re
import time
from pathlib import Path

import numpy
import onnxruntime

MAGIC = b"SIMULATED OM\n"
_DRIVER = "/usr/local/Ascend/driver/version.info"
_FLOAT32 = 0
_ND = 2


def _driver():
    try:
        with open(_DRIVER, encoding="utf-8") as stream:
            return dict(line.rstrip("\n").split("=", 1) for line in stream if "=" in line)
    except OSError:
        return {}


def _open_device(number):
    """What opening a device checks, and prints where it fails."""
    if "devlib" in os.environ.get("LD_LIBRARY_PATH", ""):
        raise RuntimeError("[1][ACL: internal error] libascend_hal.so is a stub")
    names = sorted(name for name in os.listdir("/dev") if name.startswith("davinci") and name[7:].isdigit())
    present = all(os.path.exists("/dev/" + name) for name in ("davinci_manager", "devmm_svm", "hisi_hdc"))
    fault = _driver().get("fault", "")
    if fault:
        _play(fault)
    if number >= len(names) or not present:
        _play("open-device")


def _recorded(name):
    with open(os.path.join(os.environ["ASCEND_TOOLKIT_HOME"], "simulated", name + ".txt"), encoding="utf-8") as stream:
        return stream.read()


def _play(name, **replaced):
    """End as a real runtime did, whose output was recorded."""
    print(re.sub("|".join(replaced) or "(?!)", lambda found: replaced[found[0]], _recorded(name)), flush=True)
    raise RuntimeError("[1][ACL: general failure]")


class _Options:
    def __init__(self):
        self.loop = 1
        self.log_level = 2
        self.acl_json_path = ""


def session_options():
    return _Options()


class tensor_desc:
    def __init__(self, name, shape):
        self.name = name
        self.datatype = _FLOAT32
        self.format = _ND
        self.shape = list(shape)
        self.size = self.realsize = int(numpy.prod(shape)) * 4


class sumary:
    def __init__(self):
        self.exec_time_list = []


class BaseTensor:
    """Memory of the caller's."""

    def __init__(self, buf, size):
        self.buf = buf
        self.size = size


class _Memory:
    def __init__(self):
        self.H2D_time_list = []
        self.D2H_time_list = []

    def reset(self):
        self.H2D_time_list = []
        self.D2H_time_list = []


_MEMORY = _Memory()


def MemorySummary():
    return _MEMORY


class Tensor:
    def __init__(self, values):
        self._values = numpy.ascontiguousarray(values)
        self.device = -1

    @property
    def shape(self):
        return list(self._values.shape)

    def to_device(self, device):
        _MEMORY.H2D_time_list.append(0.01)
        self.device = device

    def to_host(self):
        _MEMORY.D2H_time_list.append(0.01)
        self.device = -1

    def __array__(self, dtype=None, copy=None):
        return self._values if dtype is None else self._values.astype(dtype)


class InferenceSession:
    def __init__(self, path, device, options):
        if not os.path.isfile(path):
            _play("model-not-loaded")
        _open_device(device)
        with open(path, "rb") as stream:
            if stream.readline() != MAGIC:
                raise RuntimeError("[1][ACL:invalid parameter]")
            header = json.loads(stream.readline())
            model = stream.read()
        chip = _driver().get("chip", header["soc_version"])
        if chip != header["soc_version"]:
            _play("other-chip", Ascend310P1=header["soc_version"], Ascend310P3=chip)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        self._options = options
        self._inputs = [tensor_desc(header["input"], header["shape"])]
        output = self._session.get_outputs()[0]
        self._outputs = [tensor_desc(output.name, (output.shape[0], header["shape"][0], output.shape[2]))]
        self._summary = sumary()

    def __repr__(self):
        return "<Model>\nsimulated"

    def options(self):
        return self._options

    def get_inputs(self):
        return self._inputs

    def get_outputs(self):
        return self._outputs

    def set_staticbatch(self):
        return 0

    def _not_dynamic(self, *_):
        raise RuntimeError("[1][ACL: this model is static]")

    set_dynamic_batchsize = set_dynamic_hw = set_dynamic_dims = set_dynamic_shape = _not_dynamic

    def set_custom_outsize(self, sizes):
        return 0

    def create_tensor_from_fileslist(self, desc, files):
        data = b"".join(Path(name).read_bytes() for name in files)
        return Tensor(numpy.frombuffer(data, dtype=numpy.uint8))

    def _rows(self, feeds):
        desc = self._inputs[0]
        feed = feeds[desc.name] if isinstance(feeds, dict) else feeds[0]
        borrowed = isinstance(feed, BaseTensor)
        data = ctypes.string_at(feed.buf, feed.size) if borrowed else numpy.asarray(feed).tobytes()
        if len(data) != desc.realsize:
            print(f"[ERROR] Check i:0 name:{desc.name} in size:{len(data)} needsize:{desc.realsize} not match")
            raise RuntimeError("[1][ACL: invalid parameter]")
        return numpy.frombuffer(data, dtype=numpy.float32).reshape(desc.shape)

    def run(self, names, feeds):
        rows = self._rows(feeds)
        loop = self._options.loop
        for index in range(loop):
            began_s = time.perf_counter()
            values = self._session.run(names, {self._inputs[0].name: rows})
            self._summary.exec_time_list.append((time.perf_counter() - began_s) * 1000.0)
            if loop > 1:
                print(f"\rloop inference exec: ({index + 1}/{loop})", end="" if index + 1 < loop else "\n", flush=True)
        return [Tensor(value) for value in values]

    def sumary(self):
        return self._summary

    def reset_sumaryinfo(self):
        self._summary.exec_time_list = []

    def finalize(self):
        self._session = None
