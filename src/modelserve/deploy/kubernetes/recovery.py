"""Runs found again in a cluster, by its own labels, when the store that knew them is lost.

What serves a run has its key, its function and its spec as annotations. Writes nothing.
"""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, NamedTuple

from modelserve.deploy import project as projects
from modelserve.deploy.kubernetes import applied
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.manifests.labels import BEGUN, OURS, SPEC, TRITON_BEGUN
from modelserve.deploy.manifests.names import is_behind
from modelserve.deploy.manifests.pod import CONTAINER
from modelserve.deploy.manifests.workload import MODEL_DIR
from modelserve.deploy.record import Record, now, transition
from modelserve.deploy.reference import parse_function_string, parse_key
from modelserve.errors import ConfigError, TargetRefused

log = logging.getLogger("modelserve")

_MANAGED = "app.kubernetes.io/managed-by=modelserve"
Json = dict[str, Any]


class Found(NamedTuple):
    """A run in a cluster: its key, when it was begun or changed last, and the object that serves it."""

    key: str
    begun: str
    serving: Json
    made_from: Json
    """What its pods are made from."""


def runs(cluster: Cluster) -> list[Found]:
    """Every run in the cluster's namespace. Raises TargetRefused, TargetUnreachable."""
    deployments = cluster.list("Deployment", _MANAGED)[0]
    services = applied.listed(cluster, "InferenceService", _MANAGED)
    return [found for one in (*deployments, *services) for found in _read(one)]


def project_of(record: Record) -> Record:
    return projects.new_record(record.project)


def function_of(record: Record) -> Record:
    """The function that the run is of, as far as the run tells."""
    key = parse_function_string(record.spec["function"])
    own = ("path", "model_name", "image", "allow_pickle")
    spec: Json = {name: record.spec[name] for name in own if name in record.spec}
    time = record.metadata["created"]
    return Record(
        project=key.project,
        type="function",
        kind=key.kind,
        name=key.name,
        id=key.id,
        metadata={"created": time, "updated": time, "version": key.id, "labels": []},
        spec=spec,
        status={"state": "CREATED"},
    )


def record_of(cluster: Cluster, found: Found) -> Record:
    """As far as the cluster knows it: PENDING, until somebody looks."""
    one, key, spec = found.serving, parse_key(found.key), json.loads(_notes(found.serving)[SPEC])
    name = one["metadata"]["name"]
    replicas = one["spec"].get("replicas", 0)
    if replicas > 0 and "scaling" not in spec:  # whoever scales it does not write that down elsewhere
        spec["replicas"] = replicas
    objects = applied.found(cluster, key.id)
    time = str(one["metadata"].get("creationTimestamp") or now()).replace("Z", "+00:00")
    record = Record(
        project=key.project,
        type="run",
        kind=key.kind,
        name=key.id,
        id=key.id,
        metadata={"created": time, "updated": time},
        spec=spec | _path(cluster, name),
        status={
            "cluster": cluster.place.to_dict(),
            "begun": found.begun,
            "image": _image(found.made_from["spec"]),
            **({"alias": found.begun} if _has_moved(cluster, spec) else {"moves": True}),
            **_triton_begun(objects),
            "objects": [applied.title(each) for each in reversed(objects)],
        },
    )
    is_stopped = "replicas" in one["spec"] and not replicas
    return transition(record, "STOPPED" if is_stopped else "PENDING", "found in the cluster")


def changed(found: Record, known: Record) -> Record:
    """The run that the store knows, as it was changed from elsewhere."""
    own = {name: known.spec[name] for name in ("kubeconfig", "context", "namespace") if name in known.spec}
    names = ("begun", TRITON_BEGUN, "image", "objects")
    status = {name: found.status[name] for name in names if name in found.status}
    return known.replace(spec=found.spec | own, status=known.status | status)


def _read(one: Json) -> Iterator[Found]:
    """One run, or none where the object is of no run: a manifest that somebody has applied, or annotations changed."""
    notes = _notes(one)
    if SPEC not in notes or applied.is_owned(one):
        return
    try:
        key = parse_key(notes[OURS + "key"])
        parse_function_string(json.loads(notes[SPEC])["function"])
        made_from = one["spec"].get("template") or {"metadata": one["spec"]["predictor"], "spec": {}}
        yield Found(str(key), made_from["metadata"]["annotations"][BEGUN], one, made_from)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        log.warning("%s is of a run, and its annotations do not tell which: %s", one["metadata"]["name"], error)


def _notes(one: Json) -> Json:
    return one["metadata"].get("annotations") or {}


def _has_moved(cluster: Cluster, spec: Json) -> bool:
    """Whether the stable Service, if it has one, is there: it led to this run, and may lead to a newer one by now."""
    return "service_name" in spec and cluster.get("Service", spec["service_name"]) is not None


def _triton_begun(objects: list[Json]) -> dict[str, str]:
    """When the Triton behind it was begun, where it has pods of its own."""
    for one in objects:
        if one["kind"] == "Deployment" and is_behind(one["metadata"]["name"]):
            marks = (one["spec"]["template"]["metadata"].get("annotations") or {}).get(BEGUN)
            return {TRITON_BEGUN: marks} if marks else {}
    return {}


def _image(pods: Json) -> str:
    """Of the server in these pods; "" where KServe says it elsewhere."""
    found = (one["image"] for one in pods.get("containers", ()) if one["name"] == CONTAINER)
    return next(found, "")


def _path(cluster: Cluster, name: str) -> Json:
    """A path with a password or a signature in it, which is in the run's Secret alone."""
    try:
        data = (cluster.get("Secret", name) or {}).get("data") or {}
    except TargetRefused:
        return {}
    return {"path": b64decode(data[MODEL_DIR]).decode()} if MODEL_DIR in data else {}
