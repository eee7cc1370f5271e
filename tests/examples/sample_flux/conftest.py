"""A tiny model of the sample's kind, as a pipeline folder."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sample_flux.model import make_models, save_pipeline

TINY = {"num_layers": 1, "num_single_layers": 1}


@pytest.fixture(scope="session", autouse=True)
def modules_cache(tmp_path_factory):
    """Where diffusers copies the code of pipeline folders."""
    from diffusers.utils import dynamic_modules_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    transformer, text_encoder = make_models(**TINY)
    models = nn.ModuleDict({"transformer": transformer, "text_encoder": text_encoder})
    folder = tmp_path_factory.mktemp("sample-flux") / "tiny"
    save_pipeline(models.state_dict(), folder, **TINY)
    return folder
