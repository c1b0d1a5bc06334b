"""Where the server of a run finds the Triton behind it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelserve.config import Config
from modelserve.deploy.kinds import KINDS
from modelserve.deploy.manifests.names import behind
from modelserve.deploy.triton_shape import CONTAINER, DEPLOYMENT, GRPC_PORT, HTTP_PORT, METRICS_PORT
from modelserve.errors import ConfigError

_HOST = "TRITON_HOST"
"""Variable of the server's container with the name of Triton's Service. A Kustomize overlay that gives names a prefix
finds a name there, and would not within a flag."""
_PORTS = {"v2": HTTP_PORT, "grpc-v2": GRPC_PORT}


def host(spec: Mapping[str, Any], config: Config) -> str:
    """predictor_host, for a run that has `triton`; the cluster puts in the variable."""
    return f"{f'$({_HOST})' if is_apart(spec) else '127.0.0.1'}:{_PORTS[config.predictor_protocol]}"


def variables(spec: Mapping[str, Any], name: str) -> dict[str, str]:
    """Of the server's container, which host() wants. name: the run's objects'."""
    return {_HOST: behind(name)} if is_apart(spec) else {}


def is_apart(spec: Mapping[str, Any]) -> bool:
    """Whether a run has a Triton behind it with pods of its own."""
    return bool(spec.get("triton", {}).get("form") == DEPLOYMENT)


def check(spec: Mapping[str, Any], kind: str, config: Config, http_port: int, grpc_port: int) -> None:
    """Raises ConfigError for what contradicts `triton`, which the spec has. kind: the function's."""
    if KINDS[kind].model_format:
        raise ConfigError(f"triton is for Hugging Face models, and this is a {kind}")
    if config.predictor_host is not None:
        raise ConfigError(
            f"predictor_host is {config.predictor_host!r}, and triton is one of the run's own; give only one of them"
        )
    if config.predictor_protocol not in _PORTS:
        raise ConfigError(f"predictor_protocol is {config.predictor_protocol!r}; Triton's are {' and '.join(_PORTS)}")
    if config.predictor_use_ssl:
        raise ConfigError("predictor_use_ssl is for a predictor elsewhere, and triton is the run's own; leave it out")
    taken = {"http_port": http_port} | ({"grpc_port": grpc_port} if config.enable_grpc else {})
    for flag, port in taken.items():
        if spec["triton"]["form"] == CONTAINER and port in (*_PORTS.values(), METRICS_PORT):
            raise ConfigError(f"{flag} is {port}, which is Triton's in the same pod; give another")
