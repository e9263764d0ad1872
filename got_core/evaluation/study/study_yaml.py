"""YAML as studies are written in: a key that stands twice is a mistake, not the last one's value."""

from collections.abc import Hashable
from typing import Any

import yaml

from got_core.errors import one_line


class _DistinctKeys(yaml.SafeLoader):
    """Refuses mappings in which a key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                mark = node.value[place][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands here twice", mark)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """What the text says.

    Raises:
        ValueError: It is no YAML, or a key stands twice in a mapping; names the line where it is known.
    """
    try:
        return yaml.load(text, _DistinctKeys)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"line {line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from None
