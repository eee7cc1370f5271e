"""The dial by output error: what it measures, and that it can go on where it was cut off."""

import copy
from functools import partial

import pytest
import torch

from ternfmt.encode.calibrated.output_error import measure_output_errors
from ternfmt.encode.data_free import data_free
from ternfmt.encode.run.dial import DialLayer, spend
from ternfmt.encode.settings import LayerSettings
from tests.encode.calibrated.toy_model import ToyCalls, make_toy


def dial_layers(loaded, fixed=()):
    return {
        name: DialLayer(tuple(linear.weight.shape), LayerSettings(), name in fixed)
        for name, linear in loaded.linears.items()
    }


def measure(loaded, layers=None, **arguments):
    layers = dial_layers(loaded) if layers is None else layers
    return measure_output_errors(loaded, ToyCalls(), layers, (1, 2, 3), count=2, batch=4, **arguments)


def test_more_planes_cost_bytes_and_save_error():
    loaded = make_toy()
    costs = measure(loaded)
    assert [layer.name for layer in costs] == list(loaded.linears)
    for layer in costs:
        assert [option.planes for option in layer.options] == [1, 2, 3]
        sizes, errors = zip(*((o.stored_bytes, o.noise) for o in layer.options), strict=True)
        assert sizes == tuple(sorted(sizes))
        assert errors[0] > errors[1] > errors[2] > 0
        settings = LayerSettings("planes", 2)
        assert layer.options[1].stored_bytes == data_free(loaded.linears[layer.name].weight, settings).nbytes


@torch.no_grad()
def test_a_cost_is_the_error_of_the_models_output():
    loaded = make_toy()
    name = "blocks.1.up.weight"
    found = next(layer for layer in measure(loaded) if layer.name == name).options[0].noise
    student = copy.deepcopy(loaded.model)
    student.blocks[1].up.weight.copy_(
        torch.from_numpy(data_free(loaded.linears[name].weight, LayerSettings()).dequantize())
    )
    calls = [ToyCalls().call(number, 4) for number in range(2)]
    error = sum((student(**call) - loaded.model(**call)).square().sum() for call in calls)
    norm = sum(loaded.model(**call).square().sum() for call in calls)
    assert found == pytest.approx(float(error / norm), rel=1e-4)


def test_a_layer_without_influence_costs_nothing():
    loaded = make_toy()
    with torch.no_grad():
        loaded.model.leave.weight.zero_()
    assert all(option.noise == 0 for layer in measure(loaded) for option in layer.options)


def test_the_dial_spends_where_the_output_gains():
    loaded = make_toy()
    chosen = spend(measure(loaded), 4.0)
    assert {option.planes for option in chosen.values()} <= {1, 2, 3}
    assert set(chosen) == set(loaded.linears)


def test_a_low_rank_term_is_a_way_to_spend_bytes():
    """Where the weight is a ternary matrix and one of rank 1, a term of rank 1 leaves less than a plane would."""
    loaded = make_toy()
    name = "blocks.0.up.weight"
    weight = loaded.linears[name].weight
    column, row = (torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in weight.shape)
    with torch.no_grad():
        weight.copy_(weight.sign() + 3 * column[:, None] * row)
    layers = {
        other: DialLayer(layer.shape, LayerSettings("distilled", low_rank=1), layer.fixed)
        for other, layer in dial_layers(loaded, fixed={"blocks.1.up.weight"}).items()
    }
    costs = measure(loaded, layers=layers)
    options = {(o.planes, o.low_rank): o for c in costs if c.name == name for o in c.options}
    assert set(options) == {(planes, rank) for planes in (1, 2, 3) for rank in (0, 1)}
    for (planes, rank), option in options.items():
        assert option.stored_bytes == options[planes, 0].stored_bytes + 2 * rank * sum(weight.shape)
        assert not rank or option.noise < options[planes, 0].noise
    settings = layers[name].stored_as(options[2, 1])
    assert (settings.planes, settings.low_rank) == (2, 1)
    fixed = next(c for c in costs if c.name == "blocks.1.up.weight")
    assert [(o.planes, o.low_rank) for o in fixed.options] == [(1, 0), (1, 1)]


def test_a_fixed_layer_has_one_option():
    loaded = make_toy()
    layers = dial_layers(loaded, fixed={"blocks.0.up.weight"})
    costs = {layer.name: layer for layer in measure(loaded, layers=layers)}
    assert len(costs["blocks.0.up.weight"].options) == 1
    assert len(costs["blocks.0.down.weight"].options) == 3


def test_goes_on_where_it_was_cut_off():
    loaded = make_toy()
    records = []
    whole = measure(loaded, record=records.append)
    said = []
    again = measure(loaded, measured=records[:4], progress=lambda name, weights: said.append(name))
    assert again == whole
    assert said == list(loaded.linears)[4:]
    assert measure(loaded, measured=records, record=partial(pytest.fail, "measured again")) == whole


def test_measuring_leaves_the_model_as_it_was():
    loaded = make_toy()
    before = [id(parameter) for parameter in loaded.model.parameters()]
    measure(loaded)
    assert [id(parameter) for parameter in loaded.model.parameters()] == before
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_unknown_layers_are_refused():
    loaded = make_toy(1)
    with pytest.raises(ValueError, match=r"'no.weight': expected the weight"):
        measure(loaded, layers={"no.weight": DialLayer((1, 1), LayerSettings())})
