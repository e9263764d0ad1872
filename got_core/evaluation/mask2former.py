"""GenEval's detector: Mask2Former, trained on COCO's instances, in transformers' implementation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

from got_core.errors import UserError
from got_core.evaluation.clip_colours import COLOUR_WORDS, ClipColours, mask_box
from got_core.evaluation.coco_classes import geneval_names
from got_core.evaluation.detection import Detection, Detector
from got_core.evaluation.detector_input import LONG_SIDE, MULTIPLE, SHORT_SIDE, shown
from got_core.evaluation.geneval import MASK2FORMER
from got_core.evaluation.saved_judges import load_judge

NO_AREA = 1e-6
"""Added to a mask's area, so that the score of an empty one is 0."""


class Instances(NamedTuple):
    """The objects of one image.

    Attributes:
        labels: Numbers of their classes.
        scores: In 0 to 1.
        masks: The pixels of each.
    """

    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]
    masks: Bool[Tensor, "n H W"]


class Likely(NamedTuple):
    """Pairs of query and class that may be objects.

    Attributes:
        queries: Their numbers.
        labels: Numbers of the classes.
        shares: Probabilities of the classes.
    """

    queries: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    shares: Float[Tensor, " n"]


class Mask2FormerDetector(nn.Module, Detector):
    """Finds objects of COCO's classes, and their colours where it is given who tells them.

    The score of an object is the probability of its class times the mean probability of the pixels of its mask; its box
    is the smallest that holds the mask. As many of the (query, class) pairs are looked at as there are queries, the
    most probable first (Cheng et al., "Masked-attention Mask Transformer", CVPR 2022).

    Args:
        model: Mask2Former for instances; GenEval's has a Swin-S backbone.
        processor: Its image processor, for the levels that pixels are normalised by. Its size is not looked at.
        colours: Tells the colours of the objects, from their masks; None leaves them untold.
        least_score: Objects up to this score are left out, before their colours are looked at.
        short_side, long_side: Sizes that images are brought to (`got_core.evaluation.detector_input`), in pixels.
    """

    classes: tuple[str, ...]

    def __init__(
        self,
        model: Mask2FormerForUniversalSegmentation,
        processor: Mask2FormerImageProcessor,
        colours: ClipColours | None = None,
        least_score: float = MASK2FORMER.confidence,
        short_side: int = SHORT_SIDE,
        long_side: int = LONG_SIDE,
    ) -> None:
        super().__init__()
        self.model = model
        self.processor: Any = processor
        self.input = {"short_side": short_side, "long_side": long_side, "multiple": MULTIPLE}
        self.colours = colours
        self.least_score = least_score
        config: Any = model.config
        self.classes = geneval_names(config.id2label)
        self.colour_words = COLOUR_WORDS if colours is not None else ()

    @classmethod
    def from_saved(cls, place: str, clip: str) -> "Mask2FormerDetector":
        """Both models from folders in transformers' layout or hub ids.

        Raises:
            UserError: One of them cannot be loaded, or its labels are not COCO's.
        """
        saved = load_judge(Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor, place)
        try:
            return cls(*saved, ClipColours.from_saved(clip))
        except ValueError as error:
            raise UserError(f"{place}: {error}") from error

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> list[list[Detection]]:
        """The objects of each image with their colours, images in [-1, 1]; the most probable classes first."""
        everything = dict.fromkeys(self.classes, self.model.config.num_queries)
        return self.look_for(images, [everything] * len(images))

    @torch.no_grad()
    def look_for(
        self, images: Float[Tensor, "b 3 H W"], coloured: Sequence[Mapping[str, int]]
    ) -> list[list[Detection]]:
        """The objects of each image, those asked about with their colours; the most probable classes first."""
        levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        pixels, inner = shown(
            levels,
            self.processor.image_mean,
            self.processor.image_std,
            self.input["short_side"],
            self.input["long_side"],
        )
        outputs = self.model(pixel_values=pixels)
        padded, size = (pixels.shape[-2], pixels.shape[-1]), (images.shape[-2], images.shape[-1])
        found = []
        for i, image in enumerate(levels):
            likely = likely_objects(outputs.class_queries_logits[i], self.least_score)
            logits = at_size(outputs.masks_queries_logits[i][likely.queries], padded, inner, size)
            found.append(self._describe(image, instances(likely, logits, self.least_score), coloured[i]))
        return found

    def _describe(
        self, image: UInt8[Tensor, "3 H W"], found: Instances, coloured: Mapping[str, int]
    ) -> list[Detection]:
        labels = [self.classes[number] for number in found.labels.tolist()]
        scores: list[float] = found.scores.tolist()
        colours: list[str | None] = [None] * len(labels)
        asked = most_confident(labels, scores, coloured)
        if self.colours is not None and asked:
            told = self.colours(image, found.masks[asked], [labels[place] for place in asked])
            for place, colour in zip(asked, told, strict=True):
                colours[place] = colour
        height, width = image.shape[-2:]
        boxes = [mask_box(mask) for mask in found.masks]
        return [
            Detection(label, colour, (1000 * x1 / width, 1000 * y1 / height, 1000 * x2 / width, 1000 * y2 / height), s)
            for label, colour, (x1, y1, x2, y2), s in zip(labels, colours, boxes, scores, strict=True)
        ]


def most_confident(labels: Sequence[str], scores: Sequence[float], wanted: Mapping[str, int]) -> list[int]:
    """The places of so many objects of each wanted class, the most confident of them; in order."""
    chosen: list[int] = []
    for label, number in wanted.items():
        places = [place for place, own in enumerate(labels) if own == label]
        chosen += sorted(places, key=lambda place: scores[place], reverse=True)[:number]
    return sorted(chosen)


def likely_objects(class_logits: Float[Tensor, "q c"], least_share: float) -> Likely:
    """As many pairs of query and class as there are queries, the most probable; the last class is that of no object."""
    shares = class_logits.softmax(dim=-1)[:, :-1]
    best = rearrange(shares, "q c -> (q c)").topk(len(shares))
    kept = best.values > least_share
    places = best.indices[kept]
    return Likely(places // shares.shape[1], places % shares.shape[1], best.values[kept])


def at_size(
    logits: Float[Tensor, "n h w"], padded: tuple[int, int], inner: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "n H W"]:
    """Masks as the model makes them, at an image's own size; all sizes are (height, width).

    Args:
        logits: Of the masks.
        padded: Of what the model was shown, the padding below and to the right included.
        inner: The same without it.
        size: Of the image itself.
    """
    stack = rearrange(logits, "n h w -> n 1 h w")
    stack = interpolate(stack, size=padded, mode="bilinear", align_corners=False)[..., : inner[0], : inner[1]]
    stack = interpolate(stack, size=size, mode="bilinear", align_corners=False)
    return rearrange(stack, "n 1 H W -> n H W")


def instances(likely: Likely, logits: Float[Tensor, "n H W"], least_score: float) -> Instances:
    """Those likely objects that score above `least_score`, given the logits of their masks at the image's size."""
    masks = logits > 0
    covered = reduce(masks.float(), "n H W -> n", "sum")
    certainty = reduce(logits.sigmoid() * masks, "n H W -> n", "sum") / (covered + NO_AREA)
    scores = likely.shares * certainty
    kept = (scores > least_score) & (covered > 0)
    return Instances(likely.labels[kept], scores[kept], masks[kept])
