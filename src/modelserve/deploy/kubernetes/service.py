"""Where a run in a cluster is asked: by its service's name inside, by an address or a forwarded port from outside."""

from __future__ import annotations

import socket
from typing import Any

from modelserve.deploy.kubernetes import applied
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.kubernetes.diagnosis import is_ready
from modelserve.deploy.kubernetes.forward import Forward
from modelserve.deploy.manifests.labels import RUN
from modelserve.deploy.manifests.names import label_value
from modelserve.deploy.manifests.workload import HTTP_PORT
from modelserve.deploy.record import Record
from modelserve.deploy.target import Reach
from modelserve.errors import TargetError

_TRY_S = 2.0
"""For an address from outside to take a connection, before a port is forwarded."""
Json = dict[str, Any]


def of(cluster: Cluster, record: Record, name: str, serving: Json) -> dict[str, Any]:
    """The run's status.service. name: the Service's; serving: what serves the run."""
    namespace = cluster.place.namespace
    if serving["kind"] == "InferenceService":
        address = ((serving.get("status") or {}).get("address") or {}).get("url") or ""
        inside = address.partition("://")[2].rstrip("/") or f"{name}-predictor.{namespace}.svc"
        return {"name": f"{name}-predictor", "url": inside, "ports": [], "urls": [inside]}
    stable = record.spec.get("service_name")
    found = cluster.get("Service", stable) if stable else None
    if found is None or not leads_to(found, record):
        found = cluster.get("Service", name)
    if found is None:
        raise TargetError(f"its Service {name} is not in the cluster any more: somebody has removed it")
    named = found["metadata"]["name"]
    shown = ("name", "port", "protocol", "nodePort")
    ports: list[Json] = [{key: one[key] for key in shown if key in one} for one in found["spec"]["ports"]]
    http = next((one["port"] for one in ports if one.get("name") == "http"), ports[0]["port"])
    inside = f"{named}.{namespace}.svc:{http}"
    ingress = ((found.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    outside = [f"{one.get('ip') or one['hostname']}:{http}" for one in ingress if one.get("ip") or one.get("hostname")]
    return {"name": named, "url": inside, "ports": ports, "urls": [inside, *outside]}


def leads_to(service: Json, record: Record) -> bool:
    """Whether the Service leads to the run's pods."""
    selected = (service.get("spec") or {}).get("selector") or {}
    return bool(selected.get(RUN) == label_value(record.id))


def reach(cluster: Cluster, record: Record, name: str, serving: str) -> Reach:
    """The way in from where this runs. name: of the run's Service; serving: the kind of what serves it. Raises
    TargetError."""
    service = record.status.get("service") or {}
    if serving == "Deployment":  # a balancer's address comes late, and a stable name may have moved
        service = of(cluster, record, name, {"kind": serving})
    candidates = service.get("urls", [])[1:]
    if not cluster.place.context:  # in a pod of the cluster
        candidates = [*candidates, service.get("url", "")]
    for address in candidates:
        if _takes_connections(address):
            return Reach(f"http://{address}")
    forward = Forward(cluster, lambda: _ready_pod(cluster, record))
    try:
        forward.check()  # a right that is missing is said at once, and not after a request that was lost
    except TargetError:
        forward.close()
        raise
    return Reach(forward.url, forward.close, lambda: forward.last_error)


def _ready_pod(cluster: Cluster, record: Record) -> tuple[str, int]:
    """Its name, and the port of its server."""
    pods = [pod for pod in cluster.list("Pod", applied.selector(record.id))[0] if is_ready(pod)]
    if not pods:
        raise TargetError(f"no pod of the run {record.id} answers now; `modelserve runs` says how it is")
    newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    return newest["metadata"]["name"], _port(newest)


def _port(pod: Json) -> int:
    """Where the pod's server answers over HTTP."""
    ports = [port for one in pod["spec"]["containers"] for port in one.get("ports") or ()]
    named = [int(port["containerPort"]) for port in ports if port.get("name") == "http"]
    return (named or [int(port["containerPort"]) for port in ports] or [HTTP_PORT])[0]


def _takes_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_TRY_S):
            return True
    except (OSError, ValueError):
        return False
