"""Which code a class comes with, found by reading imports and not by running them."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def files_of(names: Iterable[str]) -> dict[str, list[Path]]:
    """The Python files that names lead to within their own top-level packages, by package.

    Every import counts, also one inside a function; a module whose name is put together as the code runs does not.

    Args:
        names: Dotted names of modules, or of what stands in them.
    """
    waiting = list(names)
    found: dict[str, set[Path]] = {name.partition(".")[0]: set() for name in waiting}
    while waiting:
        package, *parts = waiting.pop().split(".")
        if package not in found:
            continue
        for file, inside in _files(package, parts):
            if file not in found[package]:
                found[package].add(file)
                waiting += _imports(file, inside, file.stat().st_mtime_ns)
    return {package: sorted(files) for package, files in found.items()}


def _files(package: str, parts: list[str]) -> Iterator[tuple[Path, str]]:
    """The file of a module and those of the packages it lies in, each with the package that it lies in."""
    spec = find_spec(package)
    if spec is not None and spec.submodule_search_locations is None:
        yield Path(str(spec.origin)), ""
    for folder in (spec and spec.submodule_search_locations) or ():
        for depth in range(len(parts) + 1):
            inner = Path(folder, *parts[:depth])
            for file, above in ((inner / "__init__.py", depth), (inner.with_suffix(".py"), depth - 1)):
                if file.is_file():
                    yield file, ".".join([package, *parts[: max(above, 0)]])


@cache
def _imports(file: Path, inside: str, changed: int) -> list[str]:
    """The names that a file imports; read anew when it has changed."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found += (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside.split(".")[: inside.count(".") + 2 - node.level] if node.level else []
            base = [*above, *filter(None, [node.module])]
            found += (".".join([*base, name.name]) for name in node.names)
    return found
