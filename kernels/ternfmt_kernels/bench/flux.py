"""The linear layers of FLUX.1's transformer, and how many rows each sees in a step at 1024 x 1024.

From the configuration of FLUX.1-dev (19 double and 38 single blocks, width 3072, 24 heads of 128): a 1024 x 1024 image
is 64 x 64 = 4096 tokens (latents of 128 x 128 in patches of 2 x 2), a prompt 512. Double blocks keep the two apart,
single blocks run them together, and the modulation layers see one row, the conditioning vector of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

IMAGE_TOKENS = 4096
TEXT_TOKENS = 512
TOKENS = IMAGE_TOKENS + TEXT_TOKENS
WIDTH = 3072
HEADS = 24
DOUBLE_BLOCKS = 19
SINGLE_BLOCKS = 38
PARAMETERS = 11_901_408_320
"""Of the whole transformer, the ten linears outside the blocks, biases and norms included."""


@dataclass(frozen=True)
class Layer:
    """A kind of linear layer.

    Attributes:
        name: in diffusers.
        n: rows of the weight, outputs.
        k: columns, inputs.
        m: rows of activations in a step at 1024 x 1024, batch 1.
        count: how many there are in the transformer.
        bias: every linear of FLUX.1 has one.
    """

    name: str
    n: int
    k: int
    m: int
    count: int

    @property
    def weights(self) -> int:
        """Weights of all of them."""
        return self.n * self.k * self.count

    @property
    def operations(self) -> int:
        """Of all of them in a step, a multiply-accumulate counting two."""
        return 2 * self.m * self.weights


def _double(name: str, n: int, k: int, m: int, each: int = 1) -> Layer:
    return Layer(name, n, k, m, each * DOUBLE_BLOCKS)


def _single(name: str, n: int, k: int, m: int, each: int = 1) -> Layer:
    return Layer(name, n, k, m, each * SINGLE_BLOCKS)


LAYERS: tuple[Layer, ...] = (
    _double("double norm1, norm1_context", 6 * WIDTH, WIDTH, 1, each=2),
    _double("double attention, image", WIDTH, WIDTH, IMAGE_TOKENS, each=4),
    _double("double attention, text", WIDTH, WIDTH, TEXT_TOKENS, each=4),
    _double("double ff up, image", 4 * WIDTH, WIDTH, IMAGE_TOKENS),
    _double("double ff up, text", 4 * WIDTH, WIDTH, TEXT_TOKENS),
    _double("double ff down, image", WIDTH, 4 * WIDTH, IMAGE_TOKENS),
    _double("double ff down, text", WIDTH, 4 * WIDTH, TEXT_TOKENS),
    _single("single norm", 3 * WIDTH, WIDTH, 1),
    _single("single q, k, v", WIDTH, WIDTH, TOKENS, each=3),
    _single("single proj_mlp", 4 * WIDTH, WIDTH, TOKENS),
    _single("single proj_out", WIDTH, 5 * WIDTH, TOKENS),
)
"""The 494 linears of the blocks: the ternary ones."""

SHAPES: tuple[tuple[int, int], ...] = tuple(dict.fromkeys((layer.n, layer.k) for layer in LAYERS))
"""(N, K) of the weights, without repetition."""

ROWS: tuple[int, ...] = (1, 2, 8, 16, 64, 512, 4096, 4608, 8704)
"""M worth measuring: modulation at batch 1 and 2, skinny products, then text, image and both at 1024 x 1024; 8704 is
8192 + 512, an image of twice the area."""

ATTENTION_OPERATIONS = 4 * TOKENS * TOKENS * WIDTH * (DOUBLE_BLOCKS + SINGLE_BLOCKS)
"""Of the two products of attention (QK^T and PV) in all blocks in a step. They have no weights: nothing packs them."""


def weights(layers: Sequence[Layer] = LAYERS) -> int:
    """Weights of ``layers``."""
    return sum(layer.weights for layer in layers)


def outputs(layers: Sequence[Layer] = LAYERS) -> int:
    """Rows of all weights: as many as there are scales."""
    return sum(layer.n * layer.count for layer in layers)
