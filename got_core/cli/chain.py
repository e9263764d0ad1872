"""`got chain convert`."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from got_core.cli.parsing import Size
from got_core.errors import UserError, as_user_error, one_line


def convert(
    file: str,
    *,
    from_: str,
    to: str,
    unit: Literal["thousandths", "pixels", "fractions"] | None = None,
    size: Size | None = None,
    name: Sequence[str] = (),
    output: str | None = None,
) -> None:
    """Convert boxes from one form in use to another.

    Forms are got, got_r1, plain, readable, lists, fullwidth, qwen_vl, internvl, qwen2_5_vl, qwen3_vl, ideogram, bbox,
    coco and yolo; got_core/chain/README.md has an example of each. What is not read is printed on stderr, and the
    status is 1 then.

    Args:
        file: With one text, such as a chain or the JSON of an image; - for standard input.
        from_: Form of the file.
        to: Form to write.
        unit: Of the file's coordinates, where the form does not say, or says otherwise.
        size: Of the image as HEIGHTxWIDTH in pixels, for forms in pixels.
        name: Of a class of YOLO, in order; may be given several times.
        output: File to write; by default standard output.

    Raises:
        UserError: The file is not of that form, or a size is missing.

    Example:
        got chain convert answer.json --from qwen2_5_vl --to got --size 768x1024
    """
    from got_core.chain.dialects import read_dialect, write_dialect
    from got_core.weights.files import write_whole

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({one_line(error)})") from None
    with as_user_error(ValueError), warnings.catch_warnings(record=True) as guesses:
        warnings.simplefilter("always")
        read = read_dialect(text.rstrip("\n"), from_, unit=unit, size=size, names=name)
        written = write_dialect(read.chain, to, size=size, names=name, caption=read.caption)
    for line in (*(f"warning: {each.message}" for each in guesses), *read.problems):
        print(" ".join(line.split()), file=sys.stderr)
    if output is None:
        print(written)
    else:
        write_whole(Path(output), written + "\n")
    if any(problem.startswith("dropped") for problem in read.problems):
        sys.exit(1)
