"""The core of the framework: interfaces and what composes them; it knows no implementation.

The names of `__all__` are imported when they are first used, each from its own module and with no more than it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from got_core.paths import importing

if TYPE_CHECKING:
    from got_core.model import GoTModel
    from got_core.pipelines.conversation import Conversation
    from got_core.pipelines.pipeline import GoTPipeline
    from got_core.planning.plan import Plan
    from got_core.training.system import GoTSystem

_MODULES = {
    "Conversation": "got_core.pipelines.conversation",
    "GoTModel": "got_core.model",
    "GoTPipeline": "got_core.pipelines.pipeline",
    "GoTSystem": "got_core.training.system",
    "Plan": "got_core.planning.plan",
}

__all__ = ["Conversation", "GoTModel", "GoTPipeline", "GoTSystem", "Plan"]


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with importing():
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
