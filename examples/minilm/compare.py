"""Convert a real sentence-embedding model to ternary and measure what is left of it.

The model is all-MiniLM-L6-v2 (22.7 million parameters, fp32), from the wheel that
requirements/minilm.txt names. The 36 linear layers of its encoder become ternary; embeddings,
norms, biases and the pooler stay dense. Converting uses the weights alone, but for the methods "calibrated" and
"distilled", which take minutes and run the model on sentences from templates.

    python examples/minilm/compare.py [--method absmean exact planes calibrated distilled] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

import ternfmt
import ternfmt_runtime

# The pooler is no part of a sentence's embedding, so that nothing can be learned about it.
OPTIONS = {
    "calibrated": ("--samples", "256", "--batch", "16"),
    "distilled": (
        *("--samples", "16384", "--held-out", "256", "--batch", "32", "--steps", "500"),
        *("--start", "calibrated", "--learning-rate", "7e-4"),
    ),
}
SENTENCES = Path(__file__).with_name("sentences.txt")
WEIGHTS = "model.safetensors"
Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        method: encoder method.
        cosine: mean cosine between each sentence's embedding and its full-precision embedding.
        correlation: Pearson, over all pairs of sentences, between their similarity and their
            similarity in full precision.
        snr_db: 10 log10 of the ternarised weights' energy over the energy of their error.
        block_ratio: bf16 bytes of the ternarised weights / bytes of their codes and scales.
        file_ratio: bytes of the fp32 checkpoint / bytes of the converted one.
        seconds: what `ternfmt convert` took, process start included.
    """

    method: str
    cosine: float
    correlation: float
    snr_db: float
    block_ratio: float
    file_ratio: float
    seconds: float


def extract_checkpoint(folder: Path) -> Path:
    """Unzip the checkpoint into ``folder`` unless it is there."""
    archive_path = Path(sys.prefix, "minilm", "all_minilm_l6_v2", "model.zip")
    if not archive_path.is_file():
        raise SystemExit(
            f"no checkpoint at {archive_path}: `make demo-minilm` puts it there, or "
            f"pip install --no-deps --target {sys.prefix}/minilm -r requirements/minilm.txt"
        )
    checkpoint = folder / "all-MiniLM-L6-v2"
    with zipfile.ZipFile(archive_path) as archive:
        for member in archive.infolist():
            target = checkpoint / member.filename
            if not target.exists() or target.stat().st_size != member.file_size:
                archive.extract(member, checkpoint)
    return checkpoint


def convert(checkpoint: Path, destination: Path, method: str) -> float:
    """Run `ternfmt convert` on the checkpoint; return the seconds it took."""
    command = [sys.executable, "-m", "ternfmt", "convert", str(checkpoint), str(destination), "--method", method]
    shutil.rmtree(destination, ignore_errors=True)  # convert never overwrites
    start = time.perf_counter()
    subprocess.run([*command, *OPTIONS.get(method, ())], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def load_dense(checkpoint: Path) -> torch.nn.Module:
    """Load the full-precision model."""
    model: torch.nn.Module = AutoModel.from_pretrained(checkpoint)
    return model.eval()


def load_ternary(checkpoint: Path, converted: Path) -> torch.nn.Module:
    """Load the converted model: its ternary layers stay packed."""
    model: torch.nn.Module = AutoModel.from_config(AutoConfig.from_pretrained(checkpoint))
    # Not strict: the checkpoint holds position_ids, which today's model makes itself.
    report = ternfmt_runtime.load_into(model, converted, strict=False)
    if report.missing:
        raise SystemExit(f"{converted} lacks {', '.join(report.missing)}")
    return model.eval()


@torch.inference_mode()
def embed(model: torch.nn.Module, checkpoint: Path, sentences: Sequence[str]) -> Embeddings:
    """Mean-pooled, normalised embeddings ``[sentences, 384]``."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    batch = tokenizer(list(sentences), padding=True, return_tensors="pt")
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    embeddings: Embeddings = torch.nn.functional.normalize(pooled, dim=1).numpy()
    return embeddings


def mean_cosine(a: Embeddings, b: Embeddings) -> float:
    """Mean cosine between rows of the same index."""
    return float((a * b).sum(1).mean())


def similarity_correlation(a: Embeddings, b: Embeddings) -> float:
    """Pearson correlation between the pairwise similarities of ``a`` and those of ``b``."""
    pairs = np.triu_indices(len(a), k=1)
    return float(np.corrcoef((a @ a.T)[pairs], (b @ b.T)[pairs])[0, 1])


def weight_statistics(checkpoint: Path, converted: Path) -> tuple[float, float]:
    """Signal-to-noise ratio in dB and block ratio of all ternarised weights together."""
    dense = load_file(checkpoint / WEIGHTS)
    signal = noise = 0.0
    bf16_bytes = ternary_bytes = 0
    with ternfmt.open(converted) as file:
        for name in file.tensors:
            tensor = file[name]
            if not isinstance(tensor, ternfmt.TernaryTensor):
                continue
            weight = dense[name].astype(np.float64)
            signal += float((weight**2).sum())
            noise += float(((weight - tensor.dequantize()) ** 2).sum())
            bf16_bytes += 2 * weight.size
            ternary_bytes += tensor.nbytes
    return 10 * float(np.log10(signal / noise)), bf16_bytes / ternary_bytes


def measure(method: str, checkpoint: Path, folder: Path, sentences: Sequence[str], full: Embeddings) -> Result:
    """Convert with ``method``, load, embed, compare with the full-precision embeddings."""
    converted = folder / f"minilm-{method}"
    seconds = convert(checkpoint, converted, method)
    embeddings = embed(load_ternary(checkpoint, converted), checkpoint, sentences)
    snr_db, block_ratio = weight_statistics(checkpoint, converted)
    return Result(
        method=method,
        cosine=mean_cosine(embeddings, full),
        correlation=similarity_correlation(embeddings, full),
        snr_db=snr_db,
        block_ratio=block_ratio,
        file_ratio=(checkpoint / WEIGHTS).stat().st_size / (converted / WEIGHTS).stat().st_size,
        seconds=seconds,
    )


def print_table(results: Sequence[Result], sentences: int) -> None:
    """Print the results for people."""
    print(f"\nall-MiniLM-L6-v2, 36 of its layers ternary, {sentences} sentences\n")
    print("method     cosine  correlation       SNR  block ratio  file ratio  convert")
    print("fp32        1.000        1.000         -            -       1.00x        -")
    for r in results:
        print(
            f"{r.method:9}{r.cosine:8.3f}{r.correlation:13.3f}{r.snr_db:7.2f} dB"
            f"{r.block_ratio:12.2f}x{r.file_ratio:11.2f}x{r.seconds:7.1f} s"
        )
    print(
        "\ncosine       of each embedding with its full-precision one, mean\n"
        "correlation  of the similarities of all pairs with those in full precision\n"
        "SNR          of the ternary weights; block ratio: their bytes in bf16 / here\n"
        "file ratio   fp32 file / this file\n",
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--method", nargs="+", default=["exact", "planes"], metavar="METHOD")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(argv)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    say("extracting the checkpoint")
    checkpoint = extract_checkpoint(arguments.output)
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
    say(f"embedding {len(sentences)} sentences in full precision")
    full = embed(load_dense(checkpoint), checkpoint, sentences)
    results = []
    for method in arguments.method:
        say(f"{method}: converting, loading, embedding")
        results.append(measure(method, checkpoint, arguments.output, sentences, full))
    if arguments.json:
        report: dict[str, Any] = {
            "sentences": len(sentences),
            "results": [asdict(result) for result in results],
        }
        print(json.dumps(report, indent=2))
    else:
        print_table(results, len(sentences))
        python = os.path.relpath(sys.executable)
        say(f"{python} -m ternfmt inspect {arguments.output}/... shows what is in a converted file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
