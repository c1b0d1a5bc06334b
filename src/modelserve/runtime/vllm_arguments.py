"""vLLM's command line and environment, from the parameters of this server.

Where a name is both ours and vLLM's, ours is said in its words; what was given in its own words is left as it is. Reads
the machine's memory and cores; starts nothing. Runs in the load thread.
"""

from __future__ import annotations

import os
from pathlib import Path

from modelserve import flags
from modelserve.backends.cores import cores
from modelserve.backends.memory import OURS
from modelserve.backends.vllm_environment import SILENT, Found
from modelserve.config import Config
from modelserve.environment import environment_defaults
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.types import ModelInfo

_ROOM_GIB = 4
"""Of a CPU's memory, for vLLM's three processes beside weights and KV memory: 3.3 GiB were measured."""
_LEAST_KV = 2**28
_SET_HERE = {"OMP_WAIT_POLICY": "passive", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}
"""What this process told its own libraries (runtime/huggingface.py), beside `environment_defaults`."""


def arguments(config: Config, info: ModelInfo, tokenizer: Tokenizer, found: Found) -> list[str]:
    """Ours in vLLM's words. What was given in its own is left as it is."""
    own: dict[str, str | None] = {
        "served_model_name": config.model_name,
        "max_model_len": str(info.max_length),
        "dtype": dtype(config, found),
        # Not the generation config of the model, whose sampling would be behind every request's.
        "generation_config": "vllm",
        # The grammars of this server, whatever their form.
        "structured_outputs_config": '{"backend": "guidance"}',
        "uvicorn_log_level": "warning",
        "max_num_seqs": _text(config.max_num_seqs),
        "max_num_batched_tokens": _text(config.max_batch_tokens),
        "kv_cache_memory_bytes": _text(_kv_bytes(config, info, found)),
        "load_format": None if config.allow_pickle else "safetensors",
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in own.items() if value and name not in found.given]
    words.append("--disable-uvicorn-access-log")
    place = Path(tokenizer.loaded.name_or_path)
    if place.is_dir() and place.resolve() != info.path.resolve() and "tokenizer" not in found.given:
        words.append(f"--tokenizer={place}")
    if config.trust_remote_code:
        words.append("--trust-remote-code")
    return words


def dtype(config: Config, found: Found) -> str:
    """float32 on a CPU where nobody says, as on every backend; on a GPU that of the weights."""
    if config.dtype in (None, "auto"):
        return "float32" if found.device == "cpu" else "auto"
    return str(config.dtype)


def _kv_bytes(config: Config, info: ModelInfo, found: Found) -> int | None:
    """Where nobody says, a GPU's memory is vLLM's, and a CPU's is shared with the rest of the machine."""
    if config.kv_cache_memory_bytes is not None or found.device != "cpu":
        return config.kv_cache_memory_bytes
    if {"kv_cache_memory_bytes", "gpu_memory_utilization"} & set(found.given) or os.environ.get(
        "VLLM_CPU_KVCACHE_SPACE"
    ):
        return None
    import torch

    from modelserve.backends.room import SHARE, free_bytes

    weights = sum(file.stat().st_size for file in info.path.glob("*.safetensors"))
    free = free_bytes(torch.device("cpu")) - _ROOM_GIB * 2**30 - weights
    return max(_LEAST_KV, int(SHARE["cpu"] * free))


def command(python: str, found: Found, model: Path, socket: Path, arguments: list[str]) -> list[str]:
    """`vllm serve` asks for the version of a distribution of that name, which not every build has."""
    if found.has_command:
        start = ["-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    else:
        start = ["-W", "ignore::DeprecationWarning", "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    return [python, *start, f"--uds={socket}", *arguments]


def environ(config: Config, found: Found) -> dict[str, str]:
    environ = flags.without_parameters(os.environ)
    ours = dict(_SET_HERE)
    environment_defaults(ours)
    for name, value in ours.items():  # is not meant for vLLM; what somebody else has set is
        if environ.get(name) == value:
            del environ[name]
    environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    environ.pop("VLLM_API_KEY", None)  # the environment's --api_key: this server would be refused, nobody else asks
    if tunables := environ.pop("GLIBC_TUNABLES", ""):
        kept = [one for one in tunables.split(":") if not one.startswith(OURS)]
        environ |= {"GLIBC_TUNABLES": ":".join(kept)} if kept else {}
    environ |= SILENT | {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", "VLLM_LOGGING_COLOR": "0"}
    if config.allow_long_max_model_len:
        environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    if found.device == "cpu" and "VLLM_CPU_OMP_THREADS_BIND" not in environ:
        share, bound = _threads(config.threads or cores(), found.tensor_parallel_size)
        environ |= {"VLLM_CPU_OMP_THREADS_BIND": bound, "OMP_NUM_THREADS": str(share)}
    return environ


def _threads(threads: int, ranks: int) -> tuple[int, str]:
    """Of each rank, and the cores that they are bound to. vLLM by itself leaves one of two cores to its HTTP server."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    share = max(1, min(threads, len(allowed)) // ranks)
    parts = [allowed[rank * share : (rank + 1) * share] or allowed[-share:] for rank in range(ranks)]
    return share, "|".join(",".join(map(str, part)) for part in parts)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
