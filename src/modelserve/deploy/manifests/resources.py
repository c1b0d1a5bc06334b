"""What a container asks for and may have at most. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelserve.deploy.manifests.workload import Workload
from modelserve.errors import ConfigError

_NAMES = {"cpu": "cpu", "mem": "memory", "disk": "ephemeral-storage"}


def of(workload: Workload) -> dict[str, dict[str, str]]:
    """Of the server. Raises ConfigError."""
    return asked(workload.spec.get("resources", {}), workload.template.gpu)


def asked(said: Mapping[str, Mapping[str, Any]], gpu: str) -> dict[str, dict[str, str]]:
    """requests and limits, by Kubernetes' names. Nothing is added to what was asked for, but to devices, which a
    cluster only gives where both are the same. gpu: what the cluster calls one. Raises ConfigError."""
    found: dict[str, dict[str, str]] = {"requests": {}, "limits": {}}
    for resource, given in said.items():
        key = _NAMES.get(resource) or (gpu if resource == "gpu" else resource)
        amounts = dict(given)
        if resource not in _NAMES:
            if len(set(amounts.values())) > 1:
                raise ConfigError(f"resources[{resource!r}] is {given}; requests and limits of a device are the same")
            if key in found["limits"]:
                raise ConfigError(f"resources has gpu and {key}, which are the same here; give only one of them")
            amounts = dict.fromkeys(found, next(iter(amounts.values())))
        for amount, value in amounts.items():
            found[amount][key] = value
    return {amount: values for amount, values in found.items() if values}
