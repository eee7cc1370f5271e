"""From a checkpoint on the disk to calls, and everything that is refused before hours are spent."""

from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path

import pytest
import torch

from ternfmt.encode.data import make, make_texts, trajectories
from ternfmt.encode.data.calls import output_of
from ternfmt.encode.data.checks import NeverRanError, check_layers_run, prepare_blocks
from ternfmt.encode.data.make import check_data, make_data
from ternfmt.encode.data.model import load_model
from ternfmt.encode.data.prompts import PromptError, is_held_out
from ternfmt.encode.data.replay import ActivationError
from ternfmt.encode.data.source import DataError, data_digest
from ternfmt.encode.data.texts import TextError
from ternfmt.encode.data.trajectories import TrajectoryError
from ternfmt.encode.plan import plan_conversion
from ternfmt.encode.run.lock import BusyError, FileLock
from ternfmt.encode.settings import Settings

SAMPLE = Path(__file__).parents[3] / "examples" / "sample-flux" / "model"
PROMPTS = "a red circle\ntwo blue squares\na cross above a circle\n# comment\na green triangle\nfour crosses\n"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(PROMPTS)
    return path


@pytest.fixture(autouse=True)
def few_sentences(monkeypatch):
    monkeypatch.setattr(make_texts, "SENTENCES_AT_LEAST", 40)
    monkeypatch.setattr(make_texts, "PIECE_TOKENS", 16)


def tensors(call):
    return {name: value for name, value in call.items() if isinstance(value, torch.Tensor)}


def assert_same_calls(one, other):
    for number in range(3):
        a, b = tensors(one.call(number, 3)), tensors(other.call(number, 3))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("source", ["tiny", "sample"])
def test_a_pipelines_own_pictures(source, pipeline_folder, prompts, tmp_path):
    plan = plan_conversion(pipeline_folder if source == "tiny" else SAMPLE, Settings())
    loaded = load_model(plan)
    told = []
    arguments = {"prompts": prompts, "samples": 4, "held_out": 1, "steps": 2, "trust_remote_code": True}
    train, held_out = make_data(
        plan, loaded, tmp_path / "work", progress=lambda what, part: told.append((what, part)), **arguments
    )
    assert told[-1] == ("held-out: pictures of the teacher 1 of 1", 1.0)
    assert len(train.prompts) == 4
    assert len(held_out.prompts) == 1
    assert set(train.prompts) | set(held_out.prompts) == set(PROMPTS.splitlines()) - {"# comment"}
    call = train.call(0, 3)
    assert call["hidden_states"].shape == (3, 36, 50)
    assert all(value.dtype == torch.float32 for value in tensors(call).values())
    with torch.no_grad():
        assert output_of(loaded.model(**call)).shape == (3, 36, 48)
    check_layers_run(loaded, train.call(0, 2))
    assert [b.name for b in prepare_blocks(loaded, train.call(0, 1)).blocks] == [b.name for b in loaded.blocks]
    told.clear()
    again = make_data(plan, loaded, tmp_path / "work", **arguments)
    assert_same_calls(train, again[0])
    assert_same_calls(held_out, again[1])
    assert len(list((tmp_path / "work").iterdir())) == 1
    if source == "tiny":
        make_data(plan, loaded, tmp_path / "work", **{**arguments, "guidance": 2.0})
        assert len(list((tmp_path / "work").iterdir())) == 2


def test_a_trained_models_pictures_are_pictures(prompts, tmp_path):
    """What is stored is what the sample pipeline draws: its velocity points from noise to such latents."""
    plan = plan_conversion(SAMPLE, Settings())
    loaded = load_model(plan)
    train, _ = make_data(
        plan, loaded, tmp_path, prompts=prompts, samples=4, held_out=1, steps=4, trust_remote_code=True
    )
    latents = torch.stack([row.latent for group in train._groups for row in group[0]])
    call = train.call(0, 16)
    noisy = call["hidden_states"][..., :48]
    with torch.no_grad():
        velocity = output_of(loaded.model(**call))

    def distance(pictures):
        return torch.cdist(pictures.flatten(1), latents.flatten(1)).amin(1).median()

    # z_t - t v is the model's guess at the picture: far nearer to one of ours than what it is guessed from.
    assert distance(noisy - call["timestep"][:, None, None] * velocity) < distance(noisy) / 2


def test_an_encoders_sentences(folders, tmp_path):
    plan = plan_conversion(folders("bert"), Settings())
    loaded = load_model(plan)
    train, held_out = make_data(plan, loaded, tmp_path, samples=50, held_out=10)
    call = train.call(0, 4)
    assert call["input_ids"][:, 0].tolist() == [2] * 4
    assert call["input_ids"][:, -1].tolist() == [3] * 4
    check_layers_run(loaded, train.call(0, 2))
    prepare_blocks(loaded, held_out.call(0, 1))
    assert_same_calls(train, make_data(plan, loaded, tmp_path, samples=50, held_out=10)[0])


def test_a_language_models_own_text(folders, tmp_path, prompts):
    plan = plan_conversion(folders("llama"), Settings())
    loaded = load_model(plan)
    told = []
    train, _ = make_data(
        plan, loaded, tmp_path, samples=5, held_out=2, progress=lambda what, part: told.append((what, part))
    )
    assert train.call(0, 4)["input_ids"].shape == (4, 16)
    assert told[-1] == ("held-out: text of the model: 2 of 2 pieces", 1.0)
    check_layers_run(loaded, train.call(0, 2))
    prepare_blocks(loaded, train.call(0, 1))
    with pytest.raises(TextError, match=r"prompts.txt: no train prompt of at least 8 tokens"):
        make_data(plan, loaded, tmp_path, prompts=prompts, samples=5, held_out=2)


def test_held_out_prompts_that_are_too_short_are_refused_before_text_is_written(folders, tmp_path):
    plan = plan_conversion(folders("llama"), Settings())
    long = (f"line {n} has rather more words in it than eight tokens would hold" for n in count())
    short = (f"line {n}" for n in count())
    lines = next(t for t in long if not is_held_out(t)), next(t for t in short if is_held_out(t))
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    with pytest.raises(TextError, match=r"prompts.txt: no held-out prompt of at least 8 tokens"):
        make_data(plan, load_model(plan), tmp_path / "work", prompts=tmp_path / "prompts.txt", samples=5, held_out=2)
    assert not list((tmp_path / "work").rglob("*"))


def test_a_transformer_without_its_pipeline_is_refused(folders, pipeline_folder):
    with pytest.raises(DataError, match=r"no text encoders, .*name the pipeline's folder, with model_index.json"):
        check_data(plan_conversion(folders("flux"), Settings()))
    with pytest.raises(DataError) as caught:
        check_data(plan_conversion(pipeline_folder / "transformer", Settings()))
    assert str(caught.value).endswith(f"model_index.json: {pipeline_folder}")


def test_a_scheduler_of_an_unknown_kind_is_refused(pipeline_folder, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(pipeline_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="its scheduler is EulerDiscreteScheduler: expected one of FlowMatch"):
        check_data(plan_conversion(folder, Settings()))


def test_a_pipeline_that_cannot_be_loaded_is_named(pipeline_folder, tmp_path, prompts):
    folder = tmp_path / "pipeline"
    shutil.copytree(pipeline_folder, folder)
    shutil.rmtree(folder / "text_encoder")
    plan = plan_conversion(folder, Settings())
    loaded = load_model(plan)
    with pytest.raises(DataError, match="the pipeline cannot be loaded"):
        make_data(plan, loaded, tmp_path / "w", prompts=prompts, samples=1, held_out=1, trust_remote_code=True)


def test_code_in_the_pipelines_folder_is_not_run_unasked(pipeline_folder, prompts):
    plan = plan_conversion(pipeline_folder, Settings())
    with pytest.raises(DataError, match=r"Python code .*\(sample_flux_pipeline.py\).*--trust-remote-code"):
        check_data(plan, prompts)
    check_data(plan, prompts, trust_remote_code=True)


@pytest.mark.parametrize("kind", ["tiny", "bert", "llama"])
def test_a_model_is_looked_at_before_its_data_is_made(folders, pipeline_folder, prompts, tmp_path, kind):
    plan = plan_conversion(pipeline_folder if kind == "tiny" else folders(kind), Settings())
    loaded = load_model(plan)
    arguments = {"prompts": prompts} if kind == "tiny" else {}

    def refuse(call):
        loaded.model(**call)
        raise NeverRanError("a layer never ran")

    with pytest.raises(NeverRanError):
        make_data(
            plan, loaded, tmp_path, samples=2, held_out=1, steps=2, trust_remote_code=True, check=refuse, **arguments
        )
    assert kind == "bert" or not list(tmp_path.rglob("*.safetensors"))  # an encoder's sentences cost nothing


@pytest.fixture
def two_pictures_per_run(monkeypatch):
    monkeypatch.setattr(make, "PICTURES_PER_RUN", 2)
    monkeypatch.setattr(trajectories, "PICTURES_PER_RUN", 2)


@pytest.mark.usefixtures("two_pictures_per_run")
def test_more_data_than_is_wanted_changes_nothing(pipeline_folder, prompts, tmp_path):
    plan, work = plan_conversion(pipeline_folder, Settings()), tmp_path / "work"
    loaded = load_model(plan)
    arguments = {"prompts": prompts, "held_out": 2, "steps": 2, "trust_remote_code": True}
    few, _ = make_data(plan, loaded, work, samples=2, **arguments)
    more, _ = make_data(plan, loaded, work, samples=4, **arguments)
    again, _ = make_data(plan, loaded, work, samples=2, **arguments)
    assert len(list(work.iterdir())) == 1
    assert [len(calls.samples) for calls in (few, more, again)] == [2, 4, 2]
    assert_same_calls(few, again)


def test_pictures_for_templates_are_the_beginning_of_those_of_larger_counts(pipeline_folder, tmp_path, monkeypatch):
    plan, drawn = plan_conversion(pipeline_folder, Settings()), {}
    loaded = load_model(plan)

    def record(pipeline, model, prompts, wanted, folder, **options):
        slots = -(-wanted // trajectories.PICTURES_PER_RUN) * trajectories.PICTURES_PER_RUN
        drawn[wanted] = folder, [prompts[n % len(prompts)] for n in range(slots)]
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "first_call", lambda *arguments: {})
    monkeypatch.setattr(make, "record_trajectories", record)
    for samples in (100, 200):
        with pytest.raises(KeyboardInterrupt):
            make_data(plan, loaded, tmp_path, samples=samples, held_out=1, trust_remote_code=True)
    (folder, few), (same, many) = drawn[100], drawn[200]
    assert folder == same
    assert few == many[:128]


@pytest.mark.usefixtures("two_pictures_per_run")
def test_two_processes_do_not_draw_the_same_pictures(pipeline_folder, prompts, tmp_path):
    plan = plan_conversion(pipeline_folder, Settings())
    loaded = load_model(plan)
    arguments = {"prompts": prompts, "samples": 4, "held_out": 1, "steps": 2, "trust_remote_code": True}
    refused = []

    def look(what, part):
        if part == 0.5:
            with pytest.raises(BusyError, match=r"drawing pictures to .* is going on already"):
                make_data(plan, loaded, tmp_path / "work", **arguments)
            refused.append(what)

    make_data(plan, loaded, tmp_path / "work", progress=look, **arguments)
    assert refused == ["train: pictures of the teacher 2 of 4"]


def test_two_processes_do_not_write_the_same_texts(folders, tmp_path):
    plan = plan_conversion(folders("bert"), Settings())
    loaded = load_model(plan)
    make_data(plan, loaded, tmp_path, samples=2, held_out=1)
    (work,) = tmp_path.iterdir()
    (work / "train.safetensors").unlink()
    with FileLock(work / "lock", "test"), pytest.raises(BusyError, match=r"writing texts to .* is going on already"):
        make_data(plan, loaded, tmp_path, samples=2, held_out=1)


def test_data_does_not_depend_on_where_the_checkpoint_lies(folders, tmp_path):
    shutil.copytree(folders("bert"), tmp_path / "copy")
    one, two = (plan_conversion(folder, Settings()) for folder in (folders("bert"), tmp_path / "copy"))
    assert data_digest(one, 1) == data_digest(two, 1) != data_digest(two, 2)
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert data_digest(one, 1) != data_digest(plan_conversion(tmp_path / "copy", Settings()), 1)


def test_data_depends_on_all_of_the_pipeline(pipeline_folder, tmp_path):
    shutil.copytree(pipeline_folder, tmp_path / "copy")
    one, two = (plan_conversion(folder, Settings()) for folder in (pipeline_folder, tmp_path / "copy"))
    (tmp_path / "copy" / "made.partial").mkdir()
    (tmp_path / "copy" / "made.partial" / "plan.json").touch()
    assert data_digest(one) == data_digest(two)
    scheduler = tmp_path / "copy" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"shift": 2.5}))
    assert data_digest(one) != data_digest(two)


def test_options_that_the_pipeline_does_not_take_are_named(pipeline_folder, tmp_path, prompts):
    plan = plan_conversion(pipeline_folder, Settings())
    with pytest.raises(DataError, match="SampleFluxPipeline does not take height"):
        make_data(
            plan,
            load_model(plan),
            tmp_path / "work",
            prompts=prompts,
            samples=1,
            held_out=1,
            options={"height": 24},
            trust_remote_code=True,
        )


def test_words_that_the_pipeline_does_not_know_are_named(pipeline_folder, tmp_path):
    plan = plan_conversion(pipeline_folder, Settings())
    with pytest.raises(TrajectoryError, match=r"expected at most 8 words among a, and, left.*--prompts"):
        make_data(plan, load_model(plan), tmp_path / "work", samples=1, held_out=1, trust_remote_code=True)


def test_a_missing_tokenizer_is_named(folders, tmp_path):
    folder = tmp_path / "bert"
    shutil.copytree(folders("bert"), folder, ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    with pytest.raises(DataError, match=r"bert: no tokenizer \(tokenizer.json, "):
        check_data(plan_conversion(folder, Settings()))
    (folder / "tokenizer.json").write_text("{")
    plan = plan_conversion(folder, Settings())
    with pytest.raises(DataError, match="bert: the tokenizer cannot be loaded"):
        make_data(plan, load_model(plan), tmp_path / "work", samples=1, held_out=1)


def test_files_of_prompts_are_looked_at_first(folders, tmp_path):
    plan = plan_conversion(folders("bert"), Settings())
    with pytest.raises(FileNotFoundError, match=r"none.txt: no such file of prompts"):
        check_data(plan, tmp_path / "none.txt")
    (tmp_path / "one.txt").write_text("one")
    with pytest.raises(PromptError, match=r"one.txt: one prompt"):
        check_data(plan, tmp_path / "one.txt")


@pytest.mark.parametrize("name", ["samples", "held_out", "steps"])
def test_numbers_are_at_least_one(folders, tmp_path, name):
    plan = plan_conversion(folders("bert"), Settings())
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        make_data(plan, load_model(plan), tmp_path, **{"samples": 1, "held_out": 1, name: 0})


def test_layers_that_never_run_are_named(load, calls_of):
    loaded = load("bert", everything=True)
    call = calls_of("bert")[0]
    check_layers_run(loaded, call)
    loaded.model.pooler = None
    with pytest.raises(NeverRanError, match=r"1 of 19 ternary layers never ran: pooler.dense.weight: .*--exclude"):
        check_layers_run(loaded, call)


def test_layers_that_give_nan_are_named(load, calls_of):
    loaded = load("flux")
    name = "single_transformer_blocks.0.attn.to_k.weight"
    loaded.linears[name].weight[3, 0] = torch.nan
    with pytest.raises(ActivationError, match=rf"{name}: its output has NaN or Inf in torch.float32"):
        check_layers_run(loaded, calls_of("flux")[0])
    loaded = load("flux")
    loaded.model.proj_out.weight[0, 0] = torch.inf
    with pytest.raises(ActivationError, match=r"^the model: its output has NaN or Inf"):
        check_layers_run(loaded, calls_of("flux")[0])
