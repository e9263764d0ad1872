"""A conversation about an image: each turn edits the image of the turn before; turns can be undone and branched.

The turns are a tree: each knows the turn it continues. The reasoner sees the present image and is given the requests
that led to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Unpack
from warnings import warn

from PIL import Image

from got_core.data.images import ImageLike, image_tensor
from got_core.pipelines.calls import GenerationOptions
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import Plan
from got_core.types import to_pil

UNREAD = (
    "this model's reasoner sees the image but is not given earlier requests (its editing_template has no {earlier}), "
    'so it cannot know what "it" is: name the objects'
)


@dataclass(frozen=True)
class Turn:
    """A request, its plan and the image that was generated.

    Attributes:
        number: Its index among all turns.
        plan: None for an image that was given.
        image: The image after this turn.
        seed: Of its noise.
        previous: The turn it continues; None for the first of a conversation.
    """

    number: int
    plan: Plan | None
    image: Image.Image
    seed: int
    previous: "Turn | None" = field(default=None, repr=False)

    @property
    def requests(self) -> tuple[str, ...]:
        """The requests up to this turn, the first one first."""
        earlier = () if self.previous is None else self.previous.requests
        return earlier if self.plan is None else (*earlier, self.plan.request)


class Conversation:
    """Turns about one image.

    Args:
        pipeline: Plans and generates.
        image: An image to begin with; without one the first turn generates it.

    Example:
        >>> conversation = Conversation(GoTPipeline.from_pretrained())
        >>> first = conversation.say("a red circle")
        >>> second = conversation.say("make it green")
        >>> image = second.image
    """

    def __init__(self, pipeline: GoTPipeline, image: ImageLike | None = None) -> None:
        self.pipeline = pipeline
        self.turns: list[Turn] = []
        self.current: Turn | None = None
        if image is not None:
            self.append(None, to_pil(image_tensor(image)), 0)

    def __iter__(self) -> Iterator[Turn]:
        return iter(self.turns)

    @property
    def image(self) -> Image.Image | None:
        """The image after the current turn."""
        return None if self.current is None else self.current.image

    def plan(self, request: str, *, seed: int = 0, **planning: Any) -> Plan:
        """Plan the next turn from the current image and the requests that led to it.

        Args:
            request: A caption in the first turn without an image, else an instruction.
            seed, planning: Arguments of `GoTPipeline.plan`.
        """
        earlier = () if self.current is None else self.current.requests
        if earlier and not self.pipeline.model.reasoner.reads_earlier:
            warn(UNREAD, stacklevel=2)
        return self.pipeline.plan(request, self.image, seed=seed, earlier=earlier, **planning)[0]

    def generate(self, plan: Plan, *, seed: int = 0, **options: Unpack[GenerationOptions]) -> Turn:
        """Generate the next turn from a plan of this conversation, which may have been changed.

        Args:
            plan: From `plan`.
            seed, options: Arguments of `GoTPipeline.generate`, except `output_type`, `return_dict` and `generator`.
        """
        (image,) = self.pipeline.generate(plan, seed=seed, **options).images
        return self.append(plan, image, seed)

    def say(
        self, request: str, *, seed: int = 0, temperature: float = 0.0, **options: Unpack[GenerationOptions]
    ) -> Turn:
        """Plan and generate the next turn.

        Args:
            request: A caption in the first turn without an image, else an instruction.
            seed, temperature, options: Arguments of `GoTPipeline.plan` and `GoTPipeline.generate`.
        """
        return self.generate(self.plan(request, seed=seed, temperature=temperature), seed=seed, **options)

    def undo(self) -> Turn | None:
        """Go back to the previous turn and return it, or None at the beginning; the undone turn stays in `turns`."""
        if self.current is not None:
            self.current = self.current.previous
        return self.current

    def go_to(self, number: int) -> Turn:
        """Go to any turn; the next one branches off there.

        Raises:
            ValueError: There is no turn of that number.
        """
        if not 0 <= number < len(self.turns):
            raise ValueError(f"no turn {number}: this conversation has {len(self.turns)}, counted from 0")
        self.current = self.turns[number]
        return self.current

    def append(self, plan: Plan | None, image: Image.Image, seed: int) -> Turn:
        """Add an image that has already been generated as the next turn."""
        turn = Turn(len(self.turns), plan, image, seed, self.current)
        self.turns.append(turn)
        self.current = turn
        return turn
