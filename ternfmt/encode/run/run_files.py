"""Make output files of a plan: quantise, copy, and go on where an earlier run was stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...tensor import TernaryTensor
from ..plan import Plan
from ..source.tensor_source import SourceChangedError, TensorSource, check_unchanged
from .group_commit import GroupCommit
from .jobs import Stop, run_jobs
from .journal import Journal
from .lock import FileLock
from .output import BlockWriter, Finished
from .shards import OutputFile
from .solution import Solved
from .stream import Quantizer, copy_tensor, quantize_tensor, write_tensor
from .work_folder import WorkFolder

Progress = Callable[[int], None]
"""Called, from any thread, with a number of weights that are done; negative where they have to be done again."""


@dataclass(frozen=True)
class Runner:
    """What the making of every file needs.

    Attributes:
        plan: what to do.
        folder: where to do it.
        source: where the weights come from.
        quantizer: `quantize`, or the same on another device.
        jobs: threads, a tensor each at a time.
        progress: called as weights are done.
        solution: tensors that are solved already, and only have to be written.
        stop: set when the work is to end early.
    """

    plan: Plan
    folder: WorkFolder
    source: TensorSource
    quantizer: Quantizer
    jobs: int
    progress: Progress
    solution: Mapping[str, Solved] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, files: Sequence[OutputFile]) -> None:
        """Make the files that are not there yet, one after another.

        Raises:
            BusyError: another job is making one of them.
            SourceChangedError: the source is not what was planned for, or changes meanwhile.
            WeightError: a weight is NaN or Inf.
            OSError: reading or writing fails.
        """
        self._check_source()
        for file in files:
            with FileLock(self.folder.files / f"{file.name}.lock", f"the making of {file.name}"):
                self._make(file)

    def _check_source(self) -> None:
        """The source as it was opened against the plan, which may be old or from another machine."""
        for path, stamp in self.source.stamps.items():
            if self.plan.stamps[str(path)] != (stamp.size, stamp.mtime_ns):
                raise SourceChangedError(f"{path}: changed since the conversion was planned: plan it again")

    def _make(self, file: OutputFile) -> None:
        target = self.folder.out / self.plan.checkpoint.subfolder / file.name
        if target.exists():
            self.progress(sum(map(self.plan.size, file.tensors)))
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = self.folder.files / f"{file.name}.partial"
        log = self.folder.files / f"{file.name}.journal"
        if not partial.exists():  # without its data a journal means nothing
            log.unlink(missing_ok=True)
        stored = {part: info for name in file.tensors for part, info in self.plan.stored(name).items()}
        output = BlockWriter(target, partial, stored, self.plan.document(file), self.source.metadata)
        try:
            journal = Journal(log, f"{self.plan.fingerprint} {file.name}")
            try:
                self._write_tensors(file, output, journal)
            finally:
                journal.close()
            check_unchanged(self.source.stamps)
            output.commit()
        finally:
            output.abort()

    def _write_tensors(self, file: OutputFile, output: BlockWriter, journal: Journal) -> None:
        left = dict.fromkeys(file.tensors)
        for record in journal.records:
            finished = Finished.from_json(record)
            output.finish(finished)
            del left[finished.name]
            self.progress(self.plan.size(finished.name))
        commit = GroupCommit(journal, output.sync)

        def work(name: str) -> None:
            finished = self._write_tensor(name, output)
            output.finish(finished)
            commit.add(finished.to_json())

        try:
            run_jobs(work, sorted(left, key=self._place_in_source), self.jobs, self.stop)
        finally:
            commit.close()

    def _write_tensor(self, name: str, output: BlockWriter) -> Finished:
        def tick(weights: int) -> None:
            if self.stop.is_set():
                raise Stop
            self.progress(weights)

        recipe = self.plan.recipes[name]
        solved = self.solution.get(name)
        if name in self.plan.layers:
            assert solved is None or isinstance(solved, TernaryTensor)
            layer = self.plan.layers[name]
            return quantize_tensor(name, recipe, layer, self.source, output, self.quantizer, tick, solved)
        if solved is not None:
            assert not isinstance(solved, TernaryTensor)
            return write_tensor(name, solved, output, tick)
        return copy_tensor(name, recipe, self.source, output, tick)

    def _place_in_source(self, name: str) -> tuple[str, int]:
        """Reading in the order of the source's bytes is what disks are fastest at."""
        span = self.source.spans[self.plan.recipes[name].parts[0].tensor]
        return span.file, span.begin
