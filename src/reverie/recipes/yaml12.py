"""YAML as its version 1.2 reads it: ``1:30``, ``no`` and ``010`` mean what they look like, and a mapping has each key once.

Version 1.1, which PyYAML reads, takes these for 90, false and 8, and the second of two equal keys for both.
"""

import re
from typing import Any, ClassVar

import yaml

TAG = "tag:yaml.org,2002:"
SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
"""The core schema (YAML 1.2.2, section 10.3): pattern of a plain scalar, and how it can begin."""

LONGEST = 100
"""Digits of a number."""
DEEPEST = 32
"""Levels of lists and mappings in each other; the reader goes down by recursion."""


class Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.level == DEEPEST and self.check_event(yaml.CollectionStartEvent):
            line = self.peek_event().start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: lists and mappings in more than {DEEPEST} levels")
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, list | dict):
                raise yaml.YAMLError(f"line {line}: a key is a word")
            if key in lines:
                raise yaml.YAMLError(f"the key {key} is given twice, in line {lines[key]} and in line {line}")
            lines[key] = line
        return super().construct_mapping(node, deep)

    def number(self, node: Any) -> int | float:
        text = self.construct_scalar(node).lower()
        if len(text) > LONGEST:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {len(text)} digits")
        if node.tag == f"{TAG}float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class Dumper(yaml.SafeDumper):
    """Quotes what either version would not take for text."""


for name, (pattern, first) in SCALARS.items():
    for kind in (Loader, Dumper):
        kind.add_implicit_resolver(TAG + name, re.compile(f"^(?:{pattern})$"), [*first, *([""] * (name == "null"))])
for name in ("int", "float"):
    Loader.add_constructor(TAG + name, Loader.number)


def load(text: str) -> Any:
    """What a YAML document says.

    Raises:
        ValueError: for text that is not YAML, or a mapping with a key given twice; it says in which line.
    """
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def dump(values: Any) -> str:
    """YAML that reads the same in both versions, keys in their order."""
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True)
