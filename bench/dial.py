"""What rule should the dial spend by? Rules beside each other on two small trained models.

For each block ratio and rule the layers that `ternfmt.encode.run.dial.spend` chooses get two planes, the others one,
and the dequantised weights take the place of the model's own. Rules differ in what they call a layer's noise:

    relative   its squared error over its squared norm, times its number of weights: what the dial uses
    absolute   its squared error
    channels   its squared error over its squared norm, times its number of rows
    random     a random number times its number of weights: no rule at all, mean and deviation of --draws

Errors, less is better: of the sample FLUX (examples/sample-flux) the squared error of velocities over their squared
norm, at five noise levels of its own pictures; of MiniLM (examples/minilm) 1 - cosine of the sentence embeddings.

    python bench/dial.py [flux] [minilm] [--ratios 6.5 5.5 5 4.5] [--cases 8] [--draws 6]
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ternfmt
from ternfmt.encode.run.dial import DialLayer, LayerCosts, measure, spend
from ternfmt.encode.settings import LayerSettings

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NOISE_LEVELS = (0.15, 0.35, 0.55, 0.75, 0.92)
RULES = ("relative", "absolute", "channels")


@dataclass(frozen=True)
class Subject:
    """A trained model.

    Attributes:
        weights: the parameters that become ternary.
        error: of the model with its parameters as they are now.
    """

    weights: Mapping[str, torch.Tensor]
    error: Callable[[], float]


def main() -> None:
    """Print a line for each model, ratio and rule."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("models", nargs="*", choices=[[], *SUBJECTS], metavar="MODEL", help="flux, minilm")
    parser.add_argument("--ratios", nargs="+", type=float, default=[6.5, 5.5, 5.0, 4.5])
    parser.add_argument("--cases", type=int, default=8, help="pictures of each category")
    parser.add_argument("--draws", type=int, default=6, help="random choices")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path[:0] = [str(EXAMPLES / "sample-flux"), str(EXAMPLES / "minilm")]
    for name in args.models or SUBJECTS:
        compare(name, SUBJECTS[name](args.cases), args.ratios, args.draws)


def compare(name: str, subject: Subject, ratios: Sequence[float], draws: int) -> None:
    """All rules on one model."""
    source = {key: value.detach().float().numpy().copy() for key, value in subject.weights.items()}
    costs = [
        measure(key, DialLayer(w.shape, LayerSettings()), (1, 2), lambda n, a, b: source[n][a:b])
        for key, w in source.items()
    ]
    ternary = {
        key: [ternfmt.quantize(w).dequantize(), ternfmt.quantize(w, "planes").dequantize()] for key, w in source.items()
    }

    def error(chosen: Mapping[str, int]) -> float:
        for key, value in subject.weights.items():
            value.data.copy_(torch.from_numpy(ternary[key][chosen[key] - 1]))
        return subject.error()

    ends = [error({cost.name: planes for cost in costs}) for planes in (1, 2)]
    print(f"{name}: error with one plane {ends[0]:.4f}, with two {ends[1]:.4f}", flush=True)
    for ratio in ratios:
        found = {rule: f"{error(spend(by_rule(costs, source, rule), ratio)):.4f}" for rule in RULES}
        drawn = [error(spend(by_rule(costs, source, f"random {i}"), ratio)) for i in range(draws)]
        found["random"] = f"{np.mean(drawn):.4f} ±{np.std(drawn):.4f}"
        print(f"{name} ratio {ratio}: " + ", ".join(f"{rule} {text}" for rule, text in found.items()), flush=True)


def by_rule(costs: Sequence[LayerCosts], source: Mapping[str, Any], rule: str) -> list[LayerCosts]:
    """The same costs with the noise that a rule sees."""
    draw = np.random.default_rng(int(rule.split()[1])).random(len(costs)) if rule.startswith("random") else None
    changed = []
    for i, cost in enumerate(costs):
        weight = source[cost.name]
        if rule == "relative":
            factors = [1.0, 1.0]
        elif rule == "absolute":
            factors = [float(np.square(weight, dtype=np.float64).mean())] * 2
        elif rule == "channels":
            factors = [1 / math.prod(weight.shape[1:])] * 2
        else:
            assert draw is not None
            factors = [draw[i] * cost.weights / cost.options[0].noise, 0.0]
        pairs = zip(cost.options, factors, strict=True)
        changed.append(replace(cost, options=tuple(replace(o, noise=o.noise * factor) for o, factor in pairs)))
    return changed


def flux(cases: int) -> Subject:
    """The sample FLUX: velocities on the way to pictures that it drew itself."""
    from sample_flux.cases import make_cases, noise
    from sample_flux.draw import load_pipeline
    from sample_flux.pipeline import patchify, predict_velocity

    pipe = load_pipeline(EXAMPLES / "sample-flux" / "model")
    drawn = make_cases("validation", cases)
    prompts = [case.prompt.text for case in drawn]
    images = pipe(prompts, latents=noise(drawn), output_type="np").images
    pictures = patchify(torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1)
    states, pooled = pipe.text_encoder.encode(prompts)
    white = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def velocities() -> list[torch.Tensor]:
        return [
            predict_velocity(
                pipe.transformer, (1 - t) * pictures + t * white, torch.full((len(drawn),), t), states, pooled
            )
            for t in NOISE_LEVELS
        ]

    true = velocities()

    def error() -> float:
        pairs = zip(velocities(), true, strict=True)
        return float(np.mean([float((a - b).square().mean() / b.square().mean()) for a, b in pairs]))

    names = {n: p for n, p in pipe.transformer.named_parameters() if "transformer_blocks" in n and p.ndim == 2}
    return Subject(names, error)


def minilm(cases: int) -> Subject:
    """MiniLM: embeddings of the example's sentences."""
    import compare as example

    checkpoint = example.extract_checkpoint(Path("demo-output"))
    sentences = example.SENTENCES.read_text(encoding="utf-8").splitlines()
    model = example.load_dense(checkpoint)
    true = example.embed(model, checkpoint, sentences)
    names = {n: p for n, p in model.named_parameters() if n.startswith("encoder.layer.") and p.ndim == 2}
    return Subject(names, lambda: 1 - example.mean_cosine(example.embed(model, checkpoint, sentences), true))


SUBJECTS: dict[str, Callable[[int], Subject]] = {"flux": flux, "minilm": minilm}


if __name__ == "__main__":
    main()
