"""Counts lines of product code, without blank lines, comments, imports and docstrings: `python tests/size.py`."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("got_core", "backbones", "reasoners", "guidance")


def code_lines(text: str) -> int:
    """Lines of a module that are code; a text that stands alone, such as an attribute's, is a docstring."""
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        texts = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if texts or isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in left_out for number, line in lines
    )


def main() -> None:
    """Print the lines of each room, and of all."""
    files = {path: code_lines(path.read_text()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    rooms: Counter[str] = Counter()
    for path, lines in files.items():
        rooms["/".join(path.relative_to(ROOT).with_suffix("").parts[:2])] += lines
    for room, lines in rooms.most_common():
        print(f"{lines:6,} {room}")
    longest = max(len(path.read_text().splitlines()) for path in files)
    print(f"{sum(files.values()):6,} lines in {len(files)} files; the longest has {longest} lines of any kind")


if __name__ == "__main__":
    main()
