"""Merge patches, strategic ones and JSON patches. Pure."""

from __future__ import annotations

from typing import Any

from tests.deploy.kubernetes.fake import fields, status
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.objects import copied
from tests.deploy.kubernetes.fake.schema import Node


def patched(how: str, node: Node, before: Object, change: Any) -> Object:
    """how: merge, strategic or json."""
    if how == "json":
        return _json(copied(before), change)
    found: Object = _merged(node if how == "strategic" else None, before, change)
    return found


def _merged(node: Node | None, before: Any, change: Any) -> Any:
    """node: where lists are merged by their keys; None where they are replaced."""
    if isinstance(change, dict):
        found = copied(before) if isinstance(before, dict) else {}
        for name, one in change.items():
            if one is None:
                found.pop(name, None)
            else:
                child = node.field(name) if node else None
                found[name] = _merged(child, found.get(name), one)
        return found
    if node is not None and node.keys and isinstance(change, list) and isinstance(before, list):
        items = fields.items_by_key(node, before)
        for one in change:
            mark = fields.element(node, one)
            if one.get("$patch") == "delete":
                items.pop(mark, None)
            else:
                items[mark] = _merged(node.items, items.get(mark), one)
        return list(items.values())
    return copied(change)


def _json(found: Object, steps: list[Object]) -> Object:
    for step in steps:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        at: Any = found
        try:
            for part in way:
                at = at[int(part)] if isinstance(at, list) else at[part]
            _step(at, last, step)
        except (KeyError, IndexError, ValueError) as error:
            cause = f"the server rejected our request due to an error in our request: {step['path']}"
            raise status.failure(422, cause, "Invalid", {}) from error
    return found


def _step(at: Any, last: str, step: Object) -> None:
    if step["op"] not in ("add", "replace", "remove"):
        raise status.bad_request(f"unexpected operation: {step['op']}")
    if isinstance(at, list):
        index = len(at) if last == "-" else int(last)
        if step["op"] == "add":
            at.insert(index, step["value"])
        elif step["op"] == "replace":
            at[index] = step["value"]
        else:
            del at[index]
    elif step["op"] == "remove":
        del at[last]
    else:
        at[last] = step["value"]
