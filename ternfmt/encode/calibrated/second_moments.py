"""Second moments of what a linear layer reads: all that `calibrated` knows of the calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_TOKENS = 8192
"""Tokens that are added at a time: bounds the copies in the dtype of the sums."""


class CalibrationError(ValueError):
    """Calibration inputs that give no second moments: NaN, Inf, or of another shape."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over tokens; x is the teacher's input, x' the student's.

    Attributes:
        student: H = E[x' x'^T], ``[K, K]``.
        cross: G = E[x x'^T], ``[K, K]``; None stands for H (x = x').
        teacher_mean: E[x], ``[K]``.
        student_mean: E[x'], ``[K]``.
        tokens: how many.
    """

    student: Tensor
    cross: Tensor | None
    teacher_mean: Tensor
    student_mean: Tensor
    tokens: int

    def centred(self) -> Moments:
        """The covariances in place of the second moments: what is left to a layer whose bias is free.

        Works in place, so that 15,360 x 15,360 matrices are not held twice; `self` must not be used any more.
        """
        self.student.addr_(self.student_mean, self.student_mean, alpha=-1)
        if self.cross is not None:
            self.cross.addr_(self.teacher_mean, self.student_mean, alpha=-1)
        return self


class SecondMoments:
    """Running sums of one layer's inputs, or of several layers' that read the same tensor.

    Memory: ``K * K`` numbers, twice with a teacher: 0.94 GB each in float32 at FLUX's largest K, 15,360.
    """

    def __init__(self, columns: int, *, cross: bool, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """All sums zero.

        Args:
            columns: K.
            cross: keep E[x x'^T], too.
            device: where the sums are kept.
            dtype: of the sums.
        """
        self._student = torch.zeros(columns, columns, dtype=dtype, device=device)
        self._cross = torch.zeros_like(self._student) if cross else None
        self._teacher_mean = torch.zeros(columns, dtype=dtype, device=device)
        self._student_mean = torch.zeros_like(self._teacher_mean)
        self._tokens = 0

    def add(self, teacher: Tensor, student: Tensor) -> None:
        """Add what both models read at one call.

        Args:
            teacher: x, ``[..., K]``.
            student: x', of the same shape.

        Raises:
            CalibrationError: the shapes differ, or the last dimension is not K.
        """
        columns = len(self._student)
        if teacher.shape != student.shape or student.shape[-1] != columns:
            raise CalibrationError(
                f"inputs: expected two tensors of one shape [..., {columns}], "
                f"got {list(teacher.shape)} (teacher) and {list(student.shape)} (student)"
            )
        x, y = teacher.reshape(-1, columns), student.reshape(-1, columns)
        for start in range(0, len(y), CHUNK_TOKENS):
            here = slice(start, start + CHUNK_TOKENS)
            x_part, y_part = (t[here].to(self._student.device, self._student.dtype) for t in (x, y))
            self._student.addmm_(y_part.T, y_part)
            if self._cross is not None:
                self._cross.addmm_(x_part.T, y_part)
            self._teacher_mean += x_part.sum(0)
            self._student_mean += y_part.sum(0)
        self._tokens += len(y)

    def finish(self, names: Sequence[str]) -> Moments:
        """The means. The sums are turned into them in place: call it once, last.

        Args:
            names: the tensors that the inputs belong to, for errors.

        Raises:
            CalibrationError: NaN or Inf among the inputs.
        """
        sums = [self._student, self._teacher_mean, self._student_mean]
        if self._cross is not None:
            sums.append(self._cross)
        for total in sums:
            total /= max(1, self._tokens)
            if not bool(torch.isfinite(total).all()):
                raise CalibrationError(
                    f"{', '.join(names)}: expected finite inputs on the calibration data, got NaN or Inf; "
                    "load the model in float32 or bfloat16, or keep these tensors dense"
                )
        return Moments(self._student, self._cross, self._teacher_mean, self._student_mean, self._tokens)
