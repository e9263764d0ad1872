"""Counts words that this field has other words for, in the product's names and texts: `python tests/words.py`.

Exits with 1 if one is in a public name, or more than `MOST` are in other names, messages and docstrings.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("got_core", "backbones", "reasoners", "guidance")

MOST = 40

NAMES = ("picture", "drawing", "figure", "told", "asked", "verdict", "talk", "thing", "former", "anew", "foretell")
"""Parts of names: image, generation, metric, requested, result, conversation, object, previous, again, predict."""

PHRASES = (
    *(rf"\b{word}s?\b" for word in NAMES if word != "asked"),
    r"\bheld against\b",
    r"\bcomes along\b",
    r"\bby chance\b",
    r"\bsee that\b",
)
"""Of texts; "asked" is only wrong as a noun, which names are."""

PLOTS = {"got_core/studies/report.py", "got_core/studies/runner.py"}
"""Files in which a figure is one of matplotlib's."""

_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_TEXT = re.compile("|".join(PHRASES), re.IGNORECASE)


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module defines: classes, functions, arguments, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def public(tree: ast.Module) -> set[str]:
    """Names that users of a module see: those of its top level and of its public classes, with their arguments."""
    seen: set[str] = set()
    bodies: list[ast.Module | ast.ClassDef] = [tree]
    while bodies:
        for node in bodies.pop().body:
            if isinstance(node, ast.ClassDef):
                seen.add(node.name)
                bodies.append(node)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                seen.add(node.name)
                if not node.name.startswith("_") or node.name == "__init__":
                    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                    seen.update(argument.arg for argument in arguments)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                seen.update(target.id for target in targets if isinstance(target, ast.Name))
    return {name for name in seen if not name.startswith("_")}


def words(name: str) -> set[str]:
    """The words of a name in snake or camel case that are in `NAMES`, singular or plural."""
    parts = {part.lower() for part in _PART.findall(re.sub("mask2former", "", name, flags=re.IGNORECASE))}
    return {word for word in NAMES if word in parts or f"{word}s" in parts}


def main() -> int:
    """Print every word with its place."""
    found: list[tuple[bool, str]] = []
    for path in sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        place, text = path.relative_to(ROOT).as_posix(), path.read_text()
        tree = ast.parse(text)
        allowed = {"figure"} if place in PLOTS else set()
        seen = public(tree)
        for part in words(path.stem):
            found.append((True, f"{place}: {part}"))
        for name, line in sorted(set(names(tree)), key=lambda entry: entry[1]):
            if words(name) - allowed:
                found.append((name in seen, f"{place}:{line}: {name}"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                hits = [hit for hit in _TEXT.findall(node.value) if hit.lower().rstrip("s") not in allowed]
                found.extend((False, f"{place}:{node.lineno}: {hit!r}") for hit in hits)
    in_public = [place for is_public, place in found if is_public]
    elsewhere = [place for is_public, place in found if not is_public]
    for heading, places in (("public names", in_public), ("elsewhere", elsewhere)):
        print(f"{len(places)} in {heading}", *places, sep="\n  ")
    return int(bool(in_public) or len(elsewhere) > MOST)


if __name__ == "__main__":
    sys.exit(main())
