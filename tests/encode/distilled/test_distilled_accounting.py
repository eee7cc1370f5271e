"""What is worked out beforehand is what is measured."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import pytest
import torch

from ternfmt.encode import torch_device
from ternfmt.encode.distilled import accounting
from ternfmt.encode.distilled.accounting import (
    Activations,
    choose_blockwise,
    count_activations,
    count_flops,
    inventory,
    seconds,
)
from ternfmt.encode.distilled.muon import orthogonalise, orthogonalise_flops
from ternfmt.encode.distilled.settings import DistilledSettings
from ternfmt.encode.distilled.student import make_student
from ternfmt.encode.distilled.train import Trainer
from tests.encode.distilled import tiny

SETTINGS = DistilledSettings(steps=2, batch=8)


def nbytes(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize(
    ("changes", "planes", "low_rank"),
    [
        ({}, 1, 0),
        ({}, 2, 0),
        ({}, 1, 3),
        ({"train_codes": False}, 2, 3),
        ({"train_dense": "biases"}, 1, 0),
    ],
)
def test_weights_gradients_and_optimizers_are_counted_to_the_byte(changes, planes, low_rank):
    settings = replace(SETTINGS, **changes)
    model = tiny.loaded()
    layers, dtypes = tiny.layers(model, planes, low_rank=low_rank), tiny.dense_dtypes(model)
    planned = inventory(model, layers, settings, dtypes).memory(settings, teacher_bytes=4)
    student = make_student(model, layers, settings, dtypes)
    trainer = Trainer(model, student, tiny.Noise(), settings)
    trainer.train_step()
    trainer.loss(tiny.Noise().call(0, 8)).backward()
    parameters = list(student.model.parameters())
    states = [s for o in trainer.optimizers.by_group.values() for s in o.state.values()]
    assert planned.teacher == nbytes(model.model.parameters())
    assert planned.student == nbytes([*parameters, *student.model.buffers()])
    assert planned.gradients == nbytes(p.grad for p in parameters if p.grad is not None)
    assert planned.optimizer == nbytes(value for state in states for value in state.values())
    assert planned.total >= planned.teacher + planned.student + planned.gradients + planned.optimizer


def counted(model, device: str) -> Activations:
    model = copy.deepcopy(model).to(device)
    call = {name: value.to(device) for name, value in tiny.Noise().call(0, 64).items()}
    return count_activations(lambda: model(**call), list(model.blocks), model.parameters())


def test_activations_on_meta_tensors_are_those_of_real_ones_and_within_a_fifth_of_the_memory_taken():
    model = tiny.loaded()
    student = make_student(model, tiny.layers(model), SETTINGS, tiny.dense_dtypes(model)).model
    planned, real = counted(student, "meta"), counted(student, "cpu")
    assert planned == real
    assert planned.recomputed < planned.whole
    call = tiny.Noise().call(0, 64)
    student(**call)
    with torch.profiler.profile(profile_memory=True) as profile:
        answer = student(**call)  # holds the graph, so that what is left allocated is what autograd keeps
    left = sum(event.self_cpu_memory_usage for event in profile.events() if event.name != "[memory]")
    freed = sum(event.self_cpu_memory_usage for event in profile.events() if event.name == "[memory]")
    assert answer[0].requires_grad
    assert left + freed == pytest.approx(planned.whole, rel=0.2)


def test_operations_are_those_of_the_products():
    model = tiny.loaded().model
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert count_flops(lambda: model(**tiny.Noise().call(0, 4))) == 2 * 4 * 3 * weights


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (4, 7), (9, 2)])
def test_operations_of_the_optimizer_are_those_of_its_products(rows, columns):
    counted = count_flops(lambda: orthogonalise(torch.ones(1, rows, columns)))
    assert orthogonalise_flops(rows, columns) == counted


def test_time_counts_passes():
    settings = replace(SETTINGS, steps=10, batch=2)
    assert seconds(5, 0, settings, flops_per_second=100, utilisation=0.5) == pytest.approx(5 * 4 * 20 / 50)
    assert seconds(5, 7, settings, flops_per_second=100, utilisation=0.5) == pytest.approx((5 * 4 * 2 + 7) * 10 / 50)
    again = replace(settings, recompute=True)
    assert seconds(5, 0, again, flops_per_second=100, utilisation=0.5, teacher_too=False) == pytest.approx(
        5 * 4 * 20 / 50
    )


def test_block_wise_is_chosen_where_the_student_does_not_fit(monkeypatch):
    model = tiny.loaded()
    for free, expected in [(None, False), (1 << 40, False), (1000, True)]:
        monkeypatch.setattr(accounting, "free_bytes", lambda device, free=free: free)
        assert choose_blockwise(model, tiny.layers(model), SETTINGS) is expected


def test_free_memory_is_found_on_linux_alone():
    free = torch_device.free_bytes(torch.device("cpu"))
    assert 0 < free < 1 << 50 if sys.platform == "linux" else free is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has cgroups")
def test_a_container_may_have_less_than_its_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_device, "CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 900\nactive_file 600\n")
    (tmp_path / "memory.max").write_text("9000\n")
    assert torch_device.free_bytes(torch.device("cpu")) == 9000 - 5000 + 1500
    (tmp_path / "memory.max").write_text("max\n")
    assert torch_device.free_bytes(torch.device("cpu")) > 9000
