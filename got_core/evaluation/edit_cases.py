"""An edit to be judged: a source image, an instruction, and what somebody made of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from got_core.data.images import load_image
from got_core.data.tables import Table


@dataclass(frozen=True)
class Cell:
    """An image in a table: a path, the bytes of a file, or Hugging Face's struct {"bytes", "path"}.

    Attributes:
        table, row, column: Where it stands.
        root: Folder that paths start from.
    """

    table: Table
    row: int
    column: str
    root: Path

    def read(self) -> Path | bytes:
        """The file, or its bytes.

        Raises:
            ValueError: There is neither in it.
        """
        value = self.table.row(self.row).get(self.column)
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if isinstance(value, str) and value:
            return self.root / value
        raise ValueError(f"{self.table.name(self.row)}: column '{self.column}' holds no image")


Picture = Path | Cell
"""Where an image is."""


def load_picture(picture: Picture, size: tuple[int, int] | None = None) -> Float[Tensor, "3 H W"]:
    """An image in [-1, 1], resized to (height, width) where a size is given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read.
    """
    if isinstance(picture, Path):
        return load_image(picture, size)
    return load_image(picture.read(), size, name=f"{picture.table.name(picture.row)}: column '{picture.column}'")


def picture_bytes(picture: Picture) -> bytes:
    """The bytes of an image's file.

    Raises:
        OSError: There is no such file.
        ValueError: There is no image in a table's cell.
    """
    found = picture if isinstance(picture, Path) else picture.read()
    return found if isinstance(found, bytes) else found.read_bytes()


@dataclass(frozen=True)
class EditCase:
    """One edit.

    Attributes:
        name: Unlike that of every other edit of its set; letters, digits, `_`, `.` and `-`.
        instruction: What is asked for.
        source: The image that is edited.
        output: What was made of it; None where nothing is there.
        source_caption, target_caption: What the source shows, and what the output should show, where that is known.
        chain: The chain that the output was drawn from, where there is one.
        category: The kind of edit, where it is known.
        meta: Of a drawn scene, as `got_core.data.scene_meta` makes it; empty for other images.
    """

    name: str
    instruction: str
    source: Picture
    output: Picture | None = None
    source_caption: str | None = None
    target_caption: str | None = None
    chain: str | None = None
    category: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EditSet:
    """Edits from one place.

    Attributes:
        place: File or folder.
        cases: The edits, in order.
        missing: What cannot be scored, with the reason, by the edit's name.
    """

    place: Path
    cases: tuple[EditCase, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
