"""What the API servers of Kubernetes' versions say of an object: the strict schemas that kubernetes-validate carries.

`kubernetes_validate.validate` reads two megabytes of JSON for each object; these are its schemas, read once.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate.utils import all_versions, major_minor
from referencing import Registry, Resource

VERSIONS = tuple(map(major_minor, all_versions()))
_ROOT = files("kubernetes_validate") / "kubernetes-json-schema"


def faults(manifest: dict[str, Any], version: str) -> list[str]:
    """One sentence for each place that the schema does not allow. Raises KeyError for a kind that it does not know."""
    kind, api_version = manifest["kind"], manifest["apiVersion"]
    errors = _validator(kind, api_version, version).iter_errors(manifest)
    return [f"{kind} {'.'.join(map(str, error.path))}: {error.message}" for error in errors]


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    group, _, number = api_version.rpartition("/")
    name = "-".join(filter(None, [kind.lower(), group.partition(".")[0], number]))
    folder = _ROOT / f"v{version}.0-local-strict"
    file = folder / f"{name}.json"
    if not file.is_file():
        raise KeyError(f"Kubernetes {version} has no {kind} of {api_version}")
    schema = json.loads(file.read_text(encoding="utf-8"))
    registry: Registry[Any] = Resource.from_contents(schema) @ _definitions(version)
    return Draft202012Validator(schema, registry=registry)


@cache
def _definitions(version: str) -> Registry[Any]:
    file = _ROOT / f"v{version}.0-local-strict" / "_definitions.json"
    registry: Registry[Any] = Resource.from_contents(json.loads(file.read_text(encoding="utf-8"))) @ Registry()
    return registry
