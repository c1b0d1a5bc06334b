"""What a local run's server is started with: its command line, its environment, its ports, its bounds.

Pure; derived from the sealed spec once, and again with the ports that the server took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelserve import flags
from modelserve.deploy import command, notes, parameters, quantity
from modelserve.deploy.probe import Address
from modelserve.deploy.record import Record
from modelserve.deploy.reference import parse_function_string


@dataclass(frozen=True, slots=True)
class Plan:
    words: list[str]
    """After `modelserve serve`, without the ports."""
    variables: dict[str, str] = field(repr=False)
    """The run's envs and secrets."""
    host: str
    """Where it listens."""
    http_port: int
    grpc_port: int
    """0: it takes a free one."""
    recorded: bool
    """Whether the ports are those that the run has had."""
    shutdown_timeout_s: float
    memory_bytes: int | None
    """Most memory; None without a limit."""
    service_name: str

    @classmethod
    def of(cls, record: Record, secrets: Mapping[str, str], ports: notes.Ports | None) -> Plan:
        """ports: those that the run has had, None at its first start. Raises ConfigError."""
        spec = record.spec
        kind = parse_function_string(spec["function"]).kind
        config = flags.from_keywords(**parameters.server_config(spec))
        limit = spec.get("resources", {}).get("mem", {}).get("limits")
        http_port, grpc_port = command.ports(spec)
        plan = cls(
            words=command.server_args(kind, spec, processes=spec.get("replicas", 1), limit_threads=True),
            variables=command.environment(spec) | dict(secrets),
            host=config.host,
            http_port=http_port,
            grpc_port=grpc_port,
            recorded=False,
            shutdown_timeout_s=config.shutdown_timeout,
            memory_bytes=None if limit is None else quantity.memory_bytes(limit),
            service_name=spec.get("service_name") or record.id,
        )
        return plan.on(ports)

    def on(self, ports: notes.Ports | None) -> Plan:
        """The same, on the ports that the server has taken."""
        if ports is None:
            return self
        return replace(self, http_port=ports.http_port, grpc_port=ports.grpc_port or 0, recorded=True)

    @property
    def args(self) -> list[str]:
        """Words after `modelserve serve`."""
        return [*self.words, f"--http_port={self.http_port}", f"--grpc_port={self.grpc_port}"]

    def service(self, ports: notes.Ports) -> dict[str, Any]:
        """The run's status.service."""
        url = str(Address.of(self.host, ports.http_port))
        named = {"http": ports.http_port, "grpc": ports.grpc_port}
        listed = [{"name": name, "port": port, "protocol": "TCP"} for name, port in named.items() if port]
        return {"name": self.service_name, "url": url, "ports": listed, "urls": [url]}
