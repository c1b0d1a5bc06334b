"""Manifests as a base for Kustomize: a kustomization.yaml, and a file for each object. Pure: texts by file name.

Labels and namespace are an overlay's to say, and so are the values of Secrets: what is expected stands in a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from modelserve.deploy.manifests.text import as_yaml

KUSTOMIZATION = "kustomization.yaml"
MARK = "# Written by `modelserve manifest --kustomize`"
"""How the first line of our kustomization.yaml begins."""
_NAMES = "names.yaml"
_RUN = ("Deployment", "InferenceService")
"""Kinds of which one is called as the run is, and any other so with more behind it."""
_JOINED = re.compile(r"(?<=[a-z])(?=[A-Z])")
_Manifest = dict[str, Any]
_BEHIND: dict[str, dict[str, tuple[str, ...]]] = {"Service": {"Deployment": ("template/spec/containers/env/value",)}}
"""The variable of the server that names the Service of the Triton behind it."""
_REFERENCES: dict[str, dict[str, tuple[str, ...]]] = {
    "ServingRuntime": {"InferenceService": ("predictor/model/runtime",)},
    "PersistentVolumeClaim": {
        "InferenceService": ("predictor/volumes/persistentVolumeClaim/claimName",),
        "ServingRuntime": ("volumes/persistentVolumeClaim/claimName",),
    },
    "ConfigMap": {
        "InferenceService": ("predictor/volumes/configMap/name",),
        "ServingRuntime": ("volumes/configMap/name",),
    },
    "Secret": {
        "InferenceService": (
            "predictor/model/env/valueFrom/secretKeyRef/name",
            "predictor/model/envFrom/secretRef/name",
        )
    },
}
"""Kind -> where KServe's objects name one of it, below spec. Kustomize knows no schema of theirs, and a prefix that an
overlay gives to names would part them."""


class Image(NamedTuple):
    """A container's image in its parts; "" for one that it does not have."""

    name: str
    tag: str
    digest: str


def files(manifests: Sequence[_Manifest]) -> dict[str, str]:
    """Name -> text. manifests: all objects of a run, in the order in which they are applied."""
    run = min((one["metadata"]["name"] for one in manifests if one["kind"] in _RUN), key=len)
    named = {_file(one, run): as_yaml([one]) for one in manifests}
    kustomization: _Manifest = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(named),
        "images": [_entry(image) for image in dict.fromkeys(_images(manifests))],
    }
    kinds = [one["kind"] for one in manifests]
    more = _REFERENCES if "InferenceService" in kinds else _BEHIND if kinds.count("Deployment") > 1 else {}
    if more:
        kustomization["configurations"] = [_NAMES]
        named[_NAMES] = as_yaml([{"nameReference": _references(more)}])
    comments = [f"{MARK}; changes belong into an overlay: this directory is written anew.", *_expected(manifests)]
    return {KUSTOMIZATION: "\n".join([*comments, as_yaml([kustomization])]), **named}


def written(text: str) -> set[str]:
    """The files of a directory with this kustomization.yaml; none, where it is not one of ours."""
    import yaml

    if not text.startswith(MARK):
        return set()
    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError:
        return {KUSTOMIZATION}
    lists = (said.get(key) for key in ("resources", "configurations")) if isinstance(said, dict) else ()
    return {KUSTOMIZATION}.union(*(map(str, one) for one in lists if isinstance(one, list)))


def image(text: str) -> Image:
    """registry:5000/name:tag@digest, understood."""
    rest, _, digest = text.partition("@")
    place, slash, last = rest.rpartition("/")
    name, _, tag = last.partition(":")
    return Image(f"{place}{slash}{name}", tag, digest)


def _file(manifest: _Manifest, run: str) -> str:
    """Its kind, and where the run has several of it, what the object is called besides."""
    kind, name = _JOINED.sub("-", manifest["kind"]).lower(), manifest["metadata"]["name"]
    return f"{kind}.yaml" if name == run else f"{kind}-{name.removeprefix(run + '-')}.yaml"


def _entry(one: Image) -> dict[str, str]:
    said = {"name": one.name, "newName": one.name, "newTag": one.tag, "digest": one.digest}
    return {key: value for key, value in said.items() if value}


def _images(value: Any) -> Iterator[Image]:
    for key, one in _pairs(value):
        if key in ("containers", "initContainers"):
            yield from (image(container["image"]) for container in one if "image" in container)


def _references(places_of: dict[str, dict[str, tuple[str, ...]]]) -> list[_Manifest]:
    return [
        {
            "kind": kind,
            "fieldSpecs": [{"path": f"spec/{path}", "kind": by} for by, paths in places.items() for path in paths],
        }
        for kind, places in places_of.items()
    ]


def _expected(manifests: Sequence[_Manifest]) -> list[str]:
    """Comments about Secrets that the pods read and that are not among the objects."""
    there = {one["metadata"]["name"] for one in manifests if one["kind"] == "Secret"}
    keys: dict[str, list[str]] = {}
    for key, one in _pairs(list(manifests)):
        if key == "secretKeyRef":
            keys.setdefault(one["name"], []).append(one["key"])
        elif key == "secretRef":
            keys.setdefault(one["name"], [])
    missing = {name: sorted(set(found)) for name, found in keys.items() if name not in there}
    if not missing:
        return []
    return [
        "# Not in here, and the pods wait for it:",
        *(f"#   Secret {name}{', with ' + ', '.join(found) if found else ''}" for name, found in missing.items()),
    ]


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield key, one
            yield from _pairs(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _pairs(one)
