"""The settings of an image, the limits of a request, and checks of values that anyone may have sent."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from got_core.errors import UserError
from got_core.paths import LARGEST_SEED
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import LONGEST_PROMPT, MOST_BOXES


class Refused(UserError):
    """A request that is refused; its text is shown to the visitor."""


@dataclass(frozen=True)
class Limits:
    """The limits of one request and of the whole server.

    Attributes:
        prompt: Characters of a prompt.
        chain: Characters of a reasoning chain.
        image_bytes: Of an uploaded file.
        image_pixels: Width times height of an uploaded image.
        boxes: Regions of a plan.
        steps: Denoising steps.
        seconds: Of the model's work on one request.
        queue: Requests that may wait.
        address_queue: Requests of one visitor's address that may wait.
        images: Of one plan at once.
        turns: Images of one conversation.
        sessions: Conversations in memory; the least recently used one is removed first.
        idle_seconds: After which a conversation is removed.
        session_bytes: Of the images of all conversations together; above it the least recently used are removed.
        address_sessions: Conversations of one visitor's address.
        address_requests: Changes and requests of one address in a minute.
        address_bytes: What one address sends in a minute.
        failed_passwords: Wrong passwords of one address in a minute.
        header_seconds: Time in which the headers of a connection's next request must arrive.
        body_seconds: Time in which a request must arrive.
    """

    prompt: int = 500
    chain: int = 6000
    image_bytes: int = 12_000_000
    image_pixels: int = 25_000_000
    boxes: int = 24
    steps: int = 100
    seconds: int = 120
    queue: int = 32
    address_queue: int = 8
    images: int = 4
    turns: int = 60
    sessions: int = 200
    idle_seconds: int = 3600
    session_bytes: int = 2_000_000_000
    address_sessions: int = 40
    address_requests: int = 600
    address_bytes: int = 200_000_000
    failed_passwords: int = 5
    header_seconds: float = 15
    body_seconds: float = 60

    def __post_init__(self) -> None:
        for name, value, most in (("prompt", self.prompt, LONGEST_PROMPT), ("boxes", self.boxes, MOST_BOXES)):
            if value > most:
                raise UserError(f"the studio's limit of {name} may be at most {most:,}, not {value:,}")

    @property
    def body(self) -> int:
        """Bytes of one HTTP request: an image in base64, and some room."""
        return self.image_bytes * 4 // 3 + 500_000


@dataclass(frozen=True)
class About:
    """What the page says about a model.

    Attributes:
        words: What it can generate, in one line.
        prompts: Examples of captions, to be clicked.
        instructions: Examples of edits, shown in place of `prompts` where there is an image.
    """

    words: str
    prompts: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()


def checked_text(value: object, longest: int, name: str) -> str:
    """Check a text and strip white space around it.

    Raises:
        Refused: It is not a text, is too long, or has characters that cannot be written.
    """
    if not isinstance(value, str):
        raise Refused(f"the {name} must be text")
    text = value.strip()
    if len(text) > longest:
        raise Refused(f"the {name} has {len(text):,} characters; at most {longest:,} are allowed")
    if any((ord(letter) < ord(" ") and letter not in "\n\t\r") or "\ud800" <= letter <= "\udfff" for letter in text):
        raise Refused(f"the {name} has characters that cannot be read")
    return text


def checked_number(value: object, low: float, high: float, name: str) -> float:
    """Check that a value is a number from `low` to `high` (Refused otherwise)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refused(f"{name} must be a number from {low:,} to {high:,}")
    return value


def checked_integer(value: object, low: int, high: int, name: str) -> int:
    """Check that a value is a whole number from `low` to `high` (Refused otherwise)."""
    number = checked_number(value, low, high, name)
    if number != int(number):
        raise Refused(f"{name} must be a whole number from {low:,} to {high:,}")
    return int(number)


HIGHEST_SCALE = 20.0
HIGHEST_TEMPERATURE = 2.0


@dataclass(frozen=True)
class Settings:
    """The settings of one image.

    Attributes:
        seed: Of noise and plan.
        steps: Denoising steps.
        semantic, spatial, reference: Guidance scales.
        temperature: Of the plan; 0 is greedy.
        still: Whether the rest of the previous image is kept when a plan was changed, and of the source in an edit.
    """

    seed: int
    steps: int
    semantic: float
    spatial: float
    reference: float
    temperature: float = 0.0
    still: bool = True

    @classmethod
    def default(cls, pipeline: GoTPipeline) -> "Settings":
        """Make the model's own settings for text-to-image."""
        return cls(0, pipeline.model.sampling().steps, *default_scales(pipeline, editing=False))

    @classmethod
    def checked(cls, values: Mapping[str, object], limits: Limits) -> "Settings":
        """Read values that anyone may have sent.

        Raises:
            Refused: One is missing, of the wrong type, or out of bounds.
        """
        scales = {
            name: checked_number(values.get(name), 0.0, HIGHEST_SCALE, f"the {name} scale")
            for name in ("semantic", "spatial", "reference")
        }
        still = values.get("still")
        if not isinstance(still, bool):
            raise Refused("whether the rest is kept must be true or false")
        return cls(
            seed=checked_integer(values.get("seed"), 0, LARGEST_SEED, "the seed"),
            steps=checked_integer(values.get("steps"), 1, limits.steps, "the number of steps"),
            temperature=checked_number(values.get("temperature"), 0.0, HIGHEST_TEMPERATURE, "the temperature"),
            still=still,
            **scales,
        )

    def fitting(self, pipeline: GoTPipeline, *, editing: bool) -> "Settings":
        """Replace the scales if they are the model's own for the other kind of request: its own for this one fit."""
        own, other = (default_scales(pipeline, editing=kind) for kind in (editing, not editing))
        if (self.semantic, self.spatial, self.reference) != other:
            return self
        return replace(self, semantic=own[0], spatial=own[1], reference=own[2])

    def values(self) -> dict[str, float]:
        """List the values by name, as `checked` reads them."""
        return asdict(self)


def default_scales(pipeline: GoTPipeline, *, editing: bool) -> tuple[float, float, float]:
    """Read a model's own guidance scales: semantic, spatial, reference."""
    scales = pipeline.model.editing_scales if editing else pipeline.model.generation_scales
    return float(scales.semantic), float(scales.spatial), float(scales.reference)
