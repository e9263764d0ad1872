"""Types of options that several commands have; values are checked when the command line is read."""

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from jsonargparse.typing import register_type, restricted_number_type

from got_core.paths import LARGEST_SEED

# Help texts and errors show the names of these classes.
_positive: Any = restricted_number_type("positive int", int, (">=", 1))
_not_negative: Any = restricted_number_type("non-negative int", int, (">", -1))
_seed: Any = restricted_number_type(f"int in 0..{LARGEST_SEED}", int, [(">", -1), ("<=", LARGEST_SEED)])
_rate: Any = restricted_number_type("positive number", float, [(">", 0), ("<", float("inf"))])
_memory: Any = type("gigabytes such as 80GB", (int,), {})
_size: Any = type("HEIGHTxWIDTH such as 256x256", (str,), {})

Count = Annotated[int, _positive]
Whole = Annotated[int, _not_negative]
Seed = Annotated[int, _seed]
Rate = Annotated[float, _rate]
Memory = Annotated[int, _memory]
Size = Annotated[tuple[int, int], _size]


def read_by(annotation: Any) -> Any:
    """Return the type that reads an option: that of `Annotated[int, type]`, without the `None` of a union."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not type(None))
    return annotation.__metadata__[0] if get_origin(annotation) is Annotated else annotation


def _read_size(text: str) -> Any:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError(text)
    return int(height), int(width)


def _read_memory(text: str) -> Any:
    number = text.upper().removesuffix("B").removesuffix("G")
    if not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise ValueError(text)
    return _memory(float(number) * 10**9)


register_type(_size, deserializer=_read_size, type_check=lambda value, _: isinstance(value, tuple))
register_type(_memory, deserializer=_read_memory)
