"""What linears read: who shares an input, and where a block may be cut off."""

import torch
from torch import nn

from ternfmt.encode.calibrated.inputs import find_groups, read_inputs


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 3)
        self.q = nn.Linear(3, 4)
        self.k = nn.Linear(3, 4)
        self.v = nn.Linear(3, 4, bias=False)
        self.twice = nn.Linear(4, 4)
        self.idle = nn.Linear(3, 3)
        self.ended = False

    def forward(self, x):
        y = self.q(x) * self.k(x) + self.v(x)
        y = self.twice(self.twice(y))
        y = self.out(y)
        self.ended = True
        return y


def linears_of(module):
    return dict(module.named_children())


def test_linears_with_one_input_are_together_in_the_order_of_execution():
    mixer = Mixer()
    groups = find_groups(mixer, linears_of(mixer), lambda: mixer(torch.ones(2, 3)))
    assert [group.names for group in groups] == [("q", "k"), ("v",), ("twice",), ("out",)]
    assert [group.runs for group in groups] == [1, 1, 2, 1]
    assert [group.columns for group in groups] == [3, 3, 4, 4]
    assert [group.bias for group in groups] == [True, False, True, True]


def test_equal_inputs_of_different_tensors_are_apart():
    mixer = Mixer()
    groups = find_groups(mixer, {"q": mixer.q, "k": mixer.k}, lambda: (mixer.q(torch.ones(3)), mixer.k(torch.ones(3))))
    assert [group.names for group in groups] == [("q",), ("k",)]


def test_a_block_runs_no_further_than_it_must():
    mixer = Mixer()
    x = torch.randn(2, 3)
    (seen,) = read_inputs(mixer.q, 1, lambda: mixer(x))
    assert seen is x
    assert not mixer.ended
    first, second = read_inputs(mixer.twice, 2, lambda: mixer(x))
    torch.testing.assert_close(second, mixer.twice(first))
    assert not mixer.ended


def test_a_linear_that_does_not_run_has_read_nothing():
    mixer = Mixer()
    assert read_inputs(mixer.idle, 1, lambda: mixer(torch.ones(2, 3))) == []
    assert mixer.ended


def test_no_hook_is_left_behind():
    mixer = Mixer()
    find_groups(mixer, linears_of(mixer), lambda: mixer(torch.ones(2, 3)))
    read_inputs(mixer.q, 1, lambda: mixer(torch.ones(2, 3)))
    assert not any(module._forward_pre_hooks for module in mixer.modules())
