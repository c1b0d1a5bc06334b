"""The server's command line and environment for a run's sealed spec: the same words on every target.

Pure; knows no target and starts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from modelserve import flags
from modelserve.deploy import paths
from modelserve.deploy.kinds import KINDS
from modelserve.deploy.parameters import server_config
from modelserve.deploy.quantity import cores
from modelserve.errors import ConfigError

_PORTS = ("http_port", "grpc_port")
_HUGGING_FACE = {
    "task": "huggingface_task",
    "dtype": "dtype",
    "backend": "backend",
    "predictor_host": "predictor_host",
}
"""What the server refuses for other models: flag -> keyword."""


_OF_TEXTS = (
    "tokenizer_revision",
    "max_length",
    "allow_long_max_model_len",
    "trust_remote_code",
    "disable_lower_case",
    "disable_special_tokens",
    "return_token_type_ids",
    "return_raw_logits",
    "return_offsets_mapping",
    "pooling",
    "normalize",
    "prompt_name",
    "predictor_protocol",
    "predictor_use_ssl",
    "predictor_ca_file",
    "predictor_request_timeout_seconds",
    "predictor_request_retries",
    "predictor_max_batch_size",
    "enable_predictor_health_check",
    "tensor_input_names",
)
"""What the server takes for other models, and does nothing with."""


def without_effect(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """What means nothing to the models of this kind and is no error, since runs share tasks and profiles."""
    if not KINDS[kind].model_format:
        return []
    also = ("return_probabilities",) if KINDS[kind].model_format == "mlflow" else ()
    config = server_config(spec)
    return [name for name in (*_OF_TEXTS, *also) if name in config]


def server_args(kind: str, spec: Mapping[str, Any], *, processes: int = 1, limit_threads: bool = False) -> list[str]:
    """Words after `modelserve serve`, without the ports, which are the target's.

    kind: the function's. processes: workers behind one port. limit_threads: whether the cpu of `resources` bounds the
    threads, where nothing else does. Raises ConfigError.
    """
    config = server_config(spec)
    if KINDS[kind].model_format:
        for name, said in _HUGGING_FACE.items():
            if name in config:
                raise ConfigError(f"{said} is {config[name]!r}; it is for Hugging Face models, and this is a {kind}")
    where = paths.parse(spec["path"])
    config |= {"model_name": spec["model_name"], **where.server}
    if KINDS[kind].model_format:
        if "model_id" in where.server:
            raise ConfigError(f"path is {spec['path']!r}; the hub has Hugging Face models, and this is a {kind}")
        config["model_format"] = KINDS[kind].model_format
    if processes > 1:
        config["workers"] = processes
    if limit_threads and (threads := cpu_threads(spec)):
        config["threads"] = threads
    return flags.to_args(flags.from_keywords(**{name: value for name, value in config.items() if name not in _PORTS}))


def ports(spec: Mapping[str, Any]) -> tuple[int, int]:
    """HTTP and gRPC, as the run asks for them; 0 where it does not."""
    said = {name: spec[name] for name in _PORTS if name in spec} | flags.given(spec.get("args", ()))
    return said.get("http_port", 0), said.get("grpc_port", 0)


def cpu_threads(spec: Mapping[str, Any]) -> int | None:
    """Threads for the cpu limit, or else the request; None without either."""
    cpu = spec.get("resources", {}).get("cpu", {})
    amount = cpu.get("limits", cpu.get("requests"))
    return None if amount is None else max(1, math.ceil(cores(amount)))


def environment(spec: Mapping[str, Any]) -> dict[str, str]:
    """The run's envs, without its secrets."""
    return {one["name"]: one["value"] for one in spec.get("envs", ())}
