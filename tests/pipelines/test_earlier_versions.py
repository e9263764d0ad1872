"""What commit a8a5d36 has saved opens, and generates what it generated there."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from got_core import GoTPipeline

FOLDER = Path(__file__).parents[1] / "fixtures" / "a8a5d36"
CHAIN = "a red circle (94,188),(469,562) (red) and a blue square (500,562),(900,962) (blue)"


@pytest.mark.parametrize("kind", ["saved", "run"])
def test_what_an_earlier_version_saved_opens_and_generates_the_same(kind):
    """A saved pipeline, and a run's checkpoint (without its optimizer's state, which inference does not read)."""
    pipe = GoTPipeline.from_pretrained(FOLDER / kind, "cpu", (32, 32))
    (image,) = pipe.draw(pipe.given_plan(CHAIN), seed=1).images
    expected = np.asarray(Image.open(FOLDER / f"{kind}.png")).astype(int)
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1
