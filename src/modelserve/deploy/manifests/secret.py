"""The Secrets of a run: the values of the project's secrets that it asks for. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from modelserve.deploy.manifests.labels import metadata
from modelserve.deploy.manifests.names import behind
from modelserve.deploy.manifests.variables import VARIABLE
from modelserve.deploy.manifests.workload import Workload
from modelserve.errors import ConfigError

_MOST_BYTES = 1024 * 1024


def of(workload: Workload) -> list[dict[str, Any]]:
    """One of the server, and one of the Triton behind it, where there is something to keep. Raises ConfigError."""
    found = [(metadata(workload), workload.secrets)]
    found.append((metadata(workload, behind(workload.name), "triton"), workload.triton_secrets))
    return [_secret(meta, values) for meta, values in found if values]


def _secret(meta: dict[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    for name in values:
        if not VARIABLE.fullmatch(name):
            raise ConfigError(
                f"secrets has {name!r}, which is no variable of a pod; keep the value under a name of letters, digits, "
                "_, . and -, which does not begin with a digit"
            )
    if sum(len(value.encode()) for value in values.values()) > _MOST_BYTES:
        raise ConfigError(f"secrets has more than 1 MiB ({', '.join(values)}), which no Secret holds")
    data = {name: b64encode(value.encode()).decode() for name, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": data}
