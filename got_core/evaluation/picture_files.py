"""Image files as scoring reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from got_core.data.images import load_image
from got_core.evaluation.item_scoring import Items

Loaded = tuple[int, Float[Tensor, "3 _ _"] | None, str]
"""An image's place, the image in [-1, 1] where it can be read, and why where it cannot; sizes differ in a batch."""


class PictureFiles(Items):
    """The images of a list of files, those that cannot be read with the reason.

    Args:
        files: The images.
        asked: What each is asked, where that is not the same of all.
    """

    def __init__(self, files: Sequence[Path], asked: Sequence[Any] | None = None) -> None:
        self.files, self.asked = files, asked

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> Loaded:
        try:
            return place, load_image(self.files[place]), ""
        except (ValueError, OSError) as error:
            return place, None, str(error)

    def content(self, place: int) -> tuple[bytes, Any]:
        """The file's bytes, and what is asked."""
        return self.files[place].read_bytes(), self.asked[place] if self.asked else None
