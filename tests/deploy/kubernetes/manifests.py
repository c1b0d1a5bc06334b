"""Small manifests that the fake's tests apply."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]
IMAGE = "lab.local/busybox:1"


def deployment(
    name: str = "web", *, replicas: int | None = 1, spec: Manifest | None = None, **container: Any
) -> Manifest:
    """One container `c`, with whatever else is given; `spec` is added to the pod's."""
    found: Manifest = {
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": IMAGE, **container}], **(spec or {})},
        },
    }
    if replicas is not None:
        found["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": found}


def service(name: str = "web", **spec: Any) -> Manifest:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }  # fmt: skip


def claim(name: str = "models", size: str = "1Gi") -> Manifest:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def secret(name: str = "tokens", **values: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}
