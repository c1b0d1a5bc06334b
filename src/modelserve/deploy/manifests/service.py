"""The Service of a run, and the one with a stable name, which moves from run to run. Pure."""

from __future__ import annotations

from typing import Any

from modelserve.deploy.manifests.labels import OURS, metadata, selector
from modelserve.deploy.manifests.workload import Workload
from modelserve.errors import ConfigError

ALIAS = OURS + "alias"
"""Label of the stable one: whoever applies it waits until the run is ready."""


def of(workload: Workload) -> dict[str, Any]:
    """Where there is a stable one too, that is the one to be seen from outside."""
    return _service(workload, "", "ClusterIP" if "service_name" in workload.spec else _type(workload))


def alias(workload: Workload) -> list[dict[str, Any]]:
    """One, where the run has a service_name."""
    if (name := workload.spec.get("service_name")) is None:
        return []
    found = _service(workload, name, _type(workload))
    found["metadata"]["labels"][ALIAS] = "true"
    return [found]


def _service(workload: Workload, name: str, type_: str) -> dict[str, Any]:
    spec = {"type": type_, "selector": selector(workload), "ports": _ports(workload)}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(workload, name), "spec": spec}


def _type(workload: Workload) -> str:
    said = str(workload.spec.get("service_type", "ClusterIP"))
    if said == "ExternalName":
        raise ConfigError(
            "service_type is 'ExternalName', which is a name for a host elsewhere and leads to no pod; it must be "
            "ClusterIP, NodePort or LoadBalancer"
        )
    return said


def _ports(workload: Workload) -> list[dict[str, Any]]:
    """By the names of the container's ports, which meshes read; a profile may say others."""
    named = {workload.http_port: "http", workload.grpc_port: "grpc"}
    wanted = workload.template.service_ports or tuple((port, port) for port in named if port)
    found: dict[str, dict[str, Any]] = {}
    for port, target in wanted:
        name = named.get(target, f"port-{port}")
        name = f"port-{port}" if name in found else name
        found[name] = {"name": name, "port": port, "targetPort": named.get(target, target), "protocol": "TCP"}
    return list(found.values())
