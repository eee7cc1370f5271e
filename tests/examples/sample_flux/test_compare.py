import json

import numpy as np
import pytest
import torch

import ternfmt
from sample_flux.__main__ import main
from sample_flux.cases import make_cases
from sample_flux.compare import compare, judge_pictures, picture_distance, velocity_errors
from sample_flux.draw import load_pipeline
from sample_flux.prompts import CATEGORIES
from sample_flux.scenes import render, sample_scene
from sample_flux.ternary import convert_pipeline
from ternfmt_runtime import TernaryLinear

BLOCK_LINEARS = 14 + 6  # of one double and one single block


def test_equal_models_differ_by_nothing():
    cases = make_cases("evaluation", 50)
    passed = np.random.default_rng(0).random(len(cases)) < 0.8
    result = compare(cases, passed, passed)
    assert result.retention is not None
    assert (result.retention.value, result.retention.half_width) == (1, 0)
    assert (result.difference.value, result.difference.half_width) == (0, 0)
    assert result.score_a == result.score_b
    assert result.pairs == 300


def test_scores_are_means_of_categories():
    cases = make_cases("evaluation", 10)[:30]  # three categories only
    passed_a, passed_b = np.ones(30, bool), np.arange(30) < 15
    result = compare([*cases, *make_cases("evaluation", 10)[30:]], np.r_[passed_a, passed_a], np.r_[passed_b, passed_b])
    shares = [b for _, b in result.by_category.values()]
    assert shares == [1, 0.5, 0, 1, 0.5, 0]
    assert result.score_b.value == pytest.approx(0.5)
    assert result.retention is not None
    assert result.retention.value == pytest.approx(0.5)


def test_intervals_are_those_of_paired_differences():
    cases = make_cases("evaluation", 400)
    rng = np.random.default_rng(0)
    passed_a = rng.random(len(cases)) < 0.9
    passed_b = passed_a & (rng.random(len(cases)) < 0.97)
    result = compare(cases, passed_a, passed_b)
    difference = passed_b.astype(float) - passed_a
    expected = 1.96 * np.sqrt(np.mean([d.var() for d in difference.reshape(6, -1)]) / len(cases))
    assert result.difference.half_width == pytest.approx(expected, rel=0.05)
    assert result.difference.low < difference.mean() < result.difference.high
    assert result.difference.half_width < result.score_a.half_width / 1.5


def test_nothing_is_kept_of_nothing():
    cases = make_cases("evaluation", 2)
    nothing = np.zeros(12, bool)
    assert compare(cases, nothing, nothing).retention is None


def test_pictures_are_judged_by_their_prompts():
    cases = make_cases("evaluation", 5)
    images = render([sample_scene(case.prompt, np.random.default_rng(case.seed)) for case in cases])
    pictures = (images.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
    assert judge_pictures(cases, pictures).all()
    assert judge_pictures(cases, np.roll(pictures, 10, axis=0)).mean() < 0.1
    assert picture_distance(pictures, pictures) == 0
    assert picture_distance(pictures, 255 - pictures) > 0.5


def test_a_converted_model_draws_with_packed_weights(tiny_folder, tmp_path):
    size = convert_pipeline(tiny_folder, tmp_path / "two", "--method", "planes")
    pipe = load_pipeline(tmp_path / "two")
    layers = [module for module in pipe.transformer.modules() if isinstance(module, TernaryLinear)]
    assert len(layers) == BLOCK_LINEARS
    assert pipe.transformer.transformer_blocks[0].attn.to_q.weight.dtype == torch.uint8
    with ternfmt.open(tmp_path / "two" / "transformer" / "diffusion_pytorch_model.safetensors") as file:
        stored = sum(file[name].nbytes for name, info in file.tensors.items() if info.ternary)
    held = [value for layer in layers for name, value in layer.state_dict().items() if name != "bias"]
    assert sum(value.nbytes for value in held) == stored
    assert 3.7 < size.block_ratio < 4
    assert 2 < size.file_ratio < size.block_ratio
    assert size.snr_db > 13

    dense = load_pipeline(tiny_folder)
    errors = velocity_errors(dense, pipe, make_cases("validation", 1))
    assert all(0 < error < 1 for error in errors.values())
    assert not any(velocity_errors(dense, dense, make_cases("validation", 1)).values())
    guided = {factor: velocity_errors(dense, pipe, make_cases("validation", 1), factor) for factor in (0.0, 1.0, 3.0)}
    assert guided[1.0] == pytest.approx(errors, rel=1e-4)  # the prompt's own
    assert guided[0.0] != errors  # the empty prompt's
    assert guided[3.0].keys() == errors.keys()


def test_the_command(tiny_folder, capsys):
    arguments = ["judge", str(tiny_folder), str(tiny_folder), "--pairs", "6", "--threads", str(torch.get_num_threads())]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "6 pairs: B - A = +0.0 points" in out
    assert all(category in out for category in CATEGORIES)
    assert "tiny" in err

    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pairs"] == 6
    assert report["picture_distance"] == 0
    assert set(report["by_category"]) == set(CATEGORIES)


def test_the_command_needs_a_pair_of_each_category(tiny_folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["judge", str(tiny_folder), str(tiny_folder), "--pairs", "5"])
    assert "at least one for each of 6 categories" in capsys.readouterr().err
