"""`make demo-minilm` on the real checkpoint: the numbers it prints mean what the table says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ternfmt
from examples.minilm import compare

N_K = [(384, 384)] * 4 + [(1536, 384), (384, 1536)]
"""Shapes of one encoder layer's weights: q, k, v, attention output, feed-forward in and out."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("minilm")


@pytest.fixture(scope="module")
def results(output: Path) -> dict[str, compare.Result]:
    checkpoint = compare.extract_checkpoint(output)
    sentences = compare.SENTENCES.read_text(encoding="utf-8").splitlines()
    full = compare.embed(compare.load_dense(checkpoint), checkpoint, sentences)
    return {
        method: compare.measure(method, checkpoint, output, sentences, full)
        for method in ("absmean", "exact", "planes")
    }


def test_two_planes_keep_the_meaning_of_the_sentences(results):
    assert results["planes"].cosine > 0.85
    assert results["planes"].correlation > 0.9


def test_methods_rank_as_their_weight_errors_do(results):
    for better, worse in [("planes", "exact"), ("exact", "absmean")]:
        assert results[better].snr_db > results[worse].snr_db + 1
        assert results[better].cosine > results[worse].cosine + 0.05
        assert results[better].correlation > results[worse].correlation + 0.03


def test_weight_snr_is_that_of_an_independent_implementation(results):
    # From a float64 script of another author, on this checkpoint. Its two planes are not optimal.
    assert results["absmean"].snr_db == pytest.approx(5.45, abs=0.01)
    assert results["exact"].snr_db == pytest.approx(6.91, abs=0.01)
    assert results["planes"].snr_db > 14.47


@pytest.mark.parametrize(("method", "planes"), [("absmean", 1), ("exact", 1), ("planes", 2)])
def test_ratios_follow_from_the_shapes(results, output, method, planes):
    bf16 = sum(2 * n * k for n, k in N_K)
    packed = sum(planes * (n * -(-k // 4) + 2 * n) for n, k in N_K)
    assert results[method].block_ratio == pytest.approx(bf16 / packed)

    before = (output / "all-MiniLM-L6-v2" / "model.safetensors").stat().st_size
    header = 64 * 1024  # more than the headers of both files
    after = before - 6 * (2 * bf16 - packed)
    assert results[method].file_ratio == pytest.approx(before / after, rel=header / after)


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("method", ["exact", "planes"])
def test_only_the_encoder_linears_are_ternary(output, method):
    with ternfmt.open(output / f"minilm-{method}") as file:
        ternary = [name for name, info in file.tensors.items() if info.ternary]
    assert len(ternary) == 36
    assert all(name.startswith("encoder.layer.") for name in ternary)


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("method", ["exact", "planes"])
def test_packed_model_computes_what_its_dequantised_twin_does(output, method):
    checkpoint = output / "all-MiniLM-L6-v2"
    converted = output / f"minilm-{method}"
    sentences = compare.SENTENCES.read_text(encoding="utf-8").splitlines()[::8]
    twin = compare.load_dense(checkpoint)
    with ternfmt.open(converted) as file, torch.no_grad():
        for name, info in file.tensors.items():
            if info.ternary:
                weight = file[name].dequantize(np.float32)
                twin.get_parameter(name).copy_(torch.from_numpy(weight))
    packed = compare.embed(compare.load_ternary(checkpoint, converted), checkpoint, sentences)
    dense = compare.embed(twin, checkpoint, sentences)
    np.testing.assert_allclose(packed, dense, atol=2e-5, rtol=0)


@pytest.mark.slow
def test_sentences_from_templates_are_worth_more_than_none(results, output, monkeypatch):
    monkeypatch.setitem(compare.OPTIONS, "calibrated", ("--samples", "48", "--batch", "16"))
    sentences = compare.SENTENCES.read_text(encoding="utf-8").splitlines()
    checkpoint = output / "all-MiniLM-L6-v2"
    full = compare.embed(compare.load_dense(checkpoint), checkpoint, sentences)
    calibrated = compare.measure("calibrated", checkpoint, output, sentences, full)
    assert calibrated.block_ratio == results["exact"].block_ratio
    assert calibrated.cosine > results["exact"].cosine + 0.1
    assert calibrated.correlation > results["exact"].correlation + 0.03


@pytest.mark.usefixtures("results")
def test_json_report(output, capsys):
    assert compare.main(["--json", "--method", "exact", "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["sentences"] == 64
    assert [r["method"] for r in report["results"]] == ["exact"]
    assert "exact: converting" in err
