"""What one field manager has applied of an object: the object, less what the cluster and others have set. Pure.

Kubernetes keeps it as FieldsV1, a tree of keys: "f:name" a field, "k:{…}" the item of a list that has these keys,
"v:…" a value of a list, "." the thing itself.
https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

from __future__ import annotations

import copy
import json
from typing import Any

from modelserve.deploy.kubernetes.cluster import MANAGER

Json = dict[str, Any]


def of(found: Json) -> Json:
    """found: an object as the API has it, with "kind" and "apiVersion"."""
    own: Json = {}
    for entry in found["metadata"].get("managedFields") or ():
        if entry.get("manager") == MANAGER and entry.get("operation") == "Apply" and not entry.get("subresource"):
            own = _mapping(found, entry.get("fieldsV1") or {})
    metadata = {key: found["metadata"][key] for key in ("name", "namespace") if key in found["metadata"]}
    head = {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": metadata | own.pop("metadata", {})}
    return head | own


def _mapping(value: Json, fields: Json) -> Json:
    found: Json = {}
    for key, below in fields.items():
        name = key.removeprefix("f:")
        if key.startswith("f:") and name in value:
            found[name] = _any(value[name], below)
    return found


def _any(value: Any, fields: Json) -> Any:
    inner = {key: below for key, below in fields.items() if key != "."}
    if inner and isinstance(value, dict):
        return _mapping(value, inner)
    if inner and isinstance(value, list):
        return [one for item in value for one in _item(item, inner)]
    return copy.deepcopy(value)


def _item(item: Any, fields: Json) -> list[Any]:
    """The item as far as it is owned, in a list; an empty one where it is another's."""
    for key, below in fields.items():
        if key.startswith("k:") and isinstance(item, dict):
            keys = json.loads(key[2:])
            if all(item.get(name) == said for name, said in keys.items()):
                return [_any(item, below)]
        if key.startswith("v:") and item == json.loads(key[2:]):
            return [copy.deepcopy(item)]
    return []
