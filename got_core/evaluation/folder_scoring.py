"""Scores a folder in GenEval's layout under a Trainer, each rank a share of its images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from got_core.data.images import load_image
from got_core.evaluation.geneval import coloured, shows
from got_core.evaluation.geneval_folder import GenEvalFolder, Prompt
from got_core.evaluation.geneval_metric import VERDICTS, GenEvalMetric
from got_core.evaluation.judging import Judge
from got_core.evaluation.verdict_store import Said, VerdictStore, verdict_key
from got_core.evaluation.verdicts import MISSING, RIGHT, WRONG


class ImageRead(NamedTuple):
    """An image on its way to the judge.

    Attributes:
        place: In the folder's order.
        key: Stands for its bytes and what is asked of it.
        said: The verdict that is known of it.
        image: In [-1, 1]; None where a verdict is known, or it cannot be read.
        problem: Why it cannot be read.
    """

    place: int
    key: str = ""
    said: Said | None = None
    image: Float[Tensor, "3 _ _"] | None = None
    problem: str = ""


class ImageFiles(Dataset[ImageRead]):
    """Images of a folder; those that a verdict is known of are not decoded, and those that cannot be read say why."""

    def __init__(
        self, pictures: Sequence[tuple[Prompt, Path]], places: Sequence[int], known: Mapping[str, Said]
    ) -> None:
        self.pictures, self.places, self.known = pictures, places, known

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> ImageRead:
        place = self.places[index]
        prompt, file = self.pictures[place]
        try:
            content = file.read_bytes()
            key = verdict_key(content, prompt.metadata)
            if key in self.known:
                return ImageRead(place, key, said=self.known[key])
            return ImageRead(place, key, image=load_image(content, name=str(file)))
        except (ValueError, OSError) as error:
            return ImageRead(place, problem=str(error))


class FolderScoring(LightningModule):
    """`trainer.test` judges every image of a folder; the ranks' verdicts are joined when all have done their share.

    Each verdict is written when it is there, and known ones are not asked for again.

    Args:
        folder: What to score.
        judge: Who scores it.
        kept: The folder that verdicts are kept in, from one run to the next.
        batch_size: Images that the detector is shown at a time; those of other sizes go apart.
        num_workers: Processes that read images.

    Attributes:
        found: After the test, the verdict on each image, in the folder's order.
        reasons: What is wrong with an image, by its place.
        shares: The share of right images of each category and overall.
    """

    def __init__(
        self, folder: GenEvalFolder, judge: Judge, kept: Path, batch_size: int = 8, num_workers: int = 0
    ) -> None:
        super().__init__()
        self.pictures = folder.images
        self.judge = judge
        self.detector = judge.detector
        self.kept = kept
        self.batch_size, self.num_workers = batch_size, num_workers
        self.metric = GenEvalMetric([prompt.metadata["tag"] for prompt, _ in self.pictures])
        self.found: list[int] = []
        self.reasons: dict[int, str] = {}
        self.shares: dict[str, float] = {}

    def test_dataloader(self) -> DataLoader:
        """This rank's share, every so many images; one that is scored twice where there is none left for it."""
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        places = range(len(self.pictures))[rank::ranks] or range(1)
        self.store = VerdictStore(self.kept, self.judge.description, rank)
        files = ImageFiles(self.pictures, places, self.store.known)
        return DataLoader(files, batch_size=self.batch_size, collate_fn=list, num_workers=self.num_workers)

    def test_step(self, batch: list[ImageRead], batch_idx: int) -> None:
        """Judge some images, in full precision whatever the Trainer's."""
        alike: dict[torch.Size, list[ImageRead]] = {}
        for read in batch:
            if read.said is not None:
                self._note(read.place, RIGHT if read.said["right"] else WRONG, read.said["reason"])
            elif read.image is None:
                self._note(read.place, MISSING, read.problem)
            else:
                alike.setdefault(read.image.shape, []).append(read)
        with torch.autocast(self.device.type, enabled=False):
            for group in alike.values():
                self._judge(group)

    def on_test_epoch_end(self) -> None:
        """Join what the ranks have found."""
        computed = self.metric.compute()
        self.found = torch.atleast_1d(computed.pop(VERDICTS)).tolist()  # torchmetrics makes one value a scalar
        self.shares = {name: float(share) for name, share in computed.items()}
        if self.trainer.world_size > 1:
            shares: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(shares, self.reasons)
            self.reasons = {place: reason for share in shares for place, reason in share.items()}

    def _judge(self, group: Sequence[ImageRead]) -> None:
        """Judge images of one size."""
        asked = [self.pictures[read.place][0].metadata for read in group]
        images = torch.stack([read.image for read in group if read.image is not None])
        seen = self.detector.look_for(images, [coloured(metadata) for metadata in asked])
        size = (images.shape[-2], images.shape[-1])
        for read, metadata, objects in zip(group, asked, seen, strict=True):
            right, reason = shows(metadata, objects, self.judge.rules, size)
            self.store.add(read.key, {"right": right, "reason": reason})
            self._note(read.place, RIGHT if right else WRONG, reason)

    def _note(self, place: int, verdict: int, reason: str) -> None:
        self.metric.update(*(torch.tensor([value], device=self.device) for value in (place, verdict)))
        if reason:
            self.reasons[place] = reason
