"""FID and KID of the images in two folders, each rank a part of the images."""

import base64
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from got_core.data.images import ENDINGS
from got_core.detection.base import FROM
from got_core.errors import UserError
from got_core.evaluation.metrics.fid_kid import InceptionFeatures, frechet_distance, kernel_distance
from got_core.evaluation.results import OVERALL, SEED, Better, Missing, Results, Summary, check_writable, origin
from got_core.evaluation.scoring import Image, ImageFiles, ItemScoring, ScoreCache, evaluation_trainer, score_items
from got_core.weights.files import checksum, checksum_of

METRICS: dict[str, Better] = {"fid": "lower", "kid": "lower"}

ENOUGH = 10_000
"""Images of each set below which a note says that FID is too high."""

FEATURES = "features"
"""The detail that holds an image's features: the bytes of their float32 numbers in base64."""


def evaluate(options: Namespace) -> None:
    """Compare two folders of images, print FID and KID and write `results.json`.

    Raises:
        UserError: A folder or the weights are not there, too few images can be read, or results cannot be written.
    """
    if not (options.images and options.reference and options.inception):
        raise UserError("got evaluate quality needs --images FOLDER, --reference FOLDER and --inception FILE")
    folders = Path(options.reference), Path(options.images)
    sets = [image_files(folder) for folder in folders]
    files = [*sets[0], *sets[1]]
    network = InceptionFeatures.from_file(Path(options.inception))
    trainer = evaluation_trainer(options)
    output = Path(options.output or options.images)
    check_writable(output)
    weights = {"inception": checksum(Path(options.inception))}
    evaluator = {FROM: {"inception": options.inception}, "kind": network.kind, "weights": weights}
    cache = ScoreCache(output, evaluator)
    scoring = QualityScoring(files, network, options.batch_size, options.num_workers, cache)
    if score_items(trainer, scoring, output):
        sums = {"reference": checksum_of(folders[0], sets[0]), "images": checksum_of(folders[1], sets[1])}
        came = origin(folders[1], evaluator, sums, {"subsets": SEED})
        results = replace(quality_results(scoring, files, len(sets[0])), origin=came)
        counts = results.counts
        results.publish(
            output, f"{counts['images']} images of {folders[1]} against {counts['reference']} of {folders[0]}"
        )


def image_files(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders, in the order of their names.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS and not f.name.startswith("."))
    if not files:
        raise UserError(f"{folder}: there is no image in it ({', '.join(ENDINGS)})")
    return files


class QualityScoring(ItemScoring):
    """Extracts the features of all images; `details` holds them.

    Args:
        files: The images of both sets.
        network: Extracts features.
        batch_size: Images at a time.
        num_workers: Processes that read images.
        cache: Where features are cached.
    """

    def __init__(
        self,
        files: Sequence[Path],
        network: InceptionFeatures,
        batch_size: int = 8,
        num_workers: int = 0,
        cache: ScoreCache | None = None,
    ) -> None:
        super().__init__(ImageFiles(files), (), batch_size, num_workers, cache)
        self.network = network

    def score(self, batch: Mapping[int, Image]) -> None:
        """Extract the features of some images."""
        features = self.network([image.to(self.device) for image in batch.values()])
        for index, row in zip(batch, features.cpu(), strict=True):
            if row.isfinite().all():
                self.record(index, {FEATURES: base64.b64encode(row.numpy().tobytes()).decode()})
            else:
                self.remark(index, "its features are not finite numbers")

    def features(self, start: int, end: int) -> Float[Tensor, "n d"]:
        """Return the features of the images from index `start` to before `end` that could be read."""
        encoded = [self.details[index][FEATURES] for index in range(start, end) if index not in self.remarks]
        rows = [torch.from_numpy(np.frombuffer(base64.b64decode(row), np.float32).copy()) for row in encoded]
        return torch.stack(rows) if rows else torch.empty(0, 0)


def quality_results(scoring: QualityScoring, files: Sequence[Path], reference: int) -> Results:
    """Return FID and KID of the images that were read.

    Args:
        scoring: After the test.
        files: Its images.
        reference: How many of them, from the first, are the reference set.

    Raises:
        UserError: Too few images could be read.
    """
    first, second = scoring.features(0, reference), scoring.features(reference, len(files))
    missing = [Missing(str(files[index]), reason) for index, reason in sorted(scoring.remarks.items())]
    try:
        kernel = kernel_distance(first, second, SEED)
        frechet = frechet_distance(first, second)
    except ValueError as error:
        raise UserError(f"{error}; {len(missing)} could not be read") from error
    scores = {
        "fid": Summary(frechet, None, len(second)),
        "kid": Summary(kernel.mean, kernel.interval, len(second), {"subset_size": kernel.subset_size}),
    }
    counts = {"reference": len(first), "images": len(second), "missing": len(missing)}
    note = f"FID of fewer than {ENOUGH:,} images is too high, and the fewer the higher: compare equal numbers of images"
    notes = [note] if min(len(first), len(second)) < ENOUGH else []
    return Results("quality", METRICS, (), {OVERALL: scores}, counts, missing, notes)
