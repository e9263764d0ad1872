"""Shapes and types are checked while the tests run; fixtures' modules can be imported by name."""

import sys
from pathlib import Path

import torch
from jaxtyping import install_import_hook

CHECKER = "type_checker.check"

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))

install_import_hook(["got_core", "backbones", "reasoners", "guidance"], CHECKER)
torch.set_num_threads(1)
