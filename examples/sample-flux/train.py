"""Train the sample FLUX from scratch on two CPU cores, in three hours.

    python examples/sample-flux/train.py --threads 2 --compile

Every batch follows from the seed and the number of its step, so that a run that was stopped goes on
from its checkpoint exactly as it would have gone on without the stop. The folder of the run then
holds the checkpoint, log.jsonl, loss.png and model/, a pipeline folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from sample_flux.model import save_pipeline
from sample_flux.plots import plot_loss
from sample_flux.training import Settings, Trainer

LOG_EVERY = 25
SAVE_EVERY = 250  # about four minutes; a multiple of LOG_EVERY


def train(trainer: Trainer, folder: Path) -> None:
    """Go on from the folder's checkpoint, if there is one, until the last step."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.pt", folder / "log.jsonl"
    if checkpoint.exists():
        trainer.load(checkpoint)
    lines = log.read_text().splitlines() if log.exists() else []
    known = [line for line in lines if json.loads(line)["step"] <= trainer.step]
    log.write_text("".join(line + "\n" for line in known))
    losses = []
    with log.open("a") as file:
        while trainer.step < trainer.settings.steps:
            rate = trainer.settings.rate(trainer.step)
            losses.append(trainer.train_step())
            last = trainer.step == trainer.settings.steps
            if trainer.step % LOG_EVERY == 0 or last:
                loss = sum(losses) / len(losses)
                line = {"step": trainer.step, "loss": loss, "rate": rate, "seconds": round(trainer.seconds, 1)}
                print(json.dumps(line), file=file, flush=True)
                print(f"step {trainer.step} of {trainer.settings.steps}, loss {loss:.4f}", flush=True)
                losses.clear()
            if trainer.step % SAVE_EVERY == 0 or last:
                trainer.save(checkpoint)
    save_pipeline(trainer.models.state_dict(), folder / "model")
    plot_loss(log, folder / "loss.png")


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("sample-flux-run"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="one or two minutes first, then steps are 15%% faster")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trainer = Trainer(Settings())
    if arguments.compile:
        trainer.forward = torch.compile(trainer.transformer)
    train(trainer, arguments.folder)


if __name__ == "__main__":
    main()
