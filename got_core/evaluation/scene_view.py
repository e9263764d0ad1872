"""What was planned and what is seen: one drawn image, taken apart once for all the scores that judge it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from got_core.chain import Chain, Region, parse
from got_core.data.scene import COLOURS, SHAPES
from got_core.evaluation.detection import UNKNOWN, Detection
from got_core.evaluation.scene_colours import ColourMap
from got_core.evaluation.scene_detector import SceneDetector

TEXT_TO_IMAGE, EDIT = "t2i", "edit"
"""The kinds of samples, by `kind` in their metadata."""

Sources = Float[Tensor, "b 3 H W"] | Sequence[Float[Tensor, "3 H W"] | None] | None
"""The images that were edited, one a sample; None, or anything, for a text-to-image sample."""

_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class SceneView:
    """One drawn image with its plan, and what is seen in it.

    Attributes:
        image: The drawn image in [-1, 1].
        source: The image that was edited; black or None for text-to-image, None where none was given.
        chain: The chain it was drawn from.
        meta: The sample's metadata, as `got_core.data.scene_meta` makes it.
        colours: The image taken apart by colour.
        found: The objects in the image.
    """

    image: Float[Tensor, "3 H W"]
    source: Float[Tensor, "3 H W"] | None
    chain: Chain
    meta: Mapping[str, Any]
    colours: ColourMap
    found: tuple[Detection, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.image.shape[-2], self.image.shape[-1]


def view_scenes(
    detector: SceneDetector,
    images: Float[Tensor, "b 3 H W"],
    chains: Sequence[str],
    metas: Sequence[Mapping[str, Any]],
    sources: Sources = None,
) -> list[SceneView]:
    """Look at a batch of images in [-1, 1] once.

    Raises:
        ValueError: Not as many chains, metadata or sources as images.
    """
    given = {"images": len(images), "chains": len(chains), "metas": len(metas)}
    given |= {} if sources is None else {"sources": len(sources)}
    if len(set(given.values())) > 1:
        raise ValueError(f"scores need one entry for each image: {', '.join(f'{v} {k}' for k, v in given.items())}")
    return [
        SceneView(
            image=images[i],
            source=None if sources is None else sources[i],
            chain=parse(chains[i]),
            meta=metas[i],
            colours=colours,
            found=tuple(detector.objects(colours)),
        )
        for i, colours in enumerate(detector.colour_maps(images))
    ]


def planned_object(region: Region) -> Detection:
    """A region of a chain as a detection without doubt: the shape and the colour that its phrase and colour name.

    The last shape named counts, singular or plural; none makes it `UNKNOWN`. Where the phrase names one colour and the
    colour after the box is another, the plan contradicts itself and the colour is None.
    """
    words = _WORD.findall(region.phrase.lower())
    shapes = [shape for word in words for shape in SHAPES if word in (shape, f"{shape}s", f"{shape}es")]
    named = {word for word in words if word in COLOURS} | ({region.colour} if region.colour else set())
    colour = named.pop() if len(named) == 1 else None
    x1, y1, x2, y2 = region.box
    return Detection(shapes[-1] if shapes else UNKNOWN, colour, (x1, y1, x2, y2), 1.0)
