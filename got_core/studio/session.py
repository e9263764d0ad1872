"""The work of one visitor: a conversation, the plan on the canvas, undo; and the sessions of all open pages."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Lock

from PIL import Image

from got_core.chain.dialects import from_readable, readable
from got_core.data.images import image_tensor
from got_core.errors import one_line
from got_core.interfaces import ChainListener
from got_core.paths import LARGEST_SEED
from got_core.pipelines.calls import GoTPipelineOutput, StepCallback
from got_core.pipelines.conversation import Conversation, Turn
from got_core.pipelines.inpainting import PreviousImages
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.check import PlanProblem, plan_problems, repairable, repaired
from got_core.planning.plan import Plan
from got_core.studio.files import Saved
from got_core.studio.settings import Limits, Refused, Settings, checked_integer, checked_text
from got_core.types import to_pil

MOST_UNDO = 100
"""Changes of a plan that can be undone."""

PATIENCE = 0.5
"""Seconds that a request waits for another one of the same visitor to end."""

MOST_TRIED = 6
"""Boxes of a plan whose repair is tried after each change: with 24, that takes seconds."""

LONGEST_PHRASE = 80
"""Characters of an object's name in a box."""

NEW_BOX = (350, 350, 650, 650)
"""Where an object is added without a box, in thousandths."""


def changed_plan(plan: Plan, message: object) -> Plan:
    """Change a plan as a message of the canvas says.

    Raises:
        Refused: The message is not a change, or this plan cannot be changed so.
    """
    try:
        match message:
            case {"action": "resize", "region": int(index), "box": [*box]} if all(type(edge) is int for edge in box):
                return plan.resize(index, box)
            case {"action": "remove", "region": int(index)}:
                return plan.remove(index)
            case {"action": "replace", "region": int(index), "phrase": phrase}:
                return plan.replace(index, checked_text(phrase, LONGEST_PHRASE, "object's name"))
            case {"action": "add", "phrase": phrase, "box": [*box]} if all(type(edge) is int for edge in box):
                return plan.add(checked_text(phrase, LONGEST_PHRASE, "object's name"), box)
            case {"action": "add", "phrase": phrase, **others} if "box" not in others:
                return plan.add(checked_text(phrase, LONGEST_PHRASE, "object's name"), NEW_BOX)
    except ValueError as error:
        raise Refused(one_line(error)) from error
    raise Refused("this is not a change of a plan")


class Session:
    """The work of one visitor; nothing of it is shared with others.

    Args:
        pipeline: Plans and generates, for all visitors.
        limits: Of requests.

    Attributes:
        conversation: The turns so far.
        plan: The one on the canvas, which may have been changed since it was written or its image was generated.
        edited: The turn whose image the plan edits; None for text-to-image.
        settings: Those of each turn, by its number.
        replaced: The turn that a turn is a new version of, by number.
        batches: The numbers of the turns that were generated at once, by the number of each.
        stop: Set to end the work in progress.
    """

    def __init__(self, pipeline: GoTPipeline, limits: Limits) -> None:
        self.pipeline = pipeline
        self.limits = limits
        self.stop = Event()
        self.plan: Plan | None = None
        self.edited: Turn | None = None
        self._working = Lock()
        self._begin(Conversation(pipeline))

    @property
    def image(self) -> Image.Image | None:
        """The image after the current turn."""
        return self.conversation.image

    @property
    def image_bytes(self) -> int:
        """Memory of its images as they are held: in bytes, and the sources of plans in floating point."""
        turns = self.conversation.turns
        sources = (turn.plan.source for turn in turns if turn.plan is not None)
        held = {id(source): source.nbytes for source in sources if source is not None}  # Seeds of a plan have one.
        return sum(turn.image.width * turn.image.height * 3 for turn in turns) + sum(held.values())

    @property
    def chain(self) -> str:
        """The plan's text, for people."""
        return "" if self.plan is None else readable(self.plan.chain)

    @property
    def problems(self) -> tuple[PlanProblem, ...]:
        """What is wrong with the plan."""
        return () if self.plan is None else plan_problems(self.plan)

    @property
    def repairable(self) -> bool:
        """Whether moving boxes leaves the plan with fewer problems; of plans of many boxes, whether it may."""
        if self.plan is None or not self.problems:
            return False
        many = self.plan.source is None and len(self.plan.regions) > MOST_TRIED
        return many or repairable(self.plan)

    @property
    def choices(self) -> tuple[Turn, ...]:
        """The turns that were generated at once with the current one, itself among them; none if it was alone."""
        turn = self.conversation.current
        numbers = () if turn is None else self.batches.get(turn.number, ())
        return tuple(self.conversation.turns[number] for number in numbers)

    @property
    def pending(self) -> bool:
        """Whether there is a plan that the image does not show."""
        return self.plan is not None and (self._shown is None or self.plan.chain != self._shown.chain)

    @property
    def compared(self) -> Turn | None:
        """The turn that the image is compared with: the version it replaces, or the turn it continues."""
        turn = self.conversation.current
        if turn is None:
            return None
        return self.conversation.turns[self.replaced[turn.number]] if turn.number in self.replaced else turn.previous

    @contextmanager
    def working(self) -> Iterator[None]:
        """Refuse all other changes of the session inside."""
        if not self._working.acquire(timeout=PATIENCE):
            raise Refused("your last request is still running: wait for it, or stop it")
        try:
            self.stop = Event()
            yield
        finally:
            self._working.release()

    def plan_request(self, prompt: object, settings: Settings, listener: ChainListener) -> None:
        """Plan the next turn."""
        request = checked_text(prompt, self.limits.prompt, "prompt")
        if not request:
            raise Refused("say what to generate" if self.image is None else "say what to change")
        plan = self.conversation.plan(request, seed=settings.seed, temperature=settings.temperature, listener=listener)
        self._put(plan, self.conversation.current, None)

    def generate(self, settings: Settings, callback: StepCallback, number: int = 1) -> None:
        """Generate the plan on the canvas as a turn; a turn that it replaces stays in the history.

        Args:
            settings: Of the image.
            callback: As `callback_on_step_end` of the pipeline.
            number: Images to choose from, each a turn, generated at once from the seed and those after it. The first
                one becomes the current turn.
        """
        if self.plan is None:
            raise Refused("there is no plan yet")
        self._check_plan(self.plan)
        if len(self.conversation.turns) + number > self.limits.turns:
            raise Refused(f"this conversation has {self.limits.turns} images: download what you need and start over")
        settings = settings.fitting(self.pipeline, editing=self.plan.source is not None)
        seeds = [(settings.seed + index) % (LARGEST_SEED + 1) for index in range(number)]
        images = self.pipeline.generate(
            [self.plan] * number,
            seed=seeds,
            num_inference_steps=settings.steps,
            semantic_scale=settings.semantic,
            spatial_scale=settings.spatial,
            reference_scale=settings.reference,
            keep=self._keep(self.plan, number) if settings.still else None,
            callback_on_step_end=callback,
        ).images
        replaced, first = self.conversation.current, len(self.conversation.turns)
        for image, seed in zip(images, seeds, strict=True):
            self.conversation.current = self.edited
            turn = self.conversation.append(self.plan, image, seed)
            self.settings[turn.number] = replace(settings, seed=seed)
            if replaced is not None and replaced is not self.edited:
                self.replaced[turn.number] = replaced.number
            if number > 1:
                self.batches[turn.number] = tuple(range(first, first + number))
        self.conversation.go_to(first)
        self._put(self.plan, self.edited, self.plan)

    def type_chain(self, text: object) -> None:
        """Take the chain from the text box."""
        typed = checked_text(text, self.limits.chain, "plan")
        if typed == self.chain.strip():
            return
        chain = from_readable(typed)
        if self.plan is not None:
            self._change(self.plan.rewritten(chain), typed=True)
            return
        plan = self.pipeline.given_plan(chain, "", self.image)
        self._check_plan(plan)
        self._put(plan, self.conversation.current, None)
        self._typing = True

    def catch_up(self, text: object) -> None:
        """Take the chain from the text box, unless the box still shows the text before the last changes."""
        if isinstance(text, str) and text.strip() not in self._sent:
            self.type_chain(text)

    def act(self, message: object) -> None:
        """Change the plan on the canvas, or begin one with its first box, as a message of the canvas says."""
        if self.plan is not None:
            self._change(changed_plan(self.plan, message), typed=False)
            return
        plan = changed_plan(self.pipeline.given_plan("", "", self.image), message)
        self._check_plan(plan)
        self._put(plan, self.conversation.current, None)

    def repair(self) -> None:
        """Move boxes so that the plan has fewer problems."""
        plan = None if self.plan is None else repaired(self.plan)
        if plan is None or plan == self.plan:
            raise Refused("moving boxes does not repair this plan: edit its text instead")
        self._change(plan, typed=False)

    def undo(self) -> None:
        """Undo the last change of the plan; without changes a plan without an image, without such a plan the turn."""
        if self._changes:
            self._set(self._changes.pop())
        elif self.pending:
            self._show(self.conversation.current)
        else:
            self._show(self.conversation.undo())

    def go_to(self, number: object) -> None:
        """Go back to any turn."""
        last = len(self.conversation.turns) - 1
        self._show(self.conversation.go_to(checked_integer(number, 0, last, "the image's number")))

    def start_over(self) -> None:
        """Begin again without an image."""
        self._begin(Conversation(self.pipeline))

    def open_image(self, image: Image.Image) -> None:
        """Begin again with an image to edit."""
        self._begin(Conversation(self.pipeline, image))

    def load(self, saved: Saved) -> None:
        """Begin again with a saved image, as if it had just been generated."""
        conversation = Conversation(self.pipeline, saved.source)
        plan = self.pipeline.given_plan(saved.chain, saved.prompt, saved.source)
        self._check_plan(plan)
        self._begin(conversation)
        image = to_pil(image_tensor(saved.image, plan.size))  # It may be much larger than those of this model.
        turn = conversation.append(replace(plan, earlier=saved.earlier), image, saved.settings.seed)
        self.settings[turn.number] = saved.settings
        self._show(turn)

    def saved(self) -> Saved:
        """The current image with all that it was generated from.

        Raises:
            Refused: No image has been generated.
        """
        turn = self.conversation.current
        if turn is None or turn.plan is None:
            raise Refused("there is no generated image to save yet")
        source = None if turn.previous is None else turn.previous.image
        settings = self.settings[turn.number]
        return Saved(turn.image, turn.plan.prompt, turn.plan.chain, settings, source, turn.plan.earlier)

    def _begin(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.settings: dict[int, Settings] = {}
        self.replaced: dict[int, int] = {}
        self.batches: dict[int, tuple[int, ...]] = {}
        self._show(conversation.current)

    def _show(self, turn: Turn | None) -> None:
        if turn is None or turn.plan is None:
            self._put(None, None, None)
        else:
            self._put(turn.plan, turn.previous, turn.plan)

    def _put(self, plan: Plan | None, edited: Turn | None, shown: Plan | None) -> None:
        """Put a plan on the canvas; `shown` is the one that the image was generated from."""
        self._shown = shown
        self.edited = edited
        self._changes: list[Plan] = []
        self._typing = False
        self._sent: set[str] = {""} if plan is None else set()
        self._set(plan)

    def _set(self, plan: Plan | None) -> None:
        self.plan = plan
        if plan is not None:
            self._sent.add(self.chain.strip())

    def _change(self, plan: Plan, typed: bool) -> None:
        self._check_plan(plan)
        if self.plan is not None and not (typed and self._typing):
            self._changes = [*self._changes[1 - MOST_UNDO :], self.plan]
        self._typing = typed
        self._set(plan)

    def _keep(self, plan: Plan, number: int) -> PreviousImages | None:
        """Choose what is kept: the rest of the version that is replaced, else of the image that is edited."""
        turn = self.conversation.current
        previous = None if turn is None or turn is self.edited else turn.plan
        if turn is not None and previous is not None and previous.regions != plan.regions:
            return GoTPipelineOutput([turn.image] * number, (previous,) * number, None)
        return self.edited.image if self.edited is not None and plan.regions else None

    def _check_plan(self, plan: Plan) -> None:
        if len(plan.regions) > self.limits.boxes:
            raise Refused(f"the plan has {len(plan.regions)} boxes; at most {self.limits.boxes} are allowed")


class Sessions:
    """Sessions by the names of their pages.

    Args:
        new: Makes a session.
        limits: How many are held in memory, and for how long.
        clock: Returns seconds.
    """

    def __init__(self, new: Callable[[], Session], limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._new = new
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        self._sessions: OrderedDict[str, tuple[float, str, Session]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def of(self, name: str | None, address: str = "") -> Session:
        """Look up the session of a page, or make one.

        Where there are too many, those of the address that has most of them are removed first, so that a visitor does
        not push out the others.

        Args:
            name: The page's.
            address: The visitor's.

        Raises:
            Refused: The page has no name.
        """
        if not name or len(name) > 100:
            raise Refused("this page has no name: load it again")
        with self._lock:
            session = self._sessions[name][2] if name in self._sessions else self._new()
            self._sessions[name] = (self._clock(), address, session)
            self._sessions.move_to_end(name)
            while len(self._sessions) > 1 and (removed := self._to_remove()) is not None:
                self._sessions.pop(removed)[2].stop.set()
        return session

    def remove(self, name: str | None) -> None:
        """Remove the session of a closed page, and end its work."""
        with self._lock:
            _, _, session = self._sessions.pop(name or "", (0.0, "", None))
        if session is not None:
            session.stop.set()

    def remove_all(self) -> None:
        """Remove all sessions, when the server ends."""
        for name in list(self._sessions):
            self.remove(name)

    def _to_remove(self) -> str | None:
        """Choose a session to remove, never the one used last; None while there are not too many."""
        *earlier, _ = self._sessions
        if self._clock() - self._sessions[earlier[0]][0] > self._limits.idle_seconds:
            return earlier[0]
        number, size = Counter[str](), Counter[str]()
        for _, address, session in self._sessions.values():
            number[address] += 1
            size[address] += session.image_bytes
        if size.total() > self._limits.session_bytes:
            most = size
        elif number.total() > self._limits.sessions or max(number.values()) > self._limits.address_sessions:
            most = number
        else:
            return None
        address = max(most, key=most.__getitem__)
        return next((name for name in earlier if self._sessions[name][1] == address), earlier[0])
