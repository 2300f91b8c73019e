"""The acoustic model against the reference's own output."""

import numpy as np
import pytest
from _model_cases import golden_shapes, golden_weights, parity

from stages.shared import architecture

PARITY = 2e-5


def test_architecture_has_the_names_and_shapes_of_the_reference():
    assert {name: list(shape) for name, shape in architecture.state_dict_shapes().items()} == golden_shapes()


def test_architecture_counts_the_parameters_of_the_reference():
    sizes = [
        int(np.prod(shape, dtype=np.int64))
        for name, shape in architecture.state_dict_shapes().items()
        if not architecture.is_counter(name) and not name.endswith((".running_mean", ".running_var"))
    ]
    assert sum(sizes) == 17840352


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def golden_model(torch):
    from stages.model.model import build_model

    model = build_model()
    weights = {name: torch.from_numpy(array) for name, array in golden_weights().items()}
    model.load_state_dict(weights, strict=True)
    return model.eval()


def _run(torch, model, rows):
    with torch.no_grad():
        return model(torch.from_numpy(np.ascontiguousarray(rows))).numpy()


def test_module_has_the_state_dict_in_the_declared_order(torch):
    from stages.model.model import build_model

    state = build_model().state_dict()
    assert [(name, tuple(value.shape)) for name, value in state.items()] == list(
        architecture.state_dict_shapes().items()
    )


def test_output_equals_the_reference(torch, golden_model):
    rows, expected = parity()
    assert np.abs(_run(torch, golden_model, rows) - expected).max() <= PARITY


def test_a_perturbed_weight_leaves_parity(torch, golden_model):
    rows, expected = parity()
    weight = golden_model.fc[1].weight
    with torch.no_grad():
        weight += 1e-4
        moved = np.abs(_run(torch, golden_model, rows * 1.01) - expected).max()
        weight -= 1e-4
    assert moved > PARITY


def test_an_utterance_does_not_depend_on_its_batch(torch, golden_model):
    rows, _ = parity()
    alone = _run(torch, golden_model, rows[1:])
    assert np.abs(alone[:, 0] - _run(torch, golden_model, rows)[:, 1]).max() <= PARITY


@pytest.mark.parametrize(("rows", "frames"), [(390, 195), (241, 121), (2, 1), (1, 1)])
def test_other_lengths_give_half_the_rows_rounded_up(torch, golden_model, rows, frames):
    output = _run(torch, golden_model, np.zeros((3, rows, 243), dtype=np.float32))
    assert output.shape == (frames, 3, 41)
    assert np.allclose(np.exp(output.astype(np.float64)).sum(axis=2), 1.0, atol=1e-5)


def test_dropout_acts_while_training_only(torch):
    from stages.model.model import build_model

    torch.manual_seed(1)
    model = build_model(dropout=0.5)
    rows = torch.randn(2, 8, 243)
    assert not torch.equal(model(rows), model(rows))
    model.eval()
    assert torch.equal(model(rows), model(rows))
