"""PersistentVolumeClaims: a run's own volumes, and the cache of its model. They outlive its pods. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelserve.deploy.manifests.labels import metadata
from modelserve.deploy.manifests.volumes import CACHE_VOLUME, claim_name, claim_spec, volume_name
from modelserve.deploy.manifests.workload import Workload, is_several

ONE_NODE = "ReadWriteOnce"


def of(workload: Workload) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata(workload, claim_name(workload, volume)),
            "spec": spec,
        }
        for volume, spec in _new(workload).items()
    ]


def are_on_one_node(workload: Workload) -> bool:
    """Whether a claim of the run is for pods of one node: a pod on another would wait for the disk for ever."""
    return any(ONE_NODE in spec["accessModes"] for spec in _new(workload).values())


def with_access_mode(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with the access mode of its cache said: a claim's cannot change, whatever becomes of `replicas`."""
    cache = spec.get("model_cache", {"claim_name": ""})
    if "claim_name" in cache or "access_mode" in cache:
        return spec
    return spec | {"model_cache": cache | {"access_mode": _mode(is_several(spec))}}


def _mode(several: bool) -> str:
    return "ReadWriteMany" if several else ONE_NODE


def _new(workload: Workload) -> dict[str, dict[str, Any]]:
    """Volume -> the claim's spec, for those that are made."""
    return dict(_wanted(workload))


def _wanted(workload: Workload) -> Iterator[tuple[str, dict[str, Any]]]:
    for said in workload.spec.get("volumes", ()):
        if said["volume_type"] == "persistent_volume_claim" and "claim_name" not in said["spec"]:
            yield volume_name(said["name"]), claim_spec(said["spec"], ONE_NODE)
    cache = workload.spec.get("model_cache", {"claim_name": ""})
    if "claim_name" not in cache:
        yield CACHE_VOLUME, claim_spec(cache, _mode(is_several(workload.spec)))
