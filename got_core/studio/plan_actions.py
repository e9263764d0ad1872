"""What the page may do to a plan, read from messages that anyone may have sent."""

from collections.abc import Callable, Mapping

from got_core.chain.parser import Box, check_box, check_colour
from got_core.planning.plan import Plan
from got_core.studio.settings import Refused, checked_text, checked_whole

Action = Callable[[Plan], Plan]
"""A change of a plan; a ValueError says why it cannot be made."""

LONGEST_PHRASE = 80
"""Characters of what stands in a box."""

NEW_BOX: Box = (350, 350, 650, 650)
"""Where an object is added."""

_MOST_REGIONS = 10_000


def read_action(message: object) -> Action:
    """The change that a message asks for.

    Raises:
        Refused: It is none.
    """
    if not isinstance(message, Mapping):
        raise Refused("no change of a plan arrived")
    match message.get("action"):
        case "resize":
            return _resize(message)
        case "remove":
            return _remove(message)
        case "replace":
            return _replace(message)
        case "recolour":
            return _recolour(message)
        case "add":
            return _add(message)
    raise Refused("there is no such change of a plan")


def _resize(message: Mapping[str, object]) -> Action:
    index, box = _region(message), _box(message)
    return lambda plan: plan.resize(index, box)


def _remove(message: Mapping[str, object]) -> Action:
    index = _region(message)
    return lambda plan: plan.remove(index)


def _replace(message: Mapping[str, object]) -> Action:
    index, phrase = _region(message), _phrase(message)
    return lambda plan: plan.replace(index, phrase)


def _recolour(message: Mapping[str, object]) -> Action:
    index, colour = _region(message), checked_text(message.get("colour"), LONGEST_PHRASE, "colour")
    try:
        named = check_colour(colour)
    except ValueError as error:
        raise Refused(str(error)) from None
    return lambda plan: plan.recolour(index, named)


def _add(message: Mapping[str, object]) -> Action:
    phrase = _phrase(message)
    return lambda plan: plan.add(phrase, NEW_BOX)


def _region(message: Mapping[str, object]) -> int:
    return checked_whole(message.get("region"), 0, _MOST_REGIONS, "the box's number")


def _phrase(message: Mapping[str, object]) -> str:
    phrase = checked_text(message.get("phrase"), LONGEST_PHRASE, "object's name")
    if not phrase:
        raise Refused("say what stands in the box")
    return phrase


def _box(message: Mapping[str, object]) -> Box:
    box = message.get("box")
    if not isinstance(box, list) or any(isinstance(edge, bool) for edge in box):
        raise Refused("a box is four numbers")
    try:
        return check_box(box)
    except ValueError as error:
        raise Refused(str(error)) from None
