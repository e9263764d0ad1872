"""Types of options that more than one command has; their values are checked when the command line is read."""

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from jsonargparse.typing import NonNegativeInt, PositiveInt, register_type, restricted_number_type

from got_core.paths import LARGEST_SEED


class _Size(tuple[int, int]):
    """Height and width, read from HEIGHTxWIDTH."""


class _Memory(int):
    """Bytes, read from gigabytes."""


_Seed: Any = restricted_number_type("Seed", int, [(">=", 0), ("<=", LARGEST_SEED)])
_Rate: Any = restricted_number_type("_Rate", float, [(">", 0), ("<", float("inf"))])

Count = Annotated[int, PositiveInt]
Whole = Annotated[int, NonNegativeInt]
Seed = Annotated[int, _Seed]
Rate = Annotated[float, _Rate]
Memory = Annotated[int, _Memory]
Size = Annotated[tuple[int, int], _Size]

EXPECTED = {
    "PositiveInt": "a positive whole number",
    "NonNegativeInt": "a whole number",
    "float": "a number",
    "Seed": f"a whole number in 0..{LARGEST_SEED}",
    "_Rate": "a positive number",
    "_Memory": "gigabytes such as 80GB",
    "_Size": "HEIGHTxWIDTH such as 256x256",
}
"""What is expected of a value, by the name of the type that reads it."""


def read_by(annotation: Any) -> Any:
    """The type that reads an option from the command line: of `Annotated[int, Kind]`, also in a union, the kind."""
    if get_origin(annotation) is Annotated:
        return annotation.__metadata__[0]
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(read_by(kind) for kind in get_args(annotation))]  # noqa: UP007
    return annotation


def _size(text: str) -> Any:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError(EXPECTED["_Size"])
    return _Size((int(height), int(width)))


def _memory(text: str) -> Any:
    number = text.upper().removesuffix("B").removesuffix("G")
    if not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise ValueError(EXPECTED["_Memory"])
    return _Memory(float(number) * 10**9)


register_type(_Size, deserializer=_size)
register_type(_Memory, deserializer=_memory)
