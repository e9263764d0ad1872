"""Memory of the full-size model on a CPU, random weights: `pytest -m full_size -s` writes 13 GB and prints peaks."""

import json
import subprocess
import sys

import pytest
from full_size import write_model

SCRIPT = """
import json, resource, sys
import torch
from got_core import GoTPipeline

folder, side, tiling = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "tiling"
pipe = GoTPipeline.from_pretrained(folder, "cpu", dtype=torch.bfloat16)
if tiling:
    pipe.enable_vae_tiling()
chain = "a red circle (94,188),(469,562), a blue square (500,562),(900,962), a tree (0,0),(200,500)"
plan = pipe.given_plan(chain, "a red circle and a blue square", size=(side, side))
image = pipe.generate(plan, num_inference_steps=2, exact=True, output_type="pt").images
assert image.shape == (1, 3, side, side)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"finite": bool(image.isfinite().all()), "spread": float(image.std()), "peak": peak / 1e9}))
"""

pytestmark = pytest.mark.full_size


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    write_model(folder)
    return folder


@pytest.mark.parametrize(("side", "tiling", "most"), [(512, "whole", 15.5), (1024, "tiling", 18.0)])
def test_an_image_of_the_full_size_model_fits(saved, side, tiling, most):
    """Peak resident memory of the process in GB, from the first import to the image."""
    command = [sys.executable, "-c", SCRIPT, str(saved), str(side), tiling]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{side} px, {tiling}: {found}")
    assert found["finite"]
    assert found["spread"] > 0
    assert found["peak"] <= most
