"""What is imported: nothing of training for inference, and nothing of POSIX alone by any module."""

import gc
import subprocess
import sys
from pkgutil import walk_packages

import pytest

import got_core
from got_core.paths import ROOT, importing

INFERENCE = """
import sys
from got_core import Conversation, GoTModel, GoTPipeline, Plan
pipe = GoTPipeline.from_pretrained(device="cpu")
assert isinstance(pipe.model, GoTModel)
plan = pipe.plan("a red circle")[0]
assert isinstance(plan, Plan)
assert pipe.generate(plan, num_inference_steps=1).images[0].size == (32, 32)
Conversation(pipe)
print([name for name in ("lightning", "tensorboard", "torchmetrics", "jsonargparse", "gradio") if name in sys.modules])
"""

WITHOUT_POSIX = """
import importlib, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM"):
    if hasattr(signal, name):
        delattr(signal, name)
for module in sys.argv[1:]:
    importlib.import_module(module)
print("imported")
"""


def run(code: str, *arguments: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()[-1]


def test_inference_imports_nothing_of_training():
    assert run(INFERENCE) == "[]"


def test_the_collector_is_as_it_was_after_importing():
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_public_names_are_there():
    assert set(got_core.__all__) <= set(dir(got_core))
    assert got_core.GoTSystem.__name__ == "GoTSystem"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        got_core.Nothing  # noqa: B018


def test_nothing_needs_posix_to_be_imported():
    """Libraries are imported first, with all that they need; then it is hidden from this project's modules."""
    packages = ("got_core", "backbones", "reasoners", "guidance")
    modules = [module.name for package in packages for module in walk_packages([str(ROOT / package)], f"{package}.")]
    libraries = (
        "import gradio, matplotlib, torch, lightning.pytorch.cli, transformers, diffusers, scipy.stats, filelock\n"
    )
    libraries += "import torchvision, torchmetrics, peft, tensorboard, pyarrow.parquet, safetensors.torch, requests\n"
    assert run(libraries + WITHOUT_POSIX, *modules) == "imported"
