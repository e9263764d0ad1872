"""Cases that are drawn and scored here: each a few pictures of one drawn scene, in a folder that can be gone on with.

cases.jsonl                     what is drawn and held against what, one case a line
pictures/00000-before.png       pictures, which cases of a group may share
records/00000.json              the chains of a group's pictures and what else scoring needs; written last
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from got_core.data.images import load_image
from got_core.errors import UserError, one_line
from got_core.evaluation.drawing_folder import take_settings
from got_core.evaluation.item_scoring import Items
from got_core.evaluation.provenance import write_whole

CASES, PICTURES, RECORDS = "cases.jsonl", "pictures", "records"

Pictures = dict[str, Float[Tensor, "3 _ _"]]
"""A case's pictures in [-1, 1], by what they are called in it."""

Record = Mapping[str, Any]
"""Of a group, as JSON."""

Loaded = tuple[int, Pictures | None, Record, str]
"""A case's place, its pictures where they can be read, its group's record, and why they cannot."""


@dataclass(frozen=True)
class Case:
    """Something that is asked of pictures of one scene.

    Attributes:
        name: Of its own.
        group: Of the cases that are drawn together, from one prompt and seed.
        category: In results.
        prompt: What the scene is drawn from.
        seed: Of the noise.
        pictures: The names of the files, by what they are called in the case.
        details: What is drawn and what is expected, as JSON.
    """

    name: str
    group: str
    category: str
    prompt: str
    seed: int
    pictures: Mapping[str, str]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseFolder:
    """Where cases lie."""

    root: Path

    def picture(self, name: str) -> Path:
        """The file of a picture."""
        return self.root / PICTURES / f"{name}.png"

    def record(self, group: str) -> Path:
        """The file of a group's record."""
        return self.root / RECORDS / f"{group}.json"

    def prepare(self, cases: Sequence[Case], settings: Mapping[str, Any]) -> None:
        """Write what will be drawn and how, or see that a folder with pictures was drawn in the same way.

        Raises:
            UserError: There is something else in the folder, it was drawn otherwise, or it cannot be written to.
        """
        take_settings(self.root, settings, f"{PICTURES}/*.png", [f"{RECORDS}/*.json"])
        try:
            for part in (PICTURES, RECORDS):
                (self.root / part).mkdir(parents=True, exist_ok=True)
            write_whole(self.root / CASES, "".join(json.dumps(asdict(case)) + "\n" for case in cases))
        except OSError as error:
            raise UserError(f"{self.root}: cannot be drawn into ({one_line(error)})") from error

    def wanted(self, cases: Sequence[Case]) -> list[list[Case]]:
        """The groups that are not drawn yet."""
        groups: dict[str, list[Case]] = {}
        for case in cases:
            groups.setdefault(case.group, []).append(case)
        return [own for group, own in groups.items() if not self.record(group).exists()]


class CaseItems(Items):
    """Cases with their pictures, those that cannot be read with the reason."""

    def __init__(self, folder: CaseFolder, cases: Sequence[Case]) -> None:
        self.folder, self.cases = folder, cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, place: int) -> Loaded:
        case = self.cases[place]
        try:
            record = json.loads(self.folder.record(case.group).read_text(encoding="utf-8"))
            pictures = {called: load_image(self.folder.picture(name)) for called, name in case.pictures.items()}
        except (ValueError, OSError) as error:
            return place, None, {}, str(error)
        return place, pictures, record, ""

    def content(self, place: int) -> tuple[bytes, Any]:
        """The bytes of all pictures and of the record; the case."""
        case = self.cases[place]
        files = [*map(self.folder.picture, case.pictures.values()), self.folder.record(case.group)]
        parts = [file.read_bytes() for file in files]
        return b"".join(parts), [[len(part) for part in parts], asdict(case)]
