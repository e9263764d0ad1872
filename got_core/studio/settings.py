"""How images are planned and generated, and the limits of what a request may ask for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from got_core.errors import UserError
from got_core.paths import LARGEST_SEED
from got_core.pipelines.pipeline import GoTPipeline


class Refused(UserError):
    """A request that is not served; its text is shown to whoever asked."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one request and of the whole server.

    Attributes:
        prompt: Characters of a prompt.
        chain: Characters of a reasoning chain.
        image_bytes: Of an uploaded file.
        image_pixels: Width times height of an uploaded picture.
        boxes: Regions of a plan.
        steps: Denoising steps.
        seconds: Of the model's work on one request.
        queue: Requests that may wait.
        turns: OutputImages of one conversation.
        sessions: Conversations that are kept; the one not used for longest goes first.
        idle_seconds: After which a conversation is forgotten.
        kept_bytes: Of the pictures of all conversations together; beyond it the oldest are forgotten.
    """

    prompt: int = 500
    chain: int = 6000
    image_bytes: int = 12_000_000
    image_pixels: int = 25_000_000
    boxes: int = 24
    steps: int = 100
    seconds: int = 120
    queue: int = 32
    turns: int = 60
    sessions: int = 200
    idle_seconds: int = 3600
    kept_bytes: int = 2_000_000_000

    @property
    def body(self) -> int:
        """Bytes of one HTTP request: a picture in base64, and some room."""
        return self.image_bytes * 4 // 3 + 500_000


def checked_text(value: object, longest: int, name: str) -> str:
    """A text without white space around it.

    Raises:
        Refused: It is none, is too long, or holds characters that cannot be written.
    """
    if not isinstance(value, str):
        raise Refused(f"the {name} has to be text")
    text = value.strip()
    if len(text) > longest:
        raise Refused(f"the {name} has {len(text):,} characters; at most {longest:,} are taken")
    if any((ord(letter) < ord(" ") and letter not in "\n\t\r") or "\ud800" <= letter <= "\udfff" for letter in text):
        raise Refused(f"the {name} holds characters that cannot be read")
    return text


def checked_number(value: object, low: float, high: float, name: str) -> float:
    """A number from `low` to `high`.

    Raises:
        Refused: It is none, or outside.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refused(f"{name} has to be a number from {low:,} to {high:,}")
    return value


def checked_whole(value: object, low: int, high: int, name: str) -> int:
    """A whole number from `low` to `high`, as `checked_number`."""
    number = checked_number(value, low, high, name)
    if number != int(number):
        raise Refused(f"{name} has to be a whole number from {low:,} to {high:,}")
    return int(number)


def checked_choice(value: object, name: str) -> bool:
    """Yes or no.

    Raises:
        Refused: It is neither.
    """
    if not isinstance(value, bool):
        raise Refused(f"{name} has to be yes or no")
    return value


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
        return cls(0, pipeline.model.sampling_steps, *own_scales(pipeline, editing=False))

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
    scales = pipeline.model.editing_scales if editing else pipeline.model.generation_scales
    return float(scales.semantic), float(scales.spatial), float(scales.reference)
