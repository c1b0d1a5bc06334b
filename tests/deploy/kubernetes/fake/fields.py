"""Sets of fields, as in managedFields: of an object, of what differs between two, and as FieldsV1. Pure.

A field's path is a tuple of elements as FieldsV1 writes them: f:NAME for a field, k:{KEYS} for an item of a list that
is told by keys, v:VALUE for a member of a set. Lists and maps that are atomic are one field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.deploy.kubernetes.fake import schema
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.schema import Node

Path = tuple[str, ...]
Fields = frozenset[Path]
_NOT_OWNED: tuple[Path, ...] = (
    ("f:apiVersion",), ("f:kind",), ("f:metadata", "f:name"), ("f:metadata", "f:namespace"),
    ("f:metadata", "f:uid"), ("f:metadata", "f:resourceVersion"), ("f:metadata", "f:generation"),
    ("f:metadata", "f:creationTimestamp"), ("f:metadata", "f:managedFields"), ("f:metadata", "f:selfLink"),
    ("f:metadata", "f:deletionTimestamp"), ("f:metadata", "f:deletionGracePeriodSeconds"),
)  # fmt: skip
_NEVER_NEW = frozenset({"f:metadata", "f:spec", "f:template", "f:strategy", "f:status", "f:selector"})
"""Parts that every object has, so that no change adds them as a whole."""


@dataclass(slots=True)
class Difference:
    modified: set[Path] = field(default_factory=set)
    added: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)


def stripped(fields: Iterable[Path]) -> Fields:
    """Without what nobody owns."""
    return frozenset(one for one in fields if not any(one[: len(no)] == no for no in _NOT_OWNED))


def of(node: Node, value: Any) -> Fields:
    """What an apply of the value owns."""
    found: set[Path] = set()
    _collect(node, value, (), found, new=False)
    return stripped(found)


def _collect(node: Node, value: Any, path: Path, found: set[Path], *, new: bool) -> None:
    """new: as something that a change has added, where maps are fields of their own too."""
    if isinstance(value, dict) and value and not node.map_atomic:
        if new and path and path[-1] not in _NEVER_NEW:
            found.add(path)
        for name, one in value.items():
            _collect(node.field(name) or Node({}), one, (*path, f"f:{name}"), found, new=new)
    elif isinstance(value, list) and value and node.keys:
        for one in value:
            item = (*path, element(node, one))
            found.add(item)
            _collect(node.items, one, item, found, new=new)
    elif isinstance(value, list) and value and node.set:
        found.update((*path, element(node, one)) for one in value)
    else:
        found.add(path)


def element(node: Node, item: Any) -> str:
    """Of an item of a list that is told by keys or is a set."""
    if node.keys:
        return "k:" + json.dumps(schema.keys_of(node, item), separators=(",", ":"), sort_keys=True)
    return "v:" + json.dumps(item, separators=(",", ":"))


def items_by_key(node: Node, value: list[Any]) -> dict[str, Any]:
    return {element(node, one): one for one in value}


def compare(node: Node, before: Any, after: Any) -> Difference:
    found = Difference()
    _compare(node, before, after, (), found)
    return Difference(*(set(stripped(one)) for one in (found.modified, found.added, found.removed)))


def _compare(node: Node, before: Any, after: Any, path: Path, found: Difference) -> None:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict) and not node.map_atomic and (before or after):
        for name in {**before, **after}:
            child = node.field(name) or Node({})
            _either(child, before, after, name, (*path, f"f:{name}"), found)
    elif isinstance(before, list) and isinstance(after, list) and (node.keys or node.set) and (before or after):
        old, new = items_by_key(node, before), items_by_key(node, after)
        for name in {**old, **new}:
            _either(node.items, old, new, name, (*path, name), found)
    else:
        found.modified.add(path)


def _either(node: Node, old: Object, new: Object, name: str, path: Path, found: Difference) -> None:
    if name not in old:
        _collect(node, new[name], path, found.added, new=True)
    elif name not in new:
        _collect(node, old[name], path, found.removed, new=True)
    else:
        _compare(node, old[name], new[name], path, found)


def parents(fields: Iterable[Path]) -> set[Path]:
    """With everything that holds one of them."""
    return {one[:length] for one in fields for length in range(1, len(one) + 1)}


def without(node: Node, value: Any, gone: set[Path], path: Path = ()) -> Any:
    """The value without these fields and what they hold."""
    if isinstance(value, dict) and not node.map_atomic:
        return {
            name: without(node.field(name) or Node({}), one, gone, (*path, f"f:{name}"))
            for name, one in value.items()
            if (*path, f"f:{name}") not in gone
        }
    if isinstance(value, list) and (node.keys or node.set):
        return [
            without(node.items, one, gone, (*path, mark))
            for one in value
            if (*path, (mark := element(node, one))) not in gone
        ]
    return value


def encode(fields: Iterable[Path]) -> Object:
    """FieldsV1"""
    members = set(fields)
    root: Object = {}
    for path in sorted(members):
        node = root
        for one in path:
            node = node.setdefault(one, {})
    for path in members:
        node = root
        for one in path:
            node = node[one]
        if node:
            node["."] = {}
    return root


def decode(found: Object, path: Path = ()) -> Fields:
    members: set[Path] = set()
    for name, below in found.items():
        if name == ".":
            members.add(path)
        elif not below:
            members.add((*path, name))
        else:
            members |= decode(below, (*path, name))
    return frozenset(members)


def shown(path: Path) -> str:
    """As messages write it: .spec.template.spec.containers[name="c"].image"""
    return "".join(map(_shown, path))


def _shown(one: str) -> str:
    mark, rest = one[:1], one[2:]
    if mark == "f":
        return f".{rest}"
    if mark == "v":
        return f"[={rest}]"
    return "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(rest).items()) + "]"
