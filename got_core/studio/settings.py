"""How pictures are planned and drawn: seed, steps, guidance scales and the freedom of the plan."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from got_core.pipeline import GoTPipeline
from got_core.sampling import GuidanceScales
from got_core.seeds import LARGEST_SEED
from got_core.studio.limits import Limits, checked_number, checked_whole

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
    """

    seed: int
    steps: int
    semantic: float
    spatial: float
    reference: float
    temperature: float = 0.0

    @classmethod
    def own(cls, pipeline: GoTPipeline, *, editing: bool = False) -> "Settings":
        """The system's own."""
        system = pipeline.system
        scales = system.editing_scales if editing else system.generation_scales
        return cls(0, system.sampling_steps, *own_scales(scales))

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
        )

    def values(self) -> dict[str, float]:
        """By name, as `checked` reads them."""
        return asdict(self)


def own_scales(scales: GuidanceScales) -> tuple[float, float, float]:
    """A system's scales as numbers: semantic, spatial, reference."""
    return float(scales.semantic), float(scales.spatial), float(scales.reference)
