"""The sample model's text encoder: a vocabulary of 23 words and two attention layers.

A pipeline folder holds a copy of this file, so that it loads on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

TOKENS = 8  # words of the longest prompt
WORDS = (
    "",  # padding, and alone the empty prompt of guidance
    *("a", "and", "left", "right", "of", "above", "below", "two", "three", "four"),
    *("red", "green", "blue", "yellow"),
    *("circle", "square", "triangle", "cross", "circles", "squares", "triangles", "crosses"),
)


def tokenize(prompts: Sequence[str]) -> Tensor:
    """Number the words of prompts.

    Args:
        prompts: n sentences of at most `TOKENS` words, all among `WORDS`.

    Returns:
        int64 [n, TOKENS], padded with 0.

    Raises:
        ValueError: a sentence is too long, or has a word that the model has never seen.
    """
    rows = []
    for prompt in prompts:
        words = prompt.split()
        unknown = [word for word in words if word not in WORDS]
        if unknown or len(words) > TOKENS:
            raise ValueError(
                f"{prompt!r}: expected at most {TOKENS} words among {', '.join(WORDS[1:])}; "
                f"found {len(words)}, unknown: {', '.join(unknown) or 'none'}"
            )
        rows.append([WORDS.index(word) for word in words] + [0] * (TOKENS - len(words)))
    return torch.tensor(rows)


class TextEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Embeds words and their positions, then lets them attend to each other."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), width)
        self.positions = nn.Parameter(torch.randn(TOKENS, width) * 0.5)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode words.

        Args:
            tokens: int64 [n, TOKENS].

        Returns:
            One vector per word, [n, TOKENS, width], and their mean, [n, width].
        """
        states = self.encoder(self.words(tokens) + self.positions)
        return states, states.mean(1)

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenize and encode n sentences; see `tokenize` and `forward`."""
        return self.forward(tokenize(prompts).to(self.device))
