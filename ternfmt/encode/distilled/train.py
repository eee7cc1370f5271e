"""End to end: the whole student against the whole teacher."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from ..data.calls import Calls, Progress, output_of, to_device
from ..data.own_sampling import OwnSampling
from . import checkpoint
from .log import Log, duration
from .losses import Features, NotFiniteError, check_finite, feature_loss, guided_loss, output_loss
from .optimizers import Optimizers
from .parallel import Ranks
from .schedule import hardness
from .settings import DistilledSettings, SettingsError
from .student import Student

if TYPE_CHECKING:
    from ..data.model import LoadedModel


REDRAWN = 24
"""Steps after which the student samples anew: each of the pipeline's steps then adds about a hundredth to the work."""


CHECKPOINT = "checkpoint.pt"
"""In the work folder."""


class Trainer:
    """A student, its teacher and optimizers, and how far they have come.

    Attributes:
        student: what is trained.
        step: steps done.
        losses: of the steps since the last validation.
        seconds: spent on them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        student: Student,
        calls: Calls,
        settings: DistilledSettings,
        ranks: Ranks | None = None,
    ) -> None:
        """Put things together; nothing is run yet."""
        self.student, self.settings, self.ranks = student, settings, ranks or Ranks()
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self._loaded, self._calls = loaded, calls
        self._micro = micro_batch(settings, self.ranks)
        self._micros = settings.batch // self._micro
        self.optimizers = Optimizers(student, settings)
        self._features: tuple[Features, Features] | None = None
        if settings.feature_weight:
            paths = [block.name for block in loaded.blocks]
            ours = [student.model.get_submodule(path) for path in paths]
            self._features = (Features(ours), Features([loaded.model.get_submodule(path) for path in paths]))
        if settings.recompute:
            recompute_blocks([student.model.get_submodule(block.name) for block in loaded.blocks])
        self._forward: Callable[..., Any] = student.model
        self._teacher: Callable[..., Any] = loaded.model
        if settings.compile:
            self._forward, self._teacher = torch.compile(student.model), torch.compile(loaded.model)

    def train_step(self) -> float:
        """Do one step; return its loss before the step, of this rank's calls."""
        began = time.perf_counter()
        self.student.model.eval()
        if self.step % REDRAWN == 0 and isinstance(self._calls, OwnSampling):
            self._calls.draw(self._run, self.step * self.ranks.size + self.ranks.rank, self._micro)
        self.optimizers.train_codes(self.step)
        self.student.soften(hardness(self.settings, self.step))
        total = 0.0
        for micro in range(self.ranks.rank, self._micros, self.ranks.size):
            loss = self.loss(self._calls.call(self.step * self._micros + micro, self._micro))
            check_finite(loss, self.step)
            (loss / self._micros).backward()  # type: ignore[no-untyped-call]
            total += loss.item() / self._micros * self.ranks.size
        if self.step == 0:
            check_gradients(self.student)
        self.ranks.sum_gradients(self.optimizers.parameters)
        self.optimizers.step(self.step)
        self.student.soften(1.0)
        self.step += 1
        self.seconds += time.perf_counter() - began
        return total

    def loss(self, call: dict[str, Any]) -> Tensor:
        """The loss of one call."""
        with torch.no_grad():
            theirs = self._teacher(**to_device(dict(call), self._loaded.device, self._loaded.dtype))
        ours = self._run(call)
        if isinstance(self._calls, OwnSampling):
            loss = guided_loss(ours, theirs, self._calls, call)
        else:
            loss = output_loss(ours, theirs)
        if self._features is not None:
            student, teacher = self._features
            loss = loss + self.settings.feature_weight * feature_loss(student.take(), teacher.take())
        return loss

    @torch.no_grad()
    def validate(self, held_out: Calls) -> float:
        """Energy of the outputs' error over the teacher's, on held-out calls, the same each time.

        With `OwnSampling` outputs are what guidance makes of them, weighted by the noise level.
        """
        energy = torch.zeros(2, dtype=torch.float64, device=self._loaded.device)
        for number in range(self.ranks.rank, self.settings.validation_calls, self.ranks.size):
            call = held_out.call(number, self._micro)
            theirs = output_of(self._teacher(**to_device(call, self._loaded.device, self._loaded.dtype))).double()
            ours = output_of(self._run(call)).double()
            if isinstance(held_out, OwnSampling):
                theirs, ours = (held_out.mixed(held_out.by_level(a, call)) for a in (theirs, ours))
            energy += torch.stack([(ours - theirs).square().sum(), theirs.square().sum()])
        if self._features is not None:
            for features in self._features:
                features.take()
        error, whole = self.ranks.sum(energy).tolist()
        if not error < float("inf") or not whole < float("inf"):
            raise NotFiniteError(
                f"step {self.step}: a held-out output is NaN or Inf: begin anew with a lower --learning-rate"
            )
        return error / whole if whole else 0.0

    @property
    def can_be_left(self) -> bool:
        """Whether `state` is all there is: states of the student's own sampling are not in it."""
        return self.step % REDRAWN == 0 or not isinstance(self._calls, OwnSampling)

    def state(self) -> dict[str, Any]:
        """Everything that is needed to go on with the same numbers, where it `can_be_left`."""
        ours = {id(p) for p in self.optimizers.parameters}
        trained = {n: p.detach() for n, p in self.student.model.named_parameters() if id(p) in ours}
        return {
            "step": self.step,
            "seconds": self.seconds,
            "losses": list(self.losses),
            "weights": trained,
            "optimizers": self.optimizers.state_dict(),
        }

    @torch.no_grad()
    def go_on_from(self, state: dict[str, Any]) -> None:
        """Take up a `state`."""
        parameters = dict(self.student.model.named_parameters())
        for name, value in state["weights"].items():
            parameters[name].copy_(value)
        self.optimizers.load_state_dict(state["optimizers"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], list(state["losses"])

    def close(self) -> None:
        """Take the hooks off the teacher."""
        for features in self._features or ():
            features.close()

    def _run(self, call: Mapping[str, Any]) -> Any:
        device = self._loaded.device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return self._forward(**to_device(dict(call), device, torch.float32))


def micro_batch(settings: DistilledSettings, ranks: Ranks) -> int:
    """Samples in one forward pass.

    Raises:
        SettingsError: they do not add up to the same for every rank.
    """
    micro = settings.micro_batch or max(1, settings.batch // ranks.size)
    if settings.batch % (micro * ranks.size):
        raise SettingsError(
            f"batch: expected a multiple of {ranks.size} ranks times micro_batch {micro}, got {settings.batch}"
        )
    return micro


def train(
    trainer: Trainer,
    held_out: Calls,
    work: Path,
    progress: Progress,
    dense_dtypes: Mapping[str, str],
    run: str,
) -> float:
    """Go on from the work folder's checkpoint, if there is one, to the last step; then round as the file will.

    Leaves ``log.jsonl`` in the folder: step, loss, relative output error on held-out calls, seconds. Progress tells the
    latest of these with every step.

    Returns:
        That error of what is written.
    """
    settings, first = trainer.settings, trainer.ranks.is_first
    work.mkdir(parents=True, exist_ok=True)
    file = work / CHECKPOINT
    state = checkpoint.load(file, run)
    if state is not None:
        trainer.go_on_from(state)
    trainer.ranks.same_weights(trainer.student.model.parameters())
    log = Log(work / "log.jsonl", trainer.step) if first else None
    if trainer.step == 0:
        error = trainer.validate(held_out)
        if log is not None:
            log.add(step=0, error=error, seconds=0.0)
    saved, began, done = time.monotonic(), time.monotonic(), trainer.step
    while trainer.step < settings.steps:
        trainer.losses.append(trainer.train_step())
        last = trainer.step == settings.steps
        if trainer.step % settings.validate_every == 0 or last:
            loss, error = sum(trainer.losses) / len(trainer.losses), trainer.validate(held_out)
            trainer.losses.clear()
            if log is not None:
                log.add(step=trainer.step, loss=loss, error=error, seconds=round(trainer.seconds, 1))
        if log is not None:
            left = (time.monotonic() - began) / (trainer.step - done) * (settings.steps - trainer.step)
            known = {"loss": log.last.get("loss"), "held-out error": log.last.get("error")}
            news = "".join(f"{name} {value:.4g}, " for name, value in known.items() if value is not None)
            progress(
                f"step {trainer.step} of {settings.steps}, {news}{duration(left)} left", trainer.step / settings.steps
            )
        late = trainer.can_be_left and time.monotonic() - saved > settings.checkpoint_seconds
        if trainer.ranks.agree(last or late):
            if first:
                checkpoint.save(file, trainer.state(), run)
            saved = time.monotonic()
    trainer.student.round_dense(dense_dtypes)
    error = trainer.validate(held_out)
    if log is not None:
        log.add(step=settings.steps, written=True, error=error, seconds=round(trainer.seconds, 1))
        progress(f"held-out error {error:.4g} of what is written", 1.0)
    trainer.close()
    return error


def recompute_blocks(blocks: list[nn.Module]) -> None:
    """Have blocks keep their inputs alone, and run again in the backward pass."""
    for block in blocks:

        def forward(*args: Any, real: Callable[..., Any] = block.forward, **kwargs: Any) -> Any:
            return recompute(real, *args, use_reentrant=False, **kwargs)

        block.forward = forward


def check_gradients(student: Student) -> None:
    """Every ternary layer must have taken part in the first step.

    Raises:
        SettingsError: one has not, so that training would leave it as it is.
    """
    for name, layer in student.layers.items():
        if layer.log_scale.grad is None:
            raise SettingsError(
                f"{name!r}: no call came through this layer, so that it cannot be trained; leave it out with "
                f"--exclude, or give it method exact"
            )
