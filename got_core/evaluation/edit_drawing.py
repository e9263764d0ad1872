"""Draws a set of edits from a checkpoint under a Trainer, each rank a share of those that are not there yet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from got_core.data.images import load_image
from got_core.data.scene_requests import EDIT_TAGS
from got_core.data.scenes import ScenesDataset
from got_core.errors import UserError, one_line
from got_core.evaluation.drawing_folder import image_seed, take_settings
from got_core.evaluation.drawing_under_trainer import DrawingUnderTrainer, write_image
from got_core.evaluation.edit_cases import EditSet, Picture, load_picture
from got_core.evaluation.edit_layouts import CHAINS, EDITS, OUTPUTS, SOURCES
from got_core.evaluation.provenance import write_whole
from got_core.types import Batch, Sample


@dataclass(frozen=True)
class EditRequest:
    """An edit that is asked for.

    Attributes:
        entry: Its line in `EDITS`.
        source: What is edited, an image in [-1, 1] or where one is.
    """

    entry: Mapping[str, Any]
    source: Picture | Float[Tensor, "3 H W"]


def scene_requests(number: int, size: int, seed: int) -> list[EditRequest]:
    """Edits of drawn scenes that training never asks for, going round the operations; the same for a seed.

    Args:
        number: How many.
        size: Side of the images in pixels.
        seed: Of the scenes.
    """
    scenes = ScenesDataset(size, number, seed, "test", dict.fromkeys(EDIT_TAGS, 1.0), balanced=True)
    found = []
    for place in range(number):
        sample = scenes[place]
        assert sample.source is not None  # every task above is an edit
        entry = {"instruction": sample.prompt, "category": sample.meta["tag"], "meta": dict(sample.meta)}
        found.append(EditRequest({"name": f"{place:05d}", **entry}, sample.source))
    return found


def requests_of(edits: EditSet) -> list[EditRequest]:
    """What a set asks for, whoever has already drawn it."""
    return [
        EditRequest(
            {
                "name": case.name,
                "instruction": case.instruction,
                "source_caption": case.source_caption,
                "target_caption": case.target_caption,
                "category": case.category,
                "meta": dict(case.meta),
            },
            case.source,
        )
        for case in edits.cases
    ]


def prepare_edits(
    root: Path, requests: Sequence[EditRequest], size: tuple[int, int], settings: Mapping[str, Any]
) -> None:
    """Write what will be drawn and how, with the sources as large as they will be drawn.

    A source that cannot be read is left out; scoring names it. In a folder that was prepared before, in the same way,
    only what is not there yet is written; one without outputs takes new settings.

    Raises:
        UserError: There is something else in the folder, its edits were drawn otherwise, or it cannot be written to.
    """
    take_settings(root, settings, f"{OUTPUTS}/*.png", [f"{CHAINS}/*.txt", f"{SOURCES}/*.png"])
    try:
        for part in (SOURCES, OUTPUTS, CHAINS):
            (root / part).mkdir(parents=True, exist_ok=True)
        write_whole(root / EDITS, "".join(json.dumps(request.entry) + "\n" for request in requests))
        for request in requests:
            _write_source(root / SOURCES / f"{request.entry['name']}.png", request.source, size)
    except OSError as error:
        raise UserError(f"{root}: cannot be drawn into ({one_line(error)})") from error


@dataclass(frozen=True)
class WantedEdit:
    """An edit that is still to be drawn.

    Attributes:
        root: Of the set.
        name, instruction: Of the edit.
        seed: Of its noise.
    """

    root: Path
    name: str
    instruction: str
    seed: int

    @property
    def source(self) -> Path:
        """The file of what is edited."""
        return self.root / SOURCES / f"{self.name}.png"

    @property
    def output(self) -> Path:
        """The file of what will be drawn."""
        return self.root / OUTPUTS / f"{self.name}.png"

    @property
    def chain(self) -> Path:
        """The file of the chain it is drawn from."""
        return self.root / CHAINS / f"{self.name}.txt"


def wanted_edits(root: Path, requests: Sequence[EditRequest], seed: int) -> list[WantedEdit]:
    """The edits that have no output yet, in order; an edit's noise follows from seed and place alone."""
    edits = [
        WantedEdit(root, request.entry["name"], request.entry["instruction"], image_seed(seed, place, 0))
        for place, request in enumerate(requests)
    ]
    return [edit for edit in edits if not edit.output.exists()]


class _Sources(Dataset[Sample]):
    """Edits to be drawn, as samples for a reasoner's processor."""

    def __init__(self, wanted: Sequence[WantedEdit], size: tuple[int, int]) -> None:
        self.wanted, self.size = wanted, size

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> Sample:
        edit = self.wanted[index]
        source = load_image(edit.source, self.size)
        return Sample(prompt=edit.instruction, chain="", size=self.size, source=source, meta={"wanted": edit})


class EditDrawing(DrawingUnderTrainer):
    """Draws edits, each with the chain it is drawn from beside it."""

    def share(self, rank: int, ranks: int) -> Dataset[Sample]:
        """Every so many edits of those whose source could be read."""
        return _Sources([edit for edit in self.wanted if edit.source.exists()][rank::ranks], self.size)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Draw a batch, each image from its own seed, and write it."""
        wanted: list[WantedEdit] = [meta["wanted"] for meta in batch.meta]
        drawing = self.draw(batch, None, [edit.seed for edit in wanted])
        for edit, image, chain in zip(wanted, drawing.images, drawing.chains, strict=True):
            edit.chain.write_text(chain + "\n", encoding="utf-8")
            write_image(edit.output, image)


def _write_source(file: Path, source: Picture | Float[Tensor, "3 H W"], size: tuple[int, int]) -> None:
    if file.exists():
        return
    try:
        image = source if isinstance(source, Tensor) else load_picture(source, size)
    except (ValueError, FileNotFoundError):
        return
    write_image(file, image)
