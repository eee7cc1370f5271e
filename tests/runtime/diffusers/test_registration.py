"""The plug-ins are in place whichever is imported first, and no library is imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = """
from diffusers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from ternfmt_runtime import TernaryConfig
assert AUTO_QUANTIZER_MAPPING["ternfmt"].__name__ == "TernaryQuantizer"
assert AUTO_QUANTIZATION_CONFIG_MAPPING["ternfmt"] is TernaryConfig
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin
from peft.tuners.lora import model
for patched in (FluxLoraLoaderMixin._calculate_module_shape, model.dispatch_default):
    assert patched.__module__.startswith("ternfmt_runtime."), patched
"""


@pytest.mark.parametrize(
    "first",
    [
        "import ternfmt_runtime",
        "import diffusers.quantizers.auto, peft; import ternfmt_runtime",
        "import transformers.quantizers.auto; import ternfmt_runtime",
        "import ternfmt_runtime; import transformers.quantizers.auto",
        "import ternfmt_runtime; from diffusers import FluxPipeline",
        "import ternfmt_runtime.config",
    ],
)
def test_order_of_imports(first) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{first}\n{CHECK}"], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("missing", ["diffusers", "transformers"])
def test_one_library_alone_is_enough(missing) -> None:
    """The other one is hidden."""
    program = f"""
import importlib.util, sys
find_spec = importlib.util.find_spec
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
importlib.util.find_spec = lambda name, package=None: None if name == {missing!r} else find_spec(name, package)
from ternfmt_runtime import TernaryConfig
print(TernaryConfig(method="absmean").to_dict(), TernaryConfig())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "absmean" in done.stdout
