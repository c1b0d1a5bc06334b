"""Runs found again in a cluster, by its own labels, when the store that knew them is lost.

What serves a run has its key, its function and its spec as annotations. Writes nothing.
"""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

from modelserve.deploy import project as projects
from modelserve.deploy.kubernetes import applied
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.manifests.labels import BEGUN, OURS, SPEC
from modelserve.deploy.manifests.pod import CONTAINER
from modelserve.deploy.manifests.workload import MODEL_DIR
from modelserve.deploy.record import Record, now, transition
from modelserve.deploy.reference import parse_function_string, parse_key
from modelserve.errors import ConfigError, TargetRefused

log = logging.getLogger("modelserve")

_OURS = "app.kubernetes.io/managed-by=modelserve"
_SERVING = ("Deployment", "InferenceService")
Json = dict[str, Any]


def runs(cluster: Cluster) -> list[Record]:
    """Every run in the cluster's namespace, as far as the cluster knows it: PENDING, until somebody looks. Raises
    TargetRefused, TargetUnreachable."""
    return [record for kind in _SERVING for one in _listed(cluster, kind) for record in _read(cluster, one)]


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


def _listed(cluster: Cluster, kind: str) -> list[Json]:
    try:
        return cluster.list(kind, _OURS)[0]
    except TargetRefused as error:
        if error.status == 404 and kind == "InferenceService":  # no KServe there
            return []
        raise


def _read(cluster: Cluster, one: Json) -> Iterator[Record]:
    """One run, or none where the object is of no run: a manifest that somebody has applied, or annotations changed."""
    notes = one["metadata"].get("annotations") or {}
    if SPEC not in notes or applied.is_owned(one):
        return
    try:
        key, spec = parse_key(notes[OURS + "key"]), json.loads(notes[SPEC])
        parse_function_string(spec["function"])
        made_from = one["spec"].get("template") or {"metadata": one["spec"]["predictor"], "spec": {}}
        begun = made_from["metadata"]["annotations"][BEGUN]
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        log.warning("%s is of a run, and its annotations do not tell which: %s", one["metadata"]["name"], error)
        return
    time = str(one["metadata"].get("creationTimestamp") or now()).replace("Z", "+00:00")
    record = Record(
        project=key.project,
        type="run",
        kind=key.kind,
        name=key.id,
        id=key.id,
        metadata={"created": time, "updated": time},
        spec=spec | _path(cluster, one["metadata"]["name"]),
        status={
            "cluster": cluster.place.to_dict(),
            "begun": begun,
            "image": _image(made_from["spec"]),
            **({"alias": begun} if _has_moved(cluster, spec) else {}),
            "objects": [applied.title(found) for found in reversed(applied.found(cluster, key.id))],
        },
    )
    yield transition(record, "PENDING", "found in the cluster")


def _has_moved(cluster: Cluster, spec: Json) -> bool:
    """Whether the stable Service, if it has one, is there: it led to this run, and may lead to a newer one by now."""
    return "service_name" in spec and cluster.get("Service", spec["service_name"]) is not None


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
