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
        "help": "diffusion models: distil what guidance makes of the answers, and let the student sample now and then, "
        "to learn at the states that it gets to",
    },
    "block_device": {
        "metavar": "DEVICE",
        "help": "distil a block at a time here, while the model stays on --device: cuda, for models that do not fit it",
    },
    "compile": {
        "action": "store_true",
        "default": None,
        "help": "let torch compile the models that distillation runs: minutes first, faster then",
    },
    "sampling_steps": {"type": int, "metavar": "N", "help": "of the model's own pictures (default: the pipeline's)"},
    "guidance": {"type": float, "metavar": "G", "help": "of the model's own pictures (default: the pipeline's)"},
    "seed": {"type": int, "metavar": "N", "help": "of prompts, noise and order (default: 0)"},
    "data": {"metavar": "FOLDER", "help": "keep what the model is fed here, for other conversions too"},
    "trust_remote_code": {"action": "store_true", "default": None, "help": "run Python files that lie in SRC"},
}


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
    for name in ("steps", "start", "learning_rate", "low_rank", "own_sampling", "block_device", "compile"):
        if name in given and args.method != "distilled":
            args.parser.error(f"--{name.replace('_', '-')} goes with --method distilled")
    for name in ("samples", "held_out", "batch", "steps", "low_rank", "sampling_steps"):
        if name in given and given[name] < 1:
            args.parser.error(f"--{name.replace('_', '-')}: expected at least 1, got {given[name]}")
    if given.get("seed", 0) < 0:
        args.parser.error(f"--seed: expected at least 0, got {given['seed']}")
    if given.get("own_sampling") and given.get("block_device"):
        args.parser.error("--own-sampling goes with training from end to end: leave --block-device out")
    if not 0 < given.get("learning_rate", 1.0) < float("inf"):
        args.parser.error(f"--learning-rate: expected a number above 0, got {given['learning_rate']}")
    return Calibration(**given, device=args.device)
