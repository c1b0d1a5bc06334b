"""What all objects of a run are made from: its sealed spec, understood once. Pure.

Reads no store: values of secrets and texts of files come from whoever made the run (`source.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from modelserve import flags
from modelserve.deploy import command, parameters
from modelserve.deploy.kinds import KINDS, Kind
from modelserve.deploy.manifests import predictor, template
from modelserve.deploy.manifests.names import resource_name
from modelserve.deploy.manifests.template import Template
from modelserve.deploy.record import Record
from modelserve.deploy.reference import Key, parse_function_string
from modelserve.environment import PREFIX
from modelserve.errors import ConfigError

HTTP_PORT, GRPC_PORT = 8080, 8081
"""KServe's, and DigitalHub's."""
NO_SECRETS: Mapping[str, str] = MappingProxyType({})
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
MODEL_DIR = PREFIX + "MODEL_DIR"
"""Variable of a secret that says where the model is, in place of the flag, which anybody may read."""


@dataclass(frozen=True, slots=True)
class Workload:
    """record: the run. args: words after `modelserve serve`. secrets: what the run's own Secret holds, by variable.
    files: what its ConfigMap holds, by file name. triton_secrets: what the Secret of the Triton behind it holds."""

    record: Record
    function: Key
    name: str
    template: Template
    args: tuple[str, ...]
    http_port: int
    grpc_port: int | None
    shutdown_timeout_s: int
    image: str
    secrets: Mapping[str, str] = field(repr=False)
    files: Mapping[str, str] = field(repr=False)
    triton_secrets: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(
        cls,
        record: Record,
        secrets: Mapping[str, str],
        files: Mapping[str, str],
        image: str,
        triton_secrets: Mapping[str, str] = NO_SECRETS,
    ) -> Workload:
        """image: the one where the run names none. Raises ConfigError."""
        spec = record.spec
        function = parse_function_string(spec["function"])
        config = flags.from_keywords(**parameters.server_config(spec))
        http_port, grpc_port = command.ports(spec)
        http_port, grpc_port = http_port or HTTP_PORT, grpc_port or GRPC_PORT
        if config.host in _LOOPBACK:
            raise ConfigError(f"host is {config.host!r}, where nobody but the pod itself asks; leave it out")
        if config.enable_grpc and http_port == grpc_port:
            raise ConfigError(f"http_port and grpc_port are both {http_port}; give each a port of its own")
        if "triton" in spec:
            predictor.check(spec, function.kind, config, http_port, grpc_port)
            spec = spec | {"predictor_host": predictor.host(spec, config)}
        words = command.server_args(function.kind, spec, limit_threads=True)
        words = [word for word in words if not (MODEL_DIR in secrets and word.startswith("--model_dir="))]
        return cls(
            record=record,
            function=function,
            name=resource_name(record.project, function.name, record.id),
            template=template.of(spec),
            args=(*words, f"--http_port={http_port}", f"--grpc_port={grpc_port}"),
            http_port=http_port,
            grpc_port=grpc_port if config.enable_grpc else None,
            shutdown_timeout_s=math.ceil(config.shutdown_timeout),
            image=spec.get("image") or image,
            secrets=secrets,
            files=files,
            triton_secrets=triton_secrets,
        )

    @property
    def spec(self) -> dict[str, Any]:
        return self.record.spec

    @property
    def kind(self) -> Kind:
        return KINDS[self.function.kind]

    @property
    def triton(self) -> dict[str, Any] | None:
        """What is said of the Triton behind the server; None where there is none."""
        return self.record.spec.get("triton")

    @property
    def namespace(self) -> str:
        """ "" for whichever the cluster's context names."""
        return str(self.spec.get("namespace", ""))

    @property
    def replicas(self) -> int:
        return int(self.spec.get("replicas", 1))


def is_several(spec: Mapping[str, Any]) -> bool:
    """Whether pods of it may be on several nodes at once."""
    return int(spec.get("replicas", 1)) > 1 or "scaling" in spec
