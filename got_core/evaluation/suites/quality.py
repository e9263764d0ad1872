"""Compares two folders of images by FID and KID under a Trainer, each rank a share of the images."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from got_core.errors import UserError
from got_core.evaluation.metrics.fid_kid import (
    FEATURES,
    FeatureStore,
    InceptionFeatures,
    frechet_distance,
    kernel_distance,
)
from got_core.evaluation.results import DIGITS
from got_core.evaluation.scoring import ItemScoring, Keeping, Loaded, PictureFiles, Said

SUITE = "quality"
"""What results of this suite call it."""

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
"""Of files that are taken for images."""

ENOUGH = 10_000
"""Images of each set below which FID is noted to be too high."""

KEPT = "features"
"""What the features of an image are kept as: the bytes of their float32 numbers in base64."""


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and in the folders in it, in the order of their names.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS)
    if not files:
        raise UserError(f"{folder}: there is no image in it ({', '.join(sorted(ENDINGS))})")
    return files


class QualityScoring(ItemScoring):
    """`trainer.test` reads the features of all images.

    Args:
        files: The images of both sets.
        network: Makes the features.
        batch_size: Images at a time.
        num_workers: Processes that read images.
        keeping: Where features are kept.

    Attributes:
        places: After the test, the places of the images that could be read.
        features: Their features.
    """

    places: Int[Tensor, " n"]
    features: Float[Tensor, "n d"]

    def __init__(
        self,
        files: Sequence[Path],
        network: InceptionFeatures,
        batch_size: int = 8,
        num_workers: int = 0,
        keeping: Keeping | None = None,
    ) -> None:
        super().__init__(PictureFiles(files), (), batch_size, num_workers, keeping)
        self.network = network
        self.gathered = FeatureStore()

    def score(self, batch: list[Loaded]) -> None:
        """Keep the features of some images."""
        read = [(place, image.to(self.device)) for place, image, _ in batch if image is not None]
        rows = self.network([image for _, image in read]) if read else ()
        found = {place: row for (place, _), row in zip(read, rows, strict=True)}
        for place, _, problem in batch:
            features = found.get(place)
            if features is None or not features.isfinite().all():
                self.remark(place, problem or "its features are not finite numbers")
                features = torch.full((FEATURES,), torch.nan, device=self.device)
            self._gather(place, features)
            self.fresh[place] = {KEPT: base64.b64encode(features.cpu().numpy().tobytes()).decode()}

    def recall(self, place: int, said: Said) -> None:
        """Take the features that were kept."""
        features = np.frombuffer(base64.b64decode(said[KEPT]), np.float32).copy()
        self._gather(place, torch.from_numpy(features).to(self.device))

    def _gather(self, place: int, features: Float[Tensor, " d"]) -> None:
        self.note(place, {})
        self.gathered.update(torch.tensor([place], device=self.device), features[None])

    def on_test_epoch_end(self) -> None:
        """Join what the ranks have found."""
        super().on_test_epoch_end()
        self.places, self.features = self.gathered.compute()


@dataclass(frozen=True)
class QualityResult:
    """How far two sets are apart.

    Attributes:
        images: How many of each set, the reference first, could be read.
        scores: `fid` and `kid`, the latter with its interval.
        missing: Images that could not be read, with the reason.
        notes: What a reader should know of the figures.
    """

    images: tuple[int, int]
    scores: dict[str, dict[str, Any]]
    missing: dict[str, str]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Scores, numbers of images, and what is missing."""
        return {
            "suite": SUITE,
            "counts": {"reference": self.images[0], "images": self.images[1], "missing": len(self.missing)},
            "scores": self.scores,
            "missing": self.missing,
            "notes": self.notes,
        }


def quality_result(scoring: QualityScoring, files: Sequence[Path], reference: int, seed: int = 0) -> QualityResult:
    """The distances of the sets that were read.

    Args:
        scoring: After the test.
        files: As it was given them.
        reference: How many of them, from the first, are the reference set.
        seed: Of KID's subsets.

    Raises:
        UserError: Too few images could be read.
    """
    first, second = (scoring.features[chosen] for chosen in (scoring.places < reference, scoring.places >= reference))
    missing = {str(files[place]): reason for place, reason in sorted(scoring.notes.items())}
    try:
        kernel = kernel_distance(first, second, seed)
        frechet = frechet_distance(first, second)
    except ValueError as error:
        raise UserError(f"{error}; {len(missing)} could not be read") from error
    notes = []
    if min(len(first), len(second)) < ENOUGH:
        notes.append(f"FID of fewer than {ENOUGH:,} images is too high, and the fewer the higher: compare like numbers")
    low, high = kernel.interval
    scores: dict[str, dict[str, Any]] = {
        "fid": {"mean": round(frechet, DIGITS)},
        "kid": {
            "mean": round(kernel.mean, DIGITS),
            "interval": [round(low, DIGITS), round(high, DIGITS)],
            "subset_size": kernel.subset_size,
        },
    }
    return QualityResult((len(first), len(second)), scores, missing, notes)
