"""The options of ``ternfmt convert`` for the methods that run the model: `calibrated` and `distilled`."""

from __future__ import annotations

import argparse
from typing import Any

from ..encode.calibration import DATA_METHODS, STARTS, Calibration

_DEFAULT = Calibration()

_OPTIONS: dict[str, dict[str, Any]] = {
    "prompts": {"metavar": "FILE", "help": "prompts or sentences, one a line (default: built-in templates)"},
    "samples": {
        "type": int,
        "metavar": "N",
        "help": f"prompts that the model draws, or batches of text (default: {_DEFAULT.samples})",
    },
    "held_out": {
        "type": int,
        "metavar": "N",
        "help": f"as many more, only to watch the error with (default: {_DEFAULT.held_out})",
    },
    "batch": {"type": int, "metavar": "N", "help": f"rows in a call of the model (default: {_DEFAULT.batch})"},
    "steps": {
        "type": int,
        "metavar": "N",
        "help": f"distillation steps, block by block those of each block (default: {_DEFAULT.steps})",
    },
    "start": {
        "metavar": "WHAT",
        "help": f"what distillation begins from: {', '.join(STARTS)}, or a ternary model (default: {_DEFAULT.start})",
    },
    "micro_batch": {
        "type": int,
        "metavar": "N",
        "help": "of --batch, rows in one forward pass of distillation; gradients add up (default: all)",
    },
    "recompute": {
        "action": "store_true",
        "default": None,
        "help": "distil without keeping activations inside blocks: less memory, up to a quarter more time",
    },
    "keep_codes": {
        "action": "store_true",
        "default": None,
        "help": "distil scales, biases, norms and low-rank terms alone, and keep the codes of the start: a fraction of "
        "the memory",
    },
    "feature_weight": {
        "type": float,
        "metavar": "W",
        "help": "weight of the blocks' outputs in the loss of distillation (default: 0)",
    },
    "learning_rate": {
        "type": float,
        "metavar": "LR",
        "help": f"highest one of latent weights, twice that of scales and biases (default: {_DEFAULT.learning_rate})",
    },
    "low_rank": {
        "type": int,
        "metavar": "R",
        "help": "rank of a low-rank term that distillation fits too; with --ratio only where it pays (default: none)",
    },
    "own_sampling": {
        "action": "store_true",
        "default": None,
        "help": "models that sample along a flow: distil what guidance makes of the answers, and let the student "
        "sample now and then, to learn at the states that it gets to",
    },
    "block_device": {
        "metavar": "DEVICE",
        "help": "calibrate or distil a block at a time here, while the model stays on --device: cuda, for models that "
        "do not fit it",
    },
    "compile": {
        "action": "store_true",
        "default": None,
        "help": "let torch compile the models that distillation runs: minutes first, faster then",
    },
    "sampling_steps": {"type": int, "metavar": "N", "help": "of the model's own pictures (default: the pipeline's)"},
    "guidance": {"type": float, "metavar": "G", "help": "of the model's own pictures (default: the pipeline's)"},
    "size": {"type": int, "metavar": "PIXELS", "help": "of their height and width (default: the pipeline's)"},
    "seed": {"type": int, "metavar": "N", "help": "of prompts, noise and order (default: 0)"},
    "data": {"metavar": "FOLDER", "help": "keep what the model is fed here, for other conversions too"},
    "trust_remote_code": {"action": "store_true", "default": None, "help": "run Python files that lie in SRC"},
}


_DISTILLED = (
    "steps",
    "micro_batch",
    "recompute",
    "keep_codes",
    "feature_weight",
    "start",
    "learning_rate",
    "low_rank",
    "own_sampling",
    "compile",
)
"""Those of `distilled` alone."""


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group(
        "calibration", f"--method {' and '.join(DATA_METHODS)} run the model on data that it makes itself"
    )
    for name, options in _OPTIONS.items():
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def calibration(args: argparse.Namespace) -> Calibration:
    """What the options say; refuses, as a fault of usage, those that the method does not use."""
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    if given and args.method not in DATA_METHODS:
        option = next(iter(given)).replace("_", "-")
        args.parser.error(f"--{option} goes with --method {' or '.join(DATA_METHODS)}")
    for name in _DISTILLED:
        if name in given and args.method != "distilled":
            args.parser.error(f"--{name.replace('_', '-')} goes with --method distilled")
    for name in ("samples", "held_out", "batch", "steps", "micro_batch", "low_rank", "sampling_steps", "size"):
        if name in given and given[name] < 1:
            args.parser.error(f"--{name.replace('_', '-')}: expected at least 1, got {given[name]}")
    if given.get("seed", 0) < 0:
        args.parser.error(f"--seed: expected at least 0, got {given['seed']}")
    if given.get("own_sampling") and given.get("block_device"):
        args.parser.error("--own-sampling goes with training from end to end: leave --block-device out")
    batch, micro = given.get("batch", _DEFAULT.batch), given.get("micro_batch", 1)
    if batch % micro:
        args.parser.error(f"--micro-batch: expected a divisor of --batch {batch}, got {micro}")
    if not 0 <= given.get("feature_weight", 0.0) < float("inf"):
        args.parser.error(f"--feature-weight: expected a number of at least 0, got {given['feature_weight']}")
    if not 0 < given.get("learning_rate", 1.0) < float("inf"):
        args.parser.error(f"--learning-rate: expected a number above 0, got {given['learning_rate']}")
    return Calibration(**given, device=args.device)
