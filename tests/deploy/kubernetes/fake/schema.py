"""The shape of each kind's objects: its fields, and how its lists are merged.

Read from the strict schemas that kubernetes-validate carries, and for KServe's kinds from
`tests/deploy/manifests/crds`. What has no schema there (the status of a KServe kind) may hold anything. Read once per
process, when first asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.deploy.kubernetes.fake.kinds import Kind, Object
from tests.deploy.manifests import schemas

_CRDS = Path(schemas.__file__).parent / "crds"
_CRD_FILES = {
    "InferenceService": "inference_service",
    "ServingRuntime": "serving_runtime",
    "ClusterServingRuntime": "serving_runtime",
}
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_ANY: Object = {}
_QUANTITY_FORM = re.compile(r"^[+-]?[0-9.]+[eEinumkKMGTP]*[-+]?[0-9]*$")
_QUANTITY_WHOLE = re.compile(r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(m|n|u|[kMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]+)?$")


@dataclass(frozen=True)
class Node:
    """The schema at one place of an object."""

    schema: Object
    ref: str = ""

    @property
    def type(self) -> str:
        """ "" where there is none, or several: a quantity of KServe's kinds is a number or a text."""
        said = self.schema.get("type", "")
        kinds = [one for one in said if one != "null"] if isinstance(said, list) else [str(said)]
        return kinds[0] if len(kinds) == 1 else ""

    @property
    def atomic(self) -> bool:
        """Whether it is owned and replaced as a whole."""
        if self.schema.get("x-kubernetes-map-type") == "atomic":
            return True
        return bool(self.schema.get("x-kubernetes-list-type", "atomic") == "atomic")

    @property
    def keys(self) -> tuple[str, ...]:
        """What tells the items of a list apart; () for a list without such keys."""
        found = self.schema.get("x-kubernetes-list-map-keys", ())
        return tuple(found) if self.schema.get("x-kubernetes-list-type") == "map" else ()

    @property
    def set(self) -> bool:
        return self.schema.get("x-kubernetes-list-type") == "set"

    @property
    def map_atomic(self) -> bool:
        return self.schema.get("x-kubernetes-map-type") == "atomic"

    @property
    def quantity(self) -> bool:
        return self.ref == _QUANTITY

    def field(self, name: str) -> Node | None:
        """None where no such field is declared."""
        properties = self.schema.get("properties")
        if properties is not None and name in properties:
            return _resolved(properties[name])
        more = self.schema.get("additionalProperties")
        if isinstance(more, dict):
            return _resolved(more)
        if properties is not None and not self.schema.get("x-kubernetes-preserve-unknown-fields"):
            return Node(_ANY) if more is True else None
        return Node(_ANY)

    @property
    def items(self) -> Node:
        return _resolved(self.schema.get("items", _ANY))


@cache
def _definitions() -> Object:
    version = schemas.VERSIONS[-1]
    file = schemas._ROOT / f"v{version}.0-local-strict" / "_definitions.json"
    found: Object = json.loads(file.read_text(encoding="utf-8"))["$defs"]
    return found


def _resolved(schema: Object) -> Node:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found = _definitions()[name]
        # Beside a reference there may be how the field is merged: it wins.
        return Node({**found, **{key: value for key, value in schema.items() if key.startswith("x-")}}, name)
    return Node(schema)


@cache
def of(kind: Kind) -> Node:
    file = _CRD_FILES.get(kind.name)
    if file:
        schema: Object = json.loads((_CRDS / f"{file}.json").read_text(encoding="utf-8"))
        meta = {"$ref": f"#/$defs/{_META}"}
        return Node({**schema, "properties": {**schema["properties"], "metadata": meta, "status": _ANY}})
    group = kind.group.partition(".")[0] or "core"
    found = _definitions().get(f"io.k8s.api.{group}.{kind.version}.{kind.name}")
    return Node(_ANY) if found is None else Node(found)


def typed(kind: Kind, found: Object) -> list[tuple[str, str]]:
    """What an apply has against it: (path as apply writes it, words), in the order of the document."""
    return list(_faults(of(kind), found, "", by_key=True))


def unknown(kind: Kind, found: Object) -> list[str]:
    """The fields that are not declared, as a create names them: spec.template.spec.containers[0].imagee."""
    return [path for path, words in _faults(of(kind), found, "", by_key=False) if words == _UNDECLARED]


_UNDECLARED = "field not declared in schema"


def _faults(node: Node, value: Any, path: str, *, by_key: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if node.type not in ("", "object"):
            yield path, f"expected {_expected(node)}, got &value.valueUnstructured{{Value:{_go(value)}}}"
            return
        for name, one in value.items():
            child = node.field(name)
            below = f"{path}.{name}" if path or by_key else name
            if child is None:
                yield below, _UNDECLARED
            else:
                yield from _faults(child, one, below, by_key=by_key)
    elif isinstance(value, list):
        if node.type not in ("", "array"):
            yield path, f"expected {_expected(node)}, got &value.valueUnstructured{{Value:{_go(value)}}}"
            return
        for index, one in enumerate(value):
            mark = key_path(node, one) if by_key and node.keys and isinstance(one, dict) else f"[{index}]"
            yield from _faults(node.items, one, path + mark, by_key=by_key)
    elif value is not None and (words := _scalar_fault(node, value)):
        yield path, words


def _expected(node: Node) -> str:
    return {"integer": "numeric (int or float)", "number": "numeric (int or float)", "array": "list"}.get(
        node.type, "map" if node.type == "object" else node.type
    )


def _go(value: Any) -> str:
    return "map[string]interface {}" if isinstance(value, dict) else "[]interface {}"


def _scalar_fault(node: Node, value: Any) -> str:
    kinds: dict[str, tuple[type, ...]] = {
        "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "object": (), "array": (),
    }  # fmt: skip
    if node.type not in kinds:
        return ""
    told = isinstance(value, bool)
    if node.type in ("object", "array"):
        return f"expected {_expected(node)}, got {_go_scalar(value)}"
    if isinstance(value, kinds[node.type]) and (told == (node.type == "boolean")):
        return ""
    return f"expected {_expected(node)}, got {_go_scalar(value)}"


def _go_scalar(value: Any) -> str:
    shown = json.dumps(value) if not isinstance(value, str) else value
    return f"&value.valueUnstructured{{Value:{shown}}}"


def keys_of(node: Node, item: Object) -> Object:
    """The keys of an item of a list; a key that is left out has the value that its schema defaults to."""
    found = {}
    for key in sorted(node.keys):
        declared = node.items.field(key)
        default = declared.schema.get("default") if declared else None
        if default is None and key == "protocol":
            default = "TCP"  # the schemas of kubernetes-validate have lost the defaults of OpenAPI
        if item.get(key, default) is not None:
            found[key] = item.get(key, default)
    return found


def key_path(node: Node, item: Object) -> str:
    keys = keys_of(node, item).items()
    return "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in keys) + "]"


def bad_quantity(kind: Kind, found: Object) -> str:
    """What the server says of the first bad quantity, or ""."""
    return next(_bad_quantities(of(kind), found), "")


def _bad_quantities(node: Node, value: Any) -> Iterator[str]:
    if node.quantity:
        text = str(value)
        if not _QUANTITY_FORM.match(text):
            yield ("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
        elif not _QUANTITY_WHOLE.match(text):
            yield "unable to parse quantity's suffix"
    elif isinstance(value, dict):
        for name, one in value.items():
            if (child := node.field(name)) is not None:
                yield from _bad_quantities(child, one)
    elif isinstance(value, list):
        for one in value:
            yield from _bad_quantities(node.items, one)


def known(kind: Kind, found: Object) -> Object:
    """Without the fields that are not declared."""
    kept: Object = _known(of(kind), found)
    return kept


def _known(node: Node, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _known(child, one) for name, one in value.items() if (child := node.field(name)) is not None}
    if isinstance(value, list):
        return [_known(node.items, one) for one in value]
    return value
