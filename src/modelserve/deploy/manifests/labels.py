"""The metadata of a run's objects: labels to find them by, annotations with what is too long for a label. Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from modelserve.deploy.manifests.names import label_value
from modelserve.deploy.manifests.workload import Workload
from modelserve.deploy.triton_shape import METRICS_PORT
from modelserve.errors import ConfigError
from modelserve.urls import shown

OURS = "modelserve/"
RUN = OURS + "run"
BEGUN = OURS + "begun"
"""Annotation of pods in a cluster: which start, or which change, of the run has made them."""
TRITON_BEGUN = "triton_begun"
"""In a run's status: as `begun`, of the Triton behind it where that has pods of its own."""
SPEC = OURS + "spec"
"""Annotation of what serves the run: its spec, so that it can be found again without the store."""


def selector(workload: Workload) -> dict[str, str]:
    """What the pods of the run have, and no other pod."""
    return {RUN: label_value(workload.record.id)}


def triton_value(run: str) -> str:
    """Of the label RUN, on the pods of the Triton behind a run: another than the server's pods have, since whatever
    selects those by it (services, budgets, a Deployment, which cannot change) must not find these. run: its id."""
    return label_value(f"{run}.triton")


def triton_selector(workload: Workload) -> dict[str, str]:
    """What the pods of the Triton behind the run have, where it has its own, and no other pod."""
    return {RUN: triton_value(workload.record.id)}


def labels(workload: Workload, component: str = "") -> dict[str, str]:
    """Of every object; component: what it is part of, the run's action where nothing is said. A user's win over the
    profile's, and over those of app.kubernetes.io."""
    function = workload.function
    said = {
        "app.kubernetes.io/name": "modelserve",
        "app.kubernetes.io/instance": workload.name,
        "app.kubernetes.io/version": label_value(function.id),
        "app.kubernetes.io/component": component or workload.spec["action"],
        "app.kubernetes.io/part-of": label_value(function.project),
        "app.kubernetes.io/managed-by": "modelserve",
        OURS + "project": label_value(function.project),
        OURS + "function": label_value(function.name),
        OURS + "kind": label_value(function.kind),
        **selector(workload),
    }
    if profile := workload.spec.get("profile"):
        said[OURS + "profile"] = label_value(profile)
    for key, value in (workload.template.labels | workload.spec.get("labels", {})).items():
        if key.startswith(OURS):
            raise ConfigError(f"labels has {key!r}; what begins with {OURS} is modelserve's own, give another key")
        said[key] = value
    return said


def notes(workload: Workload) -> dict[str, str]:
    """Annotations of every object."""
    own: dict[str, str] = {OURS + "key": workload.record.key, OURS + "function": workload.spec["function"]}
    for key, value in workload.spec.get("annotations", {}).items():
        if key.startswith(OURS):
            raise ConfigError(f"annotations has {key!r}; what begins with {OURS} is modelserve's own, give another key")
        own[key] = value
    return own


def pod_notes(workload: Workload) -> dict[str, str]:
    """Annotations of the pods: Prometheus looks there for what to scrape. Not on the service, or it would scrape each
    pod twice."""
    scrape = scraped(workload.http_port)
    if workload.files:  # so that other files mean other pods
        text = "\0".join(f"{name}\0{content}" for name, content in sorted(workload.files.items()))
        scrape[OURS + "files"] = sha256(text.encode()).hexdigest()[:16]
    if begun := workload.record.status.get("begun"):  # a run, and not a file for others to apply
        scrape[BEGUN] = begun
    return scrape | notes(workload)


def scraped(port: int) -> dict[str, str]:
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": "/metrics"}


def triton_notes(workload: Workload) -> dict[str, str]:
    """Annotations of the pods of the Triton behind the run, where it has its own. They are begun by themselves: what
    changes the server only does not load the models anew."""
    begun = workload.record.status.get(TRITON_BEGUN)
    return scraped(METRICS_PORT) | ({BEGUN: begun} if begun else {}) | notes(workload)


def serving(workload: Workload) -> dict[str, Any]:
    """Metadata of what serves the run."""
    found = metadata(workload)
    if workload.record.status.get("begun"):
        spec = {name: said for name, said in workload.spec.items() if name not in ("kubeconfig", "context")}
        spec["path"] = shown(spec["path"])
        found["annotations"] = found["annotations"] | {SPEC: msgspec.json.encode(spec).decode()}
    return found


def metadata(workload: Workload, name: str = "", component: str = "") -> dict[str, Any]:
    """Of an object, which is called as the run is where it has no name of its own."""
    place = {"namespace": workload.namespace} if workload.namespace else {}
    return {
        "name": name or workload.name,
        **place,
        "labels": labels(workload, component),
        "annotations": notes(workload),
    }
