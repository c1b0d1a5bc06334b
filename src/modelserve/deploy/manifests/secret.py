"""The Secret of a run: the values of the project's secrets that it asks for. Pure."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from modelserve.deploy.manifests.labels import metadata
from modelserve.deploy.manifests.variables import VARIABLE
from modelserve.deploy.manifests.workload import Workload
from modelserve.errors import ConfigError

_MOST_BYTES = 1024 * 1024


def of(workload: Workload) -> list[dict[str, Any]]:
    """One, where there is something to keep. Raises ConfigError."""
    for name in workload.secrets:
        if not VARIABLE.fullmatch(name):
            raise ConfigError(
                f"secrets has {name!r}, which is no variable of a pod; keep the value under a name of letters, digits, "
                "_, . and -, which does not begin with a digit"
            )
    if sum(len(value.encode()) for value in workload.secrets.values()) > _MOST_BYTES:
        raise ConfigError(f"secrets has more than 1 MiB ({', '.join(workload.secrets)}), which no Secret holds")
    if not workload.secrets:
        return []
    data = {name: b64encode(value.encode()).decode() for name, value in workload.secrets.items()}
    return [{"apiVersion": "v1", "kind": "Secret", "metadata": metadata(workload), "type": "Opaque", "data": data}]
