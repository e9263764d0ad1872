"""Trivial answers to requests, and the true ones, scored by the same metrics: the floor and the ceiling of a score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from got_core.chain.parser import parse
from got_core.data.scenes.render import BACKGROUNDS, COLOURS, SHAPES, Scene, SceneObject, render, unit_colour
from got_core.detection.scenes import SceneDetector
from got_core.evaluation.metrics.scenes import (
    EDIT,
    TEXT_TO_IMAGE,
    SceneScores,
    SceneView,
    Sources,
    planned_object,
    view_scenes,
)
from got_core.planning.boxes import pixels_of

UNCHANGED, BLANK, NOISE, ANOTHER, TRUE = "unchanged", "blank", "noise", "another", "true"
"""Names of answers in results."""

LABELS = {
    UNCHANGED: "unchanged source",
    BLANK: "blank image",
    NOISE: "noise",
    ANOTHER: "another's true image",
    TRUE: "true image",
}
"""All answers, as they are printed, in that order."""

NOISES = 8
"""Different images of noise, which are used in turn."""

Objects = Sequence[Mapping[str, Any]]
"""The objects of a drawn scene, as its metadata lists them: `shape`, `color` and `box`."""


@dataclass(frozen=True)
class Answer:
    """An image for a request that no model made.

    Attributes:
        objects: Of a drawn scene on the default background; none make a blank image.
        noise: Seed of an image of noise instead.

    Example:
        >>> Answer().image((2, 3)).shape
        torch.Size([3, 2, 3])
    """

    objects: Objects = ()
    noise: int | None = None

    def image(self, size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
        """Return the image of a size (height, width), in [-1, 1].

        Raises:
            ValueError: A scene in an image that is not square, or an object that has no pixel there.
        """
        if self.noise is not None:
            return _noise(size, self.noise)
        return scene_image(self.objects, size) if self.objects else _blank(size)


def _blank(size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
    height, width = size
    return repeat(torch.from_numpy(unit_colour(BACKGROUNDS["gray"])), "c -> c h w", h=height, w=width).clone()


def _noise(size: tuple[int, int], seed: int) -> Float[Tensor, "3 H W"]:
    """Uniform in [-1, 1], every channel of every pixel; no shared generator of random numbers is used."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (3, *size)).astype(np.float32))


def scene_image(objects: Objects, size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
    """Render the objects of a scene on the default background, in [-1, 1].

    Raises:
        ValueError: The image is not square, or an object has no pixel in it.
    """
    if size[0] != size[1]:
        raise ValueError(f"drawn scenes are square, not {size[0]}x{size[1]}")
    each = []
    for entry in objects:
        rows, columns = pixels_of(entry["box"], size)
        if rows.stop <= rows.start or columns.stop <= columns.start:
            raise ValueError(f"a {entry['color']} {entry['shape']} has no pixel in {size[0]}x{size[1]}")
        box = columns.start, rows.start, columns.stop, rows.stop
        each.append(SceneObject(entry["shape"], entry["color"], box))
    return render(Scene(tuple(each), size=size[0]))


def chain_objects(chain: str) -> list[dict[str, Any]]:
    """Return the objects that a chain plans, as metadata lists them; what is no shape or colour of scenes included."""
    planned = [planned_object(region) for region in parse(chain).regions]
    return [{"shape": entry.label, "color": entry.colour, "box": list(entry.box)} for entry in planned]


def is_drawable(objects: Any) -> bool:
    """Return whether these are objects of a drawn scene, at least one, with shapes and colours that can be rendered."""
    if not isinstance(objects, list | tuple) or not objects:
        return False
    return all(
        isinstance(entry, Mapping)
        and entry.get("shape") in tuple(SHAPES)
        and entry.get("color") in tuple(COLOURS)
        and isinstance(entry.get("box"), list | tuple)
        and len(entry["box"]) == 4
        and all(isinstance(edge, int | float) and 0 <= edge <= 1000 for edge in entry["box"])
        for entry in objects
    )


def trivial_answers(number: int) -> dict[str, list[Answer]]:
    """Return a blank image and noise for each of `number` requests."""
    return {BLANK: [Answer()] * number, NOISE: [Answer(noise=index % NOISES) for index in range(number)]}


def text_to_image_answers(scenes: Sequence[Any]) -> dict[str, list[Answer]]:
    """Return the answers to text-to-image requests, by name.

    Args:
        scenes: The true objects of each request. If those of all can be rendered, the true image of another request
            (the next one; the first for the last) and the true image are among the answers.
    """
    answers = trivial_answers(len(scenes))
    if all(map(is_drawable, scenes)):
        true = [Answer(tuple(objects)) for objects in scenes]
        answers |= {ANOTHER: [*true[1:], *true[:1]]} if len(true) > 1 else {}
        answers |= {TRUE: true}
    return answers


class SceneAnswers(nn.Module):
    """Scores of answers to the requests of scenes, as `SceneScores` gives them; no image is generated.

    Trivial images are scored with the true chain, as if the plan were right. That of another request is the true image
    of the text-to-image request before.

    Args:
        detector: Finds the objects; one for all shapes and colours when left out.
    """

    def __init__(self, detector: SceneDetector | None = None) -> None:
        super().__init__()
        self.detector = SceneDetector() if detector is None else detector
        self.scores = nn.ModuleDict({name: SceneScores(self.detector) for name in LABELS})
        self._previous: SceneView | None = None
        self._has_chains = False
        self._fixed: dict[tuple[int, int], list[SceneView]] = {}

    def update(
        self,
        targets: Float[Tensor, "b 3 H W"],
        chains: Sequence[str],
        metas: Sequence[Mapping[str, Any]],
        sources: Sources = None,
    ) -> None:
        """Count a batch of requests; the arguments are those of `SceneScores.update`, with true images and chains."""
        true = view_scenes(self.detector, targets, chains, metas, sources)
        self._has_chains |= any(chains)
        size = targets.shape[-2], targets.shape[-1]
        fixed = self._same_for_all(size)
        answers: dict[str, list[SceneView]] = {name: [] for name in LABELS}
        for index, view in enumerate(true):
            answers[TRUE].append(view)
            answers[BLANK].append(_showing(view, fixed[0]))
            answers[NOISE].append(_showing(view, fixed[1 + index % NOISES]))
            if view.meta["kind"] == TEXT_TO_IMAGE:
                if self._previous is not None and self._previous.size == view.size:
                    answers[ANOTHER].append(_showing(view, self._previous))
                self._previous = view
            elif view.meta["kind"] == EDIT and view.source is not None:
                answers[UNCHANGED] += view_scenes(
                    self.detector, view.source[None], [""], [view.meta], view.source[None]
                )
        for name, views in answers.items():
            scores: Any = self.scores[name]
            scores.count(views)

    def _same_for_all(self, size: tuple[int, int]) -> list[SceneView]:
        """The blank image and those of noise, in which objects are detected once."""
        if size not in self._fixed:
            answers = (Answer(), *(Answer(noise=seed) for seed in range(NOISES)))
            images = torch.stack([answer.image(size) for answer in answers])
            self._fixed[size] = view_scenes(self.detector, images, [""] * len(images), [{}] * len(images))
        return self._fixed[size]

    def compute(self) -> dict[str, dict[str, Any]]:
        """Return the scores by answer, those of chains for the true ones alone; answers without any are left out."""
        computed = {}
        for name, metrics in self.scores.items():
            scores: Any = metrics
            means = scores.compute()
            if name != TRUE or not self._has_chains:
                means = {metric: mean for metric, mean in means.items() if not metric.startswith("chain_")}
            if any(mean != {} for mean in means.values()):
                computed[name] = means
        return computed

    def reset(self) -> None:
        """Start counting again."""
        self._previous, self._has_chains = None, False
        for metrics in self.scores.values():
            scores: Any = metrics
            scores.reset()


def _showing(request: SceneView, shown: SceneView) -> SceneView:
    """The request of one view with the image of another."""
    image = shown.image.to(request.image.device)
    return replace(request, image=image, colours=shown.colours, detected=shown.detected)
