"""Shapes and types are checked while the tests run; fixtures' modules can be imported by name."""

import sys
from pathlib import Path
from pkgutil import iter_modules

import torch
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
CHECKER = "type_checker.check"

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))

# Not in the studio: Gradio asks its handlers whether they are generators, which checked functions deny. Nor where texts
# are read and nearly nothing has a shape: mypy checks those types, and checked calls take three times as long.
UNCHECKED = ("chain", "planning", "studio")
CORE = [f"got_core.{part.name}" for part in iter_modules([str(ROOT / "got_core")]) if part.name not in UNCHECKED]
install_import_hook([*CORE, "backbones", "reasoners", "guidance"], CHECKER)
torch.set_num_threads(1)
