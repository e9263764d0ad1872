"""Looks for what was planned in every image of a folder under a Trainer, each rank a share of its images."""

from dataclasses import asdict

import torch
from torch import Tensor

from got_core.chain import parse
from got_core.evaluation.item_scoring import ItemScoring, Keeping
from got_core.evaluation.layout_figures import COLUMNS, ImageLayout, image_layout
from got_core.evaluation.layout_folder import LayoutFolder
from got_core.evaluation.phrase_detection import PhraseDetector
from got_core.evaluation.picture_files import Loaded, PictureFiles


class LayoutScoring(ItemScoring):
    """`trainer.test` looks at every image.

    Args:
        folder: Images with their chains.
        detector: Finds what chains name.
        batch_size: Images that are handed to the detector at a time; those of other sizes go apart.
        num_workers: Processes that read images.
        keeping: Where figures are kept.

    Attributes:
        layouts: After the test, the figures of each image, in the folder's order; None where it cannot be read.
    """

    layouts: list[ImageLayout | None]

    def __init__(
        self,
        folder: LayoutFolder,
        detector: PhraseDetector,
        batch_size: int = 8,
        num_workers: int = 0,
        keeping: Keeping | None = None,
    ) -> None:
        files = PictureFiles([drawn.image for drawn in folder.drawn], [drawn.chain for drawn in folder.drawn])
        super().__init__(files, COLUMNS, batch_size, num_workers, keeping)
        self.folder = folder
        self.detector = detector
        self.chains = [parse(drawn.chain) for drawn in folder.drawn]

    def score(self, batch: list[Loaded]) -> None:
        """Look at some images."""
        alike: dict[torch.Size, list[tuple[int, Tensor]]] = {}
        for place, image, problem in batch:
            if image is None:
                self.remark(place, problem)
            else:
                alike.setdefault(image.shape, []).append((place, image.to(self.device)))
        for group in alike.values():
            labels = [self._labels(place) for place, _ in group]
            seen = self.detector(torch.stack([image for _, image in group]), labels)
            for (place, image), found in zip(group, seen, strict=True):
                size = image.shape[-2], image.shape[-1]
                self.note(place, asdict(image_layout(self.chains[place].regions, found, self.detector, size)))

    def on_test_epoch_end(self) -> None:
        """Join what the ranks have found.

        Raises:
            ValueError: Nobody looked at an image.
        """
        super().on_test_epoch_end()
        unread = self.found.isnan().any(dim=1).tolist()
        unseen = [place for place, lacking in enumerate(unread) if lacking and place not in self.notes]
        if unseen:
            raise ValueError(f"{len(unseen)} of {len(unread)} images were not looked at")
        rows = zip(unread, self.found.tolist(), strict=True)
        self.layouts = [None if lacking else ImageLayout(*row) for lacking, row in rows]

    def _labels(self, place: int) -> list[str]:
        """The distinct labels that are looked for in an image, in the order of its chain."""
        labels = [self.detector.label(region.phrase) for region in self.chains[place].regions]
        return list(dict.fromkeys(label for label in labels if label is not None))
