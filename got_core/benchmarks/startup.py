"""CPU seconds from a new process to the first image, over those of importing the libraries that it uses."""

import os
import subprocess
import sys

import numpy as np
from rich.table import Table

from got_core.benchmarks.measuring import median_and_interval
from got_core.paths import ROOT

IMPORTS = """
import einops, jaxtyping, safetensors.torch, tokenizers, torch, yaml
from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler
from timm.layers import Attention, Mlp, RmsNorm, build_sincos2d_pos_embed
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration
"""
"""The library classes that the bundled model uses."""

IMAGE = """
from got_core import GoTPipeline
pipe = GoTPipeline.from_pretrained(device="cpu")
pipe.set_progress_bar_config(disable=True)
pipe("a red circle", seed=1)
"""


def startup_seconds(repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Run both scripts in turns in processes of their own; returns CPU seconds of each."""
    spent: dict[str, list[float]] = {"imports": [], "image": []}
    for turn in range(warm_up + repeats):
        for name, script in (("imports", IMPORTS), ("image", IMAGE)):
            before = _children()
            subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
            if turn >= warm_up:
                spent[name].append(_children() - before)
    return spent


def startup_table(spent: dict[str, list[float]]) -> Table:
    """Return a table of both, and of their difference in each turn."""
    table = Table(title="Start-up of the bundled model, CPU seconds", title_justify="left")
    for heading in ("", "median", "95% interval"):
        table.add_column(heading, justify="right" if heading else "left")
    more = np.array(spent["image"]) - np.array(spent["imports"])
    for name, seconds in (
        ("libraries imported", spent["imports"]),
        ("from_pretrained and one image", spent["image"]),
        ("difference", more),
    ):
        median, low, high = median_and_interval(seconds)
        table.add_row(name, f"{median:.2f}", f"{low:.2f} to {high:.2f}")
    return table


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system
