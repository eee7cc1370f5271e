"""The plug-ins are in place whichever is imported first, and either library will do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ORDERS = [
    "import ternfmt_runtime; from diffusers import FluxPipeline",
    "import ternfmt_runtime; import transformers.quantizers.auto",
    "import diffusers.quantizers.auto, peft; import ternfmt_runtime",
]

CHECK = """
from diffusers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from ternfmt_runtime import TernaryConfig
assert AUTO_QUANTIZER_MAPPING["ternfmt"].__name__ == "TernaryQuantizer"
assert AUTO_QUANTIZATION_CONFIG_MAPPING["ternfmt"] is TernaryConfig
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin
from diffusers.loaders.single_file_utils import load_state_dict
from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_processor import Attention
from peft.tuners.lora.model import dispatch_default
for patched in (
    FluxLoraLoaderMixin._calculate_module_shape,
    load_state_dict,
    AttentionMixin.fuse_qkv_projections,
    Attention.fuse_projections,
    dispatch_default,
):
    assert patched.__module__.startswith("ternfmt_runtime."), patched
"""

ALONE = """
import importlib.util, sys
hidden = {hidden!r}
find_spec = importlib.util.find_spec
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == hidden:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
importlib.util.find_spec = lambda name, package=None: None if name == hidden else find_spec(name, package)
from ternfmt_runtime import TernaryConfig
assert TernaryConfig(method="absmean").to_dict()["method"] == "absmean"
assert "absmean" in str(TernaryConfig(method="absmean"))
assert hidden not in sys.modules
"""

# What takes long to import and is not under test is imported once.
FORK = """
import os, sys, traceback
import torch
pid = os.fork()
if pid == 0:
    try:
        exec(compile(sys.argv[i], "program", "exec"), {"__name__": "program"})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0, sys.argv[i]
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_order_of_imports_and_one_library_alone() -> None:
    programs = [f"{order}\n{CHECK}" for order in ORDERS]
    programs += [ALONE.format(hidden=library) for library in ("diffusers", "transformers")]
    runner = "import sys\nfor i in range(1, len(sys.argv)):\n" + "".join(f"    {line}\n" for line in FORK.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", runner, *programs],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
