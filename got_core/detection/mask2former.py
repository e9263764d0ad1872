"""GenEval's detector: Mask2Former on COCO, its input as MMDetection makes it, and colours by CLIP."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, pad
from transformers import CLIPModel, CLIPProcessor, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

from got_core.chain.parser import SIDE
from got_core.detection.base import MASK2FORMER, Detection, Detector, load_judge
from got_core.errors import UserError

SHORT_SIDE, LONG_SIDE = 800, 1333
"""Pixels."""

MULTIPLE = 32
"""What the sides of a padded image are multiples of."""

WHITE = 255


class Shown(NamedTuple):
    """What a detector is shown.

    Attributes:
        pixels: Normalised, then padded with zeros.
        size: (height, width) without the padding.
    """

    pixels: Float[Tensor, "b 3 Hs Ws"]
    size: tuple[int, int]


def shown_size(size: tuple[int, int], short_side: int = SHORT_SIDE, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """(height, width) that an image of some (height, width) is shown at, without the padding."""
    scale = min(short_side / min(size), long_side / max(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def shown(
    images: UInt8[Tensor, "b 3 H W"],
    mean: Sequence[float],
    std: Sequence[float],
    short_side: int = SHORT_SIDE,
    long_side: int = LONG_SIDE,
) -> Shown:
    """Images, resized bilinearly without smoothing and to whole levels, normalised and padded.

    Args:
        images: Of one size.
        mean, std: Of each channel, for values in 0 to 1.
        short_side, long_side: Pixels.
    """
    height, width = shown_size((images.shape[-2], images.shape[-1]), short_side, long_side)
    resized = interpolate(images.float(), size=(height, width), mode="bilinear", align_corners=False).round()
    middle, spread = (rearrange(torch.tensor(levels, device=images.device), "c -> c 1 1") for levels in (mean, std))
    normalised = (resized / WHITE - middle) / spread
    return Shown(pad(normalised, (0, -width % MULTIPLE, 0, -height % MULTIPLE)), (height, width))


# fmt: off
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
"""In the order of COCO's ids. Detectors spell some of them otherwise (mouse, remote, sofa, tvmonitor, ...)."""


def geneval_names(labels: Mapping[int, str]) -> tuple[str, ...]:
    """A detector's labels in GenEval's spelling: by COCO's order where there are 80 of them, else as they are.

    Raises:
        ValueError: There are 80, but they stand in another order than COCO's.
    """
    own = tuple(labels[place] for place in range(len(labels)))
    if len(own) != len(CLASSES):
        return own
    elsewhere = [name for place, name in enumerate(own) if name in CLASSES and CLASSES[place] != name]
    if elsewhere:
        raise ValueError(
            f"its 80 labels are not in COCO's order: {elsewhere[0]} is number {own.index(elsewhere[0])} and not "
            f"{CLASSES.index(elsewhere[0])}"
        )
    return CLASSES


COLOUR_WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""GenEval's colours."""

TEMPLATES = ("a photo of a {colour} {label}", "a photo of a {colour}-colored {label}", "a photo of a {colour} object")
"""Captions whose embeddings, each of length 1, are averaged for a colour."""

BLANK = 153
"""The grey level, of 255, that takes the place of what is not the object."""


class ClipColours(nn.Module):
    """Tells the colours of objects: the one whose captions are nearest to the object's picture.

    Args:
        model: CLIP; GenEval's is ViT-L/14 of OpenAI.
        processor: Its processor.
    """

    def __init__(self, model: CLIPModel, processor: CLIPProcessor) -> None:
        super().__init__()
        self.model = model
        self.processor: Any = processor
        self._captions: dict[str, Float[Tensor, "colours d"]] = {}

    @classmethod
    def from_saved(cls, place: str) -> "ClipColours":
        """From a folder in transformers' layout or a hub id.

        Raises:
            UserError: There is no whole CLIP in that place.
        """
        return cls(*load_judge(CLIPModel, CLIPProcessor, place))

    @torch.no_grad()
    def forward(self, image: UInt8[Tensor, "3 H W"], masks: Bool[Tensor, "n H W"], labels: Sequence[str]) -> list[str]:
        """The colour of each object of an image; each mask covers at least one pixel."""
        return [COLOUR_WORDS[place] for place in self.likeness(image, masks, labels).argmax(dim=1).tolist()]

    def likeness(
        self, image: UInt8[Tensor, "3 H W"], masks: Bool[Tensor, "n H W"], labels: Sequence[str]
    ) -> Float[Tensor, "n colours"]:
        """The cosine between the picture of each object and the captions of each colour."""
        if not labels:
            return torch.zeros(0, len(COLOUR_WORDS), device=image.device)
        pictures = [isolated(image, mask) for mask in masks]
        pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"].to(image.device)
        seen = normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        captions = torch.stack([self.captions(label).to(image.device) for label in labels])
        return torch.einsum("nd,ncd->nc", seen, captions)

    def captions(self, label: str) -> Float[Tensor, "colours d"]:
        """What each colour of an object of that class is called, as one embedding of length 1 a colour."""
        if label not in self._captions:
            texts = [template.format(colour=word, label=label) for word in COLOUR_WORDS for template in TEMPLATES]
            inputs = self.processor(text=texts, padding=True, return_tensors="pt").to(self.model.device)
            read = normalize(self.model.get_text_features(**inputs).pooler_output, dim=-1)
            means = reduce(read, "(c t) d -> c d", "mean", c=len(COLOUR_WORDS))
            self._captions[label] = normalize(means, dim=-1)
        return self._captions[label]


def isolated(image: UInt8[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]) -> UInt8[Tensor, "3 h w"]:
    """The smallest part of an image that holds a masked object, all around the object grey."""
    left, top, right, bottom = mask_box(mask)
    blanked = torch.where(rearrange(mask, "H W -> 1 H W"), image, BLANK)
    return blanked[:, top:bottom, left:right]


def mask_box(mask: Bool[Tensor, "H W"]) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) in pixels of what a mask covers, the right and lower ends exclusive."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


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
        short_side, long_side: Sizes that images are brought to (`got_core.detection.mask2former`), in pixels.
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
            Detection(label, colour, (SIDE * x1 / width, SIDE * y1 / height, SIDE * x2 / width, SIDE * y2 / height), s)
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
