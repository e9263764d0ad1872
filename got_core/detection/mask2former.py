"""GenEval's detector: Mask2Former on COCO with the input of MMDetection, and colours by CLIP."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, pad
from transformers import CLIPModel, CLIPProcessor, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

from got_core.chain.parser import SIDE
from got_core.detection.base import MASK2FORMER, Detection, Detector, by_confidence

SHORT_SIDE, LONG_SIDE = 800, 1333
"""Pixels."""

MULTIPLE = 32
"""The sides of a padded image are multiples of this."""


def resized_size(size: tuple[int, int], short_side: int = SHORT_SIDE, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """Compute the (height, width) that an image of some (height, width) is resized to, without the padding."""
    scale = min(short_side / min(size), long_side / max(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def preprocessed(
    images: UInt8[Tensor, "b 3 H W"],
    mean: Sequence[float],
    std: Sequence[float],
    short_side: int = SHORT_SIDE,
    long_side: int = LONG_SIDE,
) -> tuple[Float[Tensor, "b 3 Hs Ws"], tuple[int, int]]:
    """Resize images bilinearly without smoothing, round them to whole levels, normalise them and pad them with zeros.

    Args:
        images: Of one size.
        mean, std: Of each channel, for values in 0 to 1.
        short_side, long_side: Pixels.

    Returns:
        The pixels, and (height, width) without the padding.
    """
    height, width = resized_size((images.shape[-2], images.shape[-1]), short_side, long_side)
    resized = interpolate(images.float(), size=(height, width), mode="bilinear", align_corners=False).round()
    centre, scale = (rearrange(torch.tensor(levels, device=images.device), "c -> c 1 1") for levels in (mean, std))
    normalised = (resized / 255 - centre) / scale
    return pad(normalised, (0, -width % MULTIPLE, 0, -height % MULTIPLE)), (height, width)


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
"""In the order of COCO's ids. Detectors have other names for some of them (mouse, remote, sofa, tvmonitor, ...)."""


def geneval_names(labels: Mapping[int, str]) -> tuple[str, ...]:
    """Return a detector's labels by GenEval's names: in COCO's order where there are 80 of them, else unchanged.

    Raises:
        ValueError: There are 80, but not in COCO's order.
    """
    own = tuple(labels[index] for index in range(len(labels)))
    if len(own) != len(CLASSES):
        return own
    misplaced = [name for index, name in enumerate(own) if name in CLASSES and CLASSES[index] != name]
    if misplaced:
        raise ValueError(
            f"its 80 labels are not in COCO's order: {misplaced[0]} is number {own.index(misplaced[0])} and not "
            f"{CLASSES.index(misplaced[0])}"
        )
    return CLASSES


COLOUR_WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""GenEval's colours."""

TEMPLATES = ("a photo of a {colour} {label}", "a photo of a {colour}-colored {label}", "a photo of a {colour} object")
"""Captions of a colour; their embeddings, each of length 1, are averaged."""


class ClipColours(nn.Module):
    """Finds the colours of objects: the one whose captions are nearest to the image of the object.

    Args:
        model: CLIP; GenEval's is ViT-L/14 of OpenAI.
        processor: Its processor.
    """

    def __init__(self, model: CLIPModel, processor: CLIPProcessor) -> None:
        super().__init__()
        self.model = model
        self.processor: Any = processor
        self._captions: dict[str, Float[Tensor, "colours d"]] = {}

    @torch.no_grad()
    def forward(self, image: UInt8[Tensor, "3 H W"], masks: Bool[Tensor, "n H W"], labels: Sequence[str]) -> list[str]:
        """Find the colour of each object of an image; each mask covers at least one pixel."""
        return [COLOUR_WORDS[index] for index in self.similarity(image, masks, labels).argmax(dim=1).tolist()]

    def similarity(
        self, image: UInt8[Tensor, "3 H W"], masks: Bool[Tensor, "n H W"], labels: Sequence[str]
    ) -> Float[Tensor, "n colours"]:
        """Compute the cosine similarity of each object's image and each colour's captions."""
        if not labels:
            return torch.zeros(0, len(COLOUR_WORDS), device=image.device)
        crops = [isolated(image, mask) for mask in masks]
        pixels = self.processor(images=crops, return_tensors="pt")["pixel_values"].to(image.device)
        features = normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        captions = torch.stack([self.captions(label).to(image.device) for label in labels])
        return torch.einsum("nd,ncd->nc", features, captions)

    def captions(self, label: str) -> Float[Tensor, "colours d"]:
        """Embed the captions of each colour of a class; one embedding of length 1 a colour."""
        if label not in self._captions:
            texts = [template.format(colour=word, label=label) for word in COLOUR_WORDS for template in TEMPLATES]
            inputs = self.processor(text=texts, padding=True, return_tensors="pt").to(self.model.device)
            features = normalize(self.model.get_text_features(**inputs).pooler_output, dim=-1)
            means = reduce(features, "(c t) d -> c d", "mean", c=len(COLOUR_WORDS))
            self._captions[label] = normalize(means, dim=-1)
        return self._captions[label]


def isolated(image: UInt8[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]) -> UInt8[Tensor, "3 h w"]:
    """Crop an image to a masked object; pixels around the object become grey."""
    left, top, right, bottom = mask_box(mask)
    blanked = torch.where(rearrange(mask, "H W -> 1 H W"), image, 153)
    return blanked[:, top:bottom, left:right]


def mask_box(mask: Bool[Tensor, "H W"]) -> tuple[int, int, int, int]:
    """Compute the box (x1, y1, x2, y2) of a mask in pixels, right and lower edges exclusive."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class Instances(NamedTuple):
    """The objects of one image.

    Attributes:
        labels: Indices of their classes.
        scores: In 0 to 1.
        masks: The pixels of each.
    """

    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]
    masks: Bool[Tensor, "n H W"]


class Candidates(NamedTuple):
    """Pairs of query and class that may be objects.

    Attributes:
        queries: Indices of the queries.
        labels: Indices of the classes.
        probabilities: Of the classes.
    """

    queries: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    probabilities: Float[Tensor, " n"]


class Mask2FormerDetector(nn.Module, Detector):
    """Finds objects of COCO's classes, and their colours where `colours` is given.

    The score of an object is the probability of its class times the mean probability of the pixels of its mask. Its box
    is that of the mask. Of the (query, class) pairs, as many are used as there are queries, the most probable first
    (Cheng et al., "Masked-attention Mask Transformer", CVPR 2022).

    Args:
        model: Mask2Former for instances; GenEval's has a Swin-S backbone.
        processor: Its image processor, for the mean and std of pixels. Its size is not used.
        colours: Finds the colours of the objects from their masks. None leaves them out.
        least_score: Objects up to this score are left out, before their colours are computed.
        short_side, long_side: Sizes that images are resized to (`resized_size`), in pixels.
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

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> list[list[Detection]]:
        """Detect the objects of each image with their colours, images in [-1, 1]; the most probable classes first."""
        everything = dict.fromkeys(self.classes, self.model.config.num_queries)
        return self.look_for(images, [everything] * len(images))

    @torch.no_grad()
    def look_for(
        self, images: Float[Tensor, "b 3 H W"], coloured: Sequence[Mapping[str, int]]
    ) -> list[list[Detection]]:
        """Detect the objects of each image with the colours that are needed; the most probable classes first."""
        levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        sides = self.input["short_side"], self.input["long_side"]
        pixels, inner = preprocessed(levels, self.processor.image_mean, self.processor.image_std, *sides)
        outputs = self.model(pixel_values=pixels)
        padded, size = (pixels.shape[-2], pixels.shape[-1]), (images.shape[-2], images.shape[-1])
        detections = []
        for i, image in enumerate(levels):
            pairs = candidates(outputs.class_queries_logits[i], self.least_score)
            logits = at_size(outputs.masks_queries_logits[i][pairs.queries], padded, inner, size)
            detections.append(self._describe(image, instances(pairs, logits, self.least_score), coloured[i]))
        return detections

    def _describe(
        self, image: UInt8[Tensor, "3 H W"], objects: Instances, coloured: Mapping[str, int]
    ) -> list[Detection]:
        labels = [self.classes[number] for number in objects.labels.tolist()]
        scores: list[float] = objects.scores.tolist()
        colours: list[str | None] = [None] * len(labels)
        chosen = most_confident(labels, scores, coloured)
        if self.colours is not None and chosen:
            words = self.colours(image, objects.masks[chosen], [labels[index] for index in chosen])
            for index, colour in zip(chosen, words, strict=True):
                colours[index] = colour
        height, width = image.shape[-2:]
        boxes = [mask_box(mask) for mask in objects.masks]
        return [
            Detection(label, colour, (SIDE * x1 / width, SIDE * y1 / height, SIDE * x2 / width, SIDE * y2 / height), s)
            for label, colour, (x1, y1, x2, y2), s in zip(labels, colours, boxes, scores, strict=True)
        ]


def most_confident(labels: Sequence[str], scores: Sequence[float], wanted: Mapping[str, int]) -> list[int]:
    """List the indices of as many objects of each class as are wanted, the most confident of them; in order."""
    chosen: list[int] = []
    for label, number in wanted.items():
        indices = [index for index, own in enumerate(labels) if own == label]
        chosen += [indices[rank] for rank in by_confidence([scores[index] for index in indices])][:number]
    return sorted(chosen)


def candidates(class_logits: Float[Tensor, "q c"], least_probability: float) -> Candidates:
    """Choose the most probable pairs of query and class, as many as there are queries. The last class is no object."""
    probabilities = class_logits.softmax(dim=-1)[:, :-1]
    best = rearrange(probabilities, "q c -> (q c)").topk(len(probabilities))
    probable = best.values > least_probability
    pairs, classes = best.indices[probable], probabilities.shape[1]
    return Candidates(pairs // classes, pairs % classes, best.values[probable])


def at_size(
    logits: Float[Tensor, "n h w"], padded: tuple[int, int], inner: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "n H W"]:
    """Resize the model's masks to an image's own size; all sizes are (height, width).

    Args:
        logits: Of the masks.
        padded: Of the model's input, with the padding below and to the right.
        inner: The same without the padding.
        size: Of the image itself.
    """
    stack = rearrange(logits, "n h w -> n 1 h w")
    stack = interpolate(stack, size=padded, mode="bilinear", align_corners=False)[..., : inner[0], : inner[1]]
    stack = interpolate(stack, size=size, mode="bilinear", align_corners=False)
    return rearrange(stack, "n 1 H W -> n H W")


def instances(pairs: Candidates, logits: Float[Tensor, "n H W"], least_score: float) -> Instances:
    """Choose the candidates that score above `least_score`, given the logits of their masks at the image's size."""
    masks = logits > 0
    covered = reduce(masks.float(), "n H W -> n", "sum")
    certainty = reduce(logits.sigmoid() * masks, "n H W -> n", "sum") / (covered + 1e-6)
    scores = pairs.probabilities * certainty
    confident = (scores > least_score) & (covered > 0)
    return Instances(pairs.labels[confident], scores[confident], masks[confident])
