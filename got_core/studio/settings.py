"""How pictures are planned and drawn: seed, steps, guidance scales and the freedom of the plan."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from got_core.pipeline import GoTPipeline
from got_core.seeds import LARGEST_SEED
from got_core.studio.limits import Limits, checked_choice, checked_number, checked_whole

HIGHEST_SCALE = 20.0
"""Of the guidance scales that can be set."""

HIGHEST_TEMPERATURE = 2.0
"""Of a plan's temperature."""


@dataclass(frozen=True)
class Settings:
    """The settings of one drawing.

    Attributes:
        seed: Of noise and plan.
        steps: Denoising steps.
        semantic, spatial, reference: Guidance scales.
        temperature: Of the plan; 0 is greedy.
        still: Whether what a changed plan or an edit does not touch stays as it is.
    """

    seed: int
    steps: int
    semantic: float
    spatial: float
    reference: float
    temperature: float = 0.0
    still: bool = True

    @classmethod
    def own(cls, pipeline: GoTPipeline) -> "Settings":
        """The system's own, for text-to-image."""
        return cls(0, pipeline.system.sampling_steps, *own_scales(pipeline, editing=False))

    @classmethod
    def checked(cls, values: Mapping[str, object], limits: Limits) -> "Settings":
        """From values that anyone may have sent.

        Raises:
            Refused: One is missing, is no number, or goes beyond its bounds.
        """

        def scale(name: str) -> float:
            return checked_number(values.get(name), 0.0, HIGHEST_SCALE, f"the {name} scale")

        return cls(
            checked_whole(values.get("seed"), 0, LARGEST_SEED, "the seed"),
            checked_whole(values.get("steps"), 1, limits.steps, "the number of steps"),
            scale("semantic"),
            scale("spatial"),
            scale("reference"),
            checked_number(values.get("temperature"), 0.0, HIGHEST_TEMPERATURE, "the temperature"),
            checked_choice(values.get("still"), "whether the rest is held still"),
        )

    def fitting(self, pipeline: GoTPipeline, *, editing: bool) -> "Settings":
        """The same, but scales that are the system's own for the other kind of drawing become its own for this one."""
        own, other = (own_scales(pipeline, editing=kind) for kind in (editing, not editing))
        if (self.semantic, self.spatial, self.reference) != other:
            return self
        semantic, spatial, reference = own
        return replace(self, semantic=semantic, spatial=spatial, reference=reference)

    def values(self) -> dict[str, float]:
        """By name, as `checked` reads them."""
        return asdict(self)


def own_scales(pipeline: GoTPipeline, *, editing: bool) -> tuple[float, float, float]:
    """A system's own scales: semantic, spatial, reference."""
    scales = pipeline.system.editing_scales if editing else pipeline.system.generation_scales
    return float(scales.semantic), float(scales.spatial), float(scales.reference)
