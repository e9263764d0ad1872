"""Reads recipes and configurations of saved models; inference reads only components and plain values."""

import inspect
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, is_dataclass
from enum import Enum
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from importlib.util import find_spec
from json import loads
from pathlib import Path, PurePath
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import unquote, urlparse

import yaml
from torch.nn import Module
from torch.nn.modules.module import register_module_module_registration_hook

from got_core.diffusion.sampling import GuidanceScales, Sampling, check_interval
from got_core.errors import UserError, did_you_mean, one_line
from got_core.interfaces import DenoisingBackbone, GuidanceEncoder, LatentCodec, NoiseObjective, Reasoner
from got_core.model import GoTModel
from got_core.paths import ROOT, importing, only_inside

INTERFACES: Mapping[str, type] = {
    "reasoner": Reasoner,
    "guidance": GuidanceEncoder,
    "backbone": DenoisingBackbone,
    "codec": LatentCodec,
    "objective": NoiseObjective,
}
"""The components of a model by argument, and the interface of each."""

SCALES = ("generation_scales", "editing_scales")
COUNTS = ("sampling_steps", "max_chain_tokens")
FAST = "fast"
SAMPLING = (*SCALES, *COUNTS, FAST)
"""The other arguments of a model, which configure sampling."""

OWN_PACKAGES = ("got_core", "backbones", "reasoners", "guidance")
"""Packages of this project, which are installed together."""

MOVED = {"got_core.codecs.": "got_core.diffusion.codecs.", "got_core.objectives.": "got_core.diffusion.objectives."}
"""Modules of component classes in configurations of version 0.1.0, and where they are now."""

REMOVED = {"got_core.diffusion.objectives.EpsilonDiffusion": {"snr_gamma": None, "solver": "dpm_solver"}}
"""Arguments that classes had in version 0.1.0 and their defaults, which a configuration may still have."""

ADDED = {"guidance.semantic_spatial.SemanticSpatialGuidance": {"box_edges": "nearest"}}
"""Arguments that classes have got since version 0.1.0, and what it did; a configuration that lacks them is its."""

MOST_MODULES = 20_000
"""Of a model that is opened; a full-size one has some thousands."""

_CLASS, _ARGUMENTS = "class_path", "init_args"


def add_working_directory() -> None:
    """Let class paths name modules of the working directory, after everything that is installed."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


class _RepeatedKey(yaml.MarkedYAMLError):
    """A key stands twice in one mapping."""


class _DistinctKeys(yaml.SafeLoader):
    """A loader that refuses a mapping with a key twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen:
                raise _RepeatedKey(problem=f"the key {key.value!r} stands here twice", problem_mark=key.start_mark)
            seen.add(name)
        return node


def check_keys(text: str) -> None:
    """Check a part of a recipe, such as a value of the command line, for keys that stand twice in a mapping.

    Raises:
        UserError: One does. Text that is not YAML passes.
    """
    try:
        yaml.compose(text, _DistinctKeys)
    except _RepeatedKey as error:
        line = one_line(ValueError(text.splitlines()[error.problem_mark.line]))
        raise UserError(f"{error.problem}: {line}") from None
    except yaml.YAMLError:
        return


def read_recipe(file: Path, kind: str = "recipe") -> dict[str, Any]:
    """Read a recipe's file, unresolved.

    Args:
        file: YAML.
        kind: What the file is, as errors call it.

    Raises:
        UserError: It is not readable YAML, is larger than 1 MiB, has a key twice in a mapping, or is not a mapping.
    """
    try:
        if file.exists() and not file.is_file():
            raise OSError
        if file.stat().st_size > 2**20:
            raise UserError(f"{file}: larger than {2**20:,} bytes, so not a {kind}")
        settings = yaml.load(file.read_text(encoding="utf-8"), _DistinctKeys)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{file}, line {line}: {error.problem}") from None
    except UserError:
        raise
    except Exception as error:  # PyYAML raises whatever its constructors of tagged values raise.
        raise UserError(f"{file}: not a readable {kind} ({type(error).__name__})") from None
    if not isinstance(settings, dict):
        raise UserError(f"{file}: not a {kind}, which is a mapping of names to values")
    return settings


@dataclass(frozen=True)
class ModelSettings:
    """The part of a recipe's `model` that inference uses: components and the settings of sampling.

    A component is given by its class, a subclass of its interface, and by plain values for arguments: no class,
    function, or reference to another value. The optimizer and all other arguments of training are left out.

    Attributes:
        components: `class_path` and `init_args` of each component.
        sampling: Arguments of `GoTModel` in `SAMPLING`.
        folder: Where they were read; named in errors.
        inside: The folder of a saved model, in which all its files must be. None for a run, which may name the folders
            of pretrained models.
        trusted: A folder whose code the user trusts. Classes are in it or in installed packages.
    """

    components: Mapping[str, Mapping[str, Any]]
    sampling: Mapping[str, Any]
    folder: Path
    inside: Path | None
    trusted: Path | None = None

    @classmethod
    def read(cls, model: Any, folder: Path, inside: Path | None, trusted: Path | None = None) -> "ModelSettings":
        """Read what inference uses of what stands under `model`.

        Raises:
            UserError: A component is missing, or a value is not plain.
        """
        arguments = model.get(_ARGUMENTS) if isinstance(model, dict) else None
        if not isinstance(arguments, dict):
            raise UserError(f"{folder}: there is no model in its config.yaml")
        lacking = [part for part in INTERFACES if part not in arguments]
        if lacking:
            raise UserError(f"{folder}: {model.get(_CLASS)} has no {' and no '.join(lacking)}, so it generates nothing")
        used = {name: arguments[name] for name in (*INTERFACES, *SAMPLING) if name in arguments}
        components = {}
        for part in INTERFACES:
            path, given = _class_and_arguments(used[part], folder, part)
            _check_plain(given, folder, inside is not None)
            components[part] = {_CLASS: path, _ARGUMENTS: given}
        sampling = {name: used[name] for name in SAMPLING if name in used}
        _check_plain(sampling, folder, inside is not None)
        return cls(components, sampling, folder, inside, trusted)

    def build(self) -> GoTModel:
        """Build the model; its weights are those that its components load, or random.

        Raises:
            UserError: A class may not be used or does not take its arguments, or components do not fit; in one line.
        """
        if self.trusted is not None and str(self.trusted) not in sys.path:
            sys.path.append(str(self.trusted))
        with nullcontext() if self.inside is None else only_inside(self.inside), _few_modules():
            classes = {part: self._class(part) for part in INTERFACES}
            components = {part: self._build(part, classes[part]) for part in INTERFACES}
            try:
                return GoTModel(**components, **_sampling(self.sampling))
            except ValueError as error:
                raise UserError(f"{self.folder}: {one_line(error)}") from error

    def as_plain(self) -> dict[str, Any]:
        """Return the settings as a recipe has them under `model`."""
        return {
            _CLASS: f"{GoTModel.__module__}.{GoTModel.__qualname__}",
            _ARGUMENTS: {**self.components, **self.sampling},
        }

    def _class(self, part: str) -> type:
        path = self.components[part][_CLASS]
        module, _, name = path.rpartition(".")
        if not module or not all(piece.isidentifier() and not piece.startswith("_") for piece in path.split(".")):
            raise UserError(f"{self.folder}: {path!r} is not the path of a public class, as its {part} must be")
        if not _is_installed(module) and not self._is_trusted(module):
            raise UserError(
                f"{self.folder}: {path} is not from an installed package, as classes of a model that is opened must "
                "be; if you trust the code in a folder that has it, name the folder by --trust-code FOLDER "
                "(trust_code= in Python)"
            )
        try:
            with importing():
                named = getattr(import_module(module), name)
        except (Exception, SystemExit) as error:  # A module may do anything while it is imported.
            raise UserError(f"{self.folder}: {path} cannot be imported ({one_line(error)})") from error
        interface = INTERFACES[part]
        if not isinstance(named, type) or not issubclass(named, interface) or inspect.isabstract(named):
            raise UserError(f"{self.folder}: {path} is not a {interface.__name__}")
        return named

    def _is_trusted(self, module: str) -> bool:
        """Say whether a module would be read from a file in the folder that is trusted; nothing is imported."""
        file = None if self.trusted is None else _file_of(module)
        return self.trusted is not None and file is not None and file.is_relative_to(self.trusted.resolve())

    def _build(self, part: str, component: type) -> Any:
        given = self.components[part][_ARGUMENTS]
        taken = {
            name: parameter
            for name, parameter in inspect.signature(component).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        for name in given.keys() - taken.keys():
            raise UserError(f"{self.folder}: {component.__name__} takes no '{name}'{did_you_mean(name, taken)}")
        try:
            hints = get_type_hints(component.__init__)
        except (NameError, TypeError):
            hints = {}
        values = {
            name: _as_declared(value, hints.get(name))
            for name, value in given.items()
            if not _names_default(value, taken[name].default)
        }
        try:
            return component(**values)
        except UserError:
            raise
        except (ValueError, OSError) as error:
            raise UserError(f"{self.folder}: {one_line(error)}") from error
        except Exception as error:  # Whatever a class raises on values that it does not expect.
            raise UserError(
                f"{self.folder}: {component.__name__} cannot be built from its arguments "
                f"({type(error).__name__}: {one_line(error)})"
            ) from error


@contextmanager
def _few_modules() -> Iterator[None]:
    """Stop the construction of a model at `MOST_MODULES` (ValueError): a wrong number of layers would never end."""
    count = 0

    def counted(parent: Module, name: str, child: Module | None) -> None:
        nonlocal count
        count += 1
        if count > MOST_MODULES:
            raise ValueError(f"the model would have more than {MOST_MODULES:,} modules")

    handle = register_module_module_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def _class_and_arguments(settings: Any, folder: Path, part: str) -> tuple[str, dict[str, Any]]:
    arguments = settings.get(_ARGUMENTS) or {} if isinstance(settings, dict) else None
    if not isinstance(arguments, dict) or not isinstance(settings.get(_CLASS), str):
        raise UserError(f"{folder}: its {part} is not a class_path with init_args")
    path = settings[_CLASS]
    for old, new in MOVED.items():
        path = new + path.removeprefix(old) if path.startswith(old) else path
    removed = REMOVED.get(path, {})
    used = {name: value for name, value in arguments.items() if name not in removed or value != removed[name]}
    return path, {**ADDED.get(path, {}), **used}


def _check_plain(settings: Any, folder: Path, confined: bool) -> None:
    """Check that settings are plain: numbers, texts, lists and mappings.

    Raises:
        UserError: They name a class, refer to another value, are out of bounds or, if confined, lead out of the folder.
    """
    for value in _values(settings, folder):
        if isinstance(value, dict):
            if _CLASS in value:
                raise UserError(
                    f"{folder}: {value[_CLASS]!r} is no component; a model is opened with plain values only"
                )
        elif isinstance(value, str):
            if "${" in value:
                raise UserError(f"{folder}: its config.yaml may not refer to other values, as {value[:80]!r} does")
            if len(value) > 100_000:
                raise UserError(f"{folder}: its config.yaml has a text of more than 100,000 characters")
            if confined and (value.startswith(("/", "~", "\\")) or ".." in PurePath(value).parts):
                raise UserError(f"{folder}: its config.yaml names {value[:80]!r}, which is not in the folder")
        elif value is not None and not isinstance(value, list | bool | int | float):
            raise UserError(f"{folder}: its config.yaml has a {type(value).__name__}, which is not a plain value")
        elif isinstance(value, int | float) and abs(value) > 10**9 and value != float("inf"):
            raise UserError(f"{folder}: its config.yaml has the number {value:g}, which is out of bounds")


def _values(settings: Any, folder: Path) -> Iterator[Any]:
    """Yield settings and all values and names inside them; YAML aliases count each time, so cycles are refused.

    Raises:
        UserError: There are too many values or levels.
    """
    waiting, count = [(settings, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > 10_000 or depth > 20:
            raise UserError(f"{folder}: its config.yaml has more than 10,000 values or more than 20 levels")
        yield value
        inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
        waiting += [(each, depth + 1) for each in inner]


def _sampling(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `GoTModel` from plain values.

    Raises:
        ValueError: A value is not valid.
    """
    arguments: dict[str, Any] = {name: values[name] for name in COUNTS if name in values}
    for name, value in arguments.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    for name in SCALES:
        if name in values:
            try:
                arguments[name] = GuidanceScales(**{key: float(scale) for key, scale in values[name].items()})
            except (TypeError, ValueError, AttributeError):
                raise ValueError(f"{name} must have numbers for semantic, spatial and reference") from None
    if (fast := values.get(FAST)) is not None:
        if not isinstance(fast, dict) or not {"steps"} <= fast.keys() <= {"steps", "guidance_interval"}:
            raise ValueError(f"{FAST} must have steps and may have a guidance_interval, not {fast!r}")
        interval = fast.get("guidance_interval")
        arguments[FAST] = Sampling(fast["steps"], None if interval is None else check_interval(interval))
    return arguments


def _as_declared(value: Any, hint: Any) -> Any:
    """Return a plain value as the type that an argument declares: a tuple, dataclass, path or enumeration."""
    if isinstance(value, dict) and isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{name: _as_declared(inner, hints.get(name)) for name, inner in value.items()})
    if isinstance(value, list):
        inner = get_args(hint)
        if get_origin(hint) is tuple:
            return tuple(value)
        if get_origin(hint) is list and inner:
            return [_as_declared(each, inner[0]) for each in value]
    if isinstance(value, str) and isinstance(hint, type) and issubclass(hint, PurePath | Enum):
        return hint[value] if issubclass(hint, Enum) else hint(value)
    if isinstance(value, dict | list | str) and get_args(hint) and get_origin(hint) not in (tuple, list, dict):
        candidates = (_as_declared(value, each) for each in get_args(hint))
        return next((each for each in candidates if type(each) is not type(value)), value)
    return value


def _names_default(value: Any, default: Any) -> bool:
    """Say whether a text is the path of an argument's default class or function, as in resolved recipes."""
    module, _, name = value.rpartition(".") if isinstance(value, str) else ("", "", "")
    return callable(default) and getattr(sys.modules.get(module), name, None) is default


def _is_installed(module: str) -> bool:
    """Say whether a module would be read from a file of an installed package; nothing is imported.

    Files in the working directory and in the model's folder are not.
    """
    file = _file_of(module)
    return file is not None and any(file.is_relative_to(folder) for folder in _package_folders())


def _file_of(module: str) -> Path | None:
    """Return the file that a module would be read from; nothing is imported."""
    package, *inner = module.split(".")
    try:
        spec = find_spec(package)
        name = package
        for piece in inner:
            name = f"{name}.{piece}"
            folders = None if spec is None else spec.submodule_search_locations
            spec = None if folders is None else PathFinder.find_spec(name, list(folders))
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return Path(spec.origin).resolve()


def _package_folders() -> Iterator[Path]:
    """Yield the folders of installed packages: this project's own, the environment's, and editable installs."""
    yield from (ROOT / package for package in OWN_PACKAGES)
    environment = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        environment.add(site.getusersitepackages())
    yield from (Path(folder).resolve() for folder in environment)
    for distribution in distributions(path=list(environment)):
        origin = loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            yield Path(unquote(urlparse(origin["url"]).path)).resolve()
