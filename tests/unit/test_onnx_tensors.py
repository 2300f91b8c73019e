"""Where an ONNX file's weights lie, held to the onnx package."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from _model_cases import golden_weights, write_plain_onnx
from onnx import numpy_helper

from stages.formats import onnx_tensors


def test_the_values_are_those_that_onnx_reads(tmp_path):
    write_plain_onnx(tmp_path / "a.onnx", golden_weights())
    data = (tmp_path / "a.onnx").read_bytes()
    expected = onnx.load(str(tmp_path / "a.onnx")).graph.initializer
    found = onnx_tensors.tensors(data)
    assert [(each.name, each.data_type) for each in found] == [(each.name, each.data_type) for each in expected]
    assert len(found) > 10
    for each, known in zip(found, expected, strict=True):
        assert data[each.start : each.stop] == np.ascontiguousarray(numpy_helper.to_array(known)).tobytes()


@given(st.binary(max_size=200))
def test_what_is_not_protobuf_is_refused_or_holds_no_tensor(data):
    try:
        found = onnx_tensors.tensors(data)
    except (ValueError, UnicodeDecodeError):
        return
    assert all(0 <= each.start <= each.stop <= len(data) for each in found)


def test_a_cut_file_is_refused(tmp_path):
    write_plain_onnx(tmp_path / "a.onnx", golden_weights())
    with pytest.raises(ValueError, match=r"ends before byte|not protobuf"):
        onnx_tensors.tensors((tmp_path / "a.onnx").read_bytes()[:-1000])
