"""A transformer of FLUX.1's shape with random weights, one step of it: time and peak memory.

The blocks are written out plainly, after the paper's figure and the published configuration: modulation, joint
attention with normalised and rotated queries and keys, MLPs. Every linear goes through a contender, everything else
is the same for all. Embedders and the final layer (0.6% of the parameters) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from . import flux
from .clock import Peak, free_bytes, measure, release
from .contenders import Contender, Product, random_weight

EPSILON = 1e-6


@dataclass(frozen=True)
class Geometry:
    """Of the transformer and its input."""

    width: int
    heads: int
    double: int
    single: int
    image: int
    text: int

    @property
    def tokens(self) -> int:
        """Text and image."""
        return self.text + self.image

    def double_shapes(self) -> dict[str, tuple[int, int]]:
        """(N, K) of a double block's linears."""
        w = self.width
        each = {"mod": (6 * w, w), "q": (w, w), "k": (w, w), "v": (w, w), "out": (w, w), "up": (4 * w, w)}
        each["down"] = (w, 4 * w)
        return {f"{side}.{name}": shape for side in ("image", "text") for name, shape in each.items()}

    def single_shapes(self) -> dict[str, tuple[int, int]]:
        """(N, K) of a single block's linears."""
        w = self.width
        return {
            "mod": (3 * w, w),
            "q": (w, w),
            "k": (w, w),
            "v": (w, w),
            "up": (4 * w, w),
            "out": (w, 5 * w),
        }

    def blocks(self) -> Iterator[tuple[int, dict[str, tuple[int, int]]]]:
        """Each block's number, from which its weights follow, and its shapes."""
        for index in range(self.double):
            yield index, self.double_shapes()
        for index in range(self.double, self.double + self.single):
            yield index, self.single_shapes()

    def weight_bytes(self, contender: Contender) -> int:
        """Of all blocks' linears, as the contender keeps them."""
        return sum(contender.weight_bytes(n, k) for _, shapes in self.blocks() for n, k in shapes.values())

    def activation_bytes(self) -> int:
        """A generous guess at what a block needs beside weights: forty bf16 tensors of all tokens."""
        return 40 * 2 * self.tokens * self.width


FLUX_1 = Geometry(flux.WIDTH, flux.HEADS, flux.DOUBLE_BLOCKS, flux.SINGLE_BLOCKS, flux.IMAGE_TOKENS, flux.TEXT_TOKENS)
TINY = Geometry(width=64, heads=2, double=2, single=3, image=16, text=8)

Block = dict[str, Product]


@dataclass(frozen=True)
class State:
    """What a block reads and writes: ``[tokens, width]`` each, before the single blocks the two apart."""

    image: Tensor
    text: Tensor
    vector: Tensor
    rotation: Tensor


@dataclass(frozen=True)
class StepResult:
    """Of one contender.

    Attributes:
        contender: its name.
        seconds: of a step.
        peak: most bytes allocated on the device, None on a CPU.
        weight_bytes: of all blocks' linears, by count.
        resident: all blocks were on the device at once; otherwise each was made, timed and dropped in turn.
        note: what was done otherwise than asked, or why there are no numbers.
        output: the result's image tokens on the CPU, to compare contenders.
    """

    contender: str
    seconds: float | None
    peak: int | None
    weight_bytes: int
    resident: bool
    note: str
    output: Tensor | None


def run(
    contender: Contender,
    geometry: Geometry,
    device: torch.device,
    cap: int | None,
    budget: float,
    tick: Callable[[], None],
) -> StepResult:
    """Time one step, with as much of the model on the device as it holds.

    Args:
        contender: multiplies.
        geometry: of the model.
        device: to run on.
        cap: bytes of the device to use at most, None for all.
        budget: seconds to measure for.
        tick: called after each block that was made.
    """
    needed = geometry.weight_bytes(contender) + geometry.activation_bytes()
    available = free_bytes(device, cap)
    resident = needed <= available
    try:
        with torch.inference_mode():
            act = _resident if resident else _streamed
            seconds, peak, output = act(contender, geometry, device, budget, tick)
    except torch.OutOfMemoryError:
        note = f"out of memory with {available / 1e9:.1f} GB available"
        return StepResult(contender.name, None, None, geometry.weight_bytes(contender), resident, note, None)
    note = ""
    if not resident:
        note = (
            f"needs {needed / 1e9:.1f} GB of {available / 1e9:.1f} GB: blocks made, timed and dropped one at a time; "
            "the time is of computing alone, the peak of one block"
        )
    weight_bytes = geometry.weight_bytes(contender)
    return StepResult(contender.name, seconds, peak, weight_bytes, resident, note, output.float().cpu())


def _resident(
    contender: Contender, geometry: Geometry, device: torch.device, budget: float, tick: Callable[[], None]
) -> tuple[float, int | None, Tensor]:
    blocks = []
    for index, shapes in geometry.blocks():
        blocks.append(_make(contender, index, shapes, device))
        tick()
    start = _start(geometry, device)

    def step() -> State:
        state = start
        for block in blocks:
            state = _forward(block, state, geometry)
        return state

    step()  # compiles; what a step itself takes is measured in the next
    with Peak(device) as peak:
        output = step().image
    return measure(step, device, budget).median, peak.bytes, output


def _streamed(
    contender: Contender, geometry: Geometry, device: torch.device, budget: float, tick: Callable[[], None]
) -> tuple[float, int | None, Tensor]:
    state, seconds = _start(geometry, device), 0.0
    peaks: list[int] = []
    share = budget / (geometry.double + geometry.single)
    for index, shapes in geometry.blocks():
        forward = partial(_forward, _make(contender, index, shapes, device), state, geometry)
        forward()
        with Peak(device) as peak:
            state = forward()
        if peak.bytes is not None:
            peaks.append(peak.bytes)
        seconds += measure(forward, device, share).median
        del forward
        release(device)
        tick()
    return seconds, max(peaks, default=None), state.image


def _make(contender: Contender, index: int, shapes: dict[str, tuple[int, int]], device: torch.device) -> Block:
    block = {}
    for number, (name, (n, k)) in enumerate(shapes.items()):
        weight = random_weight(n, k, device, seed=100 * index + number, bias_dtype=torch.bfloat16)
        block[name] = contender.prepare(weight)
    return block


def _start(geometry: Geometry, device: torch.device) -> State:
    generator = torch.Generator(device).manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(torch.bfloat16)

    half = geometry.width // geometry.heads // 2
    angles = torch.arange(geometry.tokens, device=device)[:, None] * torch.logspace(0, -4, half, device=device)
    rotation = torch.polar(torch.ones_like(angles), angles)
    return State(
        noise(geometry.image, geometry.width), noise(geometry.text, geometry.width), noise(1, geometry.width), rotation
    )


def _forward(block: Block, state: State, geometry: Geometry) -> State:
    return _double(block, state, geometry) if "image.q" in block else _single(block, state, geometry)


def _double(block: Block, state: State, geometry: Geometry) -> State:
    vector = F.silu(state.vector)
    sides = {"text": state.text, "image": state.image}
    mods = {side: block[f"{side}.mod"](vector).chunk(6, -1) for side in sides}
    qkv = []
    for side, x in sides.items():
        shift, scale = mods[side][:2]
        normed = _modulate(x, shift, scale)
        qkv.append([block[f"{side}.{name}"](normed) for name in "qkv"])
    q, k, v = (torch.cat(parts) for parts in zip(*qkv, strict=True))
    attended = _attention(q, k, v, state.rotation, geometry.heads)
    outs = {"text": attended[: geometry.text], "image": attended[geometry.text :]}
    done = {}
    for side, x in sides.items():
        _, _, gate, shift, scale, gate_mlp = mods[side]
        x = x + gate * block[f"{side}.out"](outs[side])
        hidden = F.gelu(block[f"{side}.up"](_modulate(x, shift, scale)), approximate="tanh")
        done[side] = x + gate_mlp * block[f"{side}.down"](hidden)
    return State(done["image"], done["text"], state.vector, state.rotation)


def _single(block: Block, state: State, geometry: Geometry) -> State:
    shift, scale, gate = block["mod"](F.silu(state.vector)).chunk(3, -1)
    x = torch.cat([state.text, state.image])
    normed = _modulate(x, shift, scale)
    attended = _attention(block["q"](normed), block["k"](normed), block["v"](normed), state.rotation, geometry.heads)
    hidden = F.gelu(block["up"](normed), approximate="tanh")
    x = x + gate * block["out"](torch.cat([attended, hidden], -1))
    return State(x[geometry.text :], x[: geometry.text], state.vector, state.rotation)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale) + shift


def _attention(q: Tensor, k: Tensor, v: Tensor, rotation: Tensor, heads: int) -> Tensor:
    """``[tokens, width]`` each -> the same; queries and keys normalised per head and rotated by position."""
    q, k, v = (t.view(len(t), heads, -1).transpose(0, 1) for t in (q, k, v))
    q, k = (_rotate(F.rms_norm(t, t.shape[-1:], eps=EPSILON), rotation) for t in (q, k))
    attended = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    return attended.transpose(0, 1).flatten(1)


def _rotate(t: Tensor, rotation: Tensor) -> Tensor:
    pairs = torch.view_as_complex(t.float().view(*t.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(t.dtype)
