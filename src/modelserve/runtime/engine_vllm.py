"""The engine that is vLLM: whether it can run a model, and its start.

vLLM is a server of its own, in this environment or in that of --vllm_python, since its pins clash with ours on a CPU.
Blocking; runs in the load thread. Knows no protocol.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from modelserve import flags
from modelserve.backends.engine import EngineLimits
from modelserve.backends.vllm import VllmEngine
from modelserve.backends.vllm_chunks import refusal as refusal_of
from modelserve.backends.vllm_environment import Found, installed, probe, python_of
from modelserve.backends.vllm_http import Broken, Client
from modelserve.backends.vllm_server import VllmServer
from modelserve.config import Config
from modelserve.errors import ConfigError, LoadError
from modelserve.runtime import metrics
from modelserve.runtime.engines import Built, end_ids, said_ends
from modelserve.runtime.modality import At
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.runtime.vllm_arguments import arguments, command, dtype, environ
from modelserve.types import ModelInfo
from modelserve.vllm_flags import OURS

log = logging.getLogger(__name__)

_USUAL_RUNNING = 256
"""What vLLM runs at once where nobody says, on most devices; for /info, and how many requests it is given."""
_POLL_S = 0.2
_HEALTH_S = 10.0
_FIRST_TOKEN_S = 600.0
_LAST_WORDS_S = 10.0
_LOADING, _LOADED = 0.5, 0.95
_MILESTONES = (
    ("Initializing a V1 LLM engine", 0.55),
    ("Starting to load model", 0.6),
    ("Loading weights took", 0.7),
    ("Available KV cache memory", 0.75),
    ("GPU KV cache size", 0.8),
    ("CPU KV cache size", 0.8),
    ("Graph capturing finished", 0.85),
    ("init engine", 0.9),
    ("Starting vLLM server", 0.93),
)
"""What its log says on the way, and how far the start is then. Where it says something else the bar stands still."""


def check(config: Config) -> None:
    """For an explicit --backend vllm, before anything is downloaded. Raises ConfigError, LoadError."""
    if config.workers > 1:
        raise ConfigError(
            f"--workers {config.workers} would start as many vLLM servers; give --backend vllm one, and "
            "--data_parallel_size for more engines"
        )
    if not installed(config.vllm_python):
        raise LoadError(
            "--backend vllm: vLLM is not installed here; `pip install vllm` where its pins allow it, or name the "
            "Python of an environment that has it with --vllm_python"
        )
    _check_arguments(config, _found(config))


def refusal(config: Config, info: ModelInfo) -> str | None:
    """Why vLLM cannot run this model, as the end of a sentence; None when it can. Raises ConfigError for its flags."""
    if info.config.get("is_encoder_decoder"):
        return "vLLM runs no encoder-decoder models"
    if not installed(config.vllm_python):
        return "vLLM is not installed"
    found = _found(config)
    _check_arguments(config, found)
    architectures = info.config.get("architectures") or []
    if not set(architectures) & set(found.architectures):
        return f"vLLM {found.version} has no {' or '.join(architectures) or 'model without an architecture'}"
    if config.device != "auto" and config.device != found.device:
        return f"--device is {config.device} and vLLM {found.version} there runs on {found.device}"
    return None


def build(config: Config, info: ModelInfo, task_name: str, tokenizer: Tokenizer, at: At) -> Built:
    """Raises LoadError."""
    if reason := refusal(config, info):
        raise LoadError(f"--backend vllm cannot serve this model: {reason}")
    found = _found(config)
    python = python_of(config.vllm_python)
    args = [*arguments(config, info, tokenizer, found), *shlex.split(config.vllm_args)]
    server = VllmServer(lambda socket: command(python, found, info.path, socket, args), environ(config, found))
    client = Client(server.socket)
    try:
        await_ready(server, client, at)
        served = _served(client, config.model_name)
        _try_out(server, client, config.model_name)
    except BaseException:
        server.stop()
        client.close()
        raise
    engine = VllmEngine(
        server,
        client,
        limits=EngineLimits(
            context_length=min(info.max_length, served),
            max_running=config.max_num_seqs or _USUAL_RUNNING,
            adapters=dict(found.adapters),
        ),
        end_ids=end_ids(said_ends(info), tokenizer),
        about={"device": found.device, "dtype": dtype(config, found), "vllm": found.version},
    )
    metrics.beside["vllm:"] = engine.metrics
    return Built(engine, f"vLLM {found.version} on {found.device}, a server of its own by {python}")


def _found(config: Config) -> Found:
    return probe(python_of(config.vllm_python), tuple(shlex.split(config.vllm_args)))


def _check_arguments(config: Config, found: Found) -> None:
    """Raises ConfigError for arguments that its own parser refuses, and for those that would change nothing here."""
    unknown, _, words = found.wrong.partition("unrecognized arguments: ")
    if words and not unknown:
        # As it was typed: its parser has made dashes of the underscores.
        typed = (word.partition("=")[0] for word in shlex.split(config.vllm_args))
        wrong = words.split()[0].partition("=")[0]
        flag = next((one for one in typed if one.replace("_", "-") == wrong), wrong)
        raise ConfigError(flags.unknown_flag(flag) + f"; nor has vLLM {found.version} such a flag")
    if found.wrong:
        raise ConfigError(f"vLLM {found.version} refuses its arguments: {found.wrong}")
    for name in ("model", "served_model_name"):
        if name in found.given:  # this server asks it by the name that it gave it
            raise ConfigError(f"--{name} in --vllm_args is --{OURS[name]} here; give that")
    if found.foreign:
        raise ConfigError(
            f"--{found.foreign[0]} is about vLLM's own HTTP server, which nobody sees behind this one; leave it out"
        )
    if not found.has_socket:
        raise LoadError(f"vLLM {found.version} cannot listen on a Unix socket (--uds); take a newer one")


def await_ready(server: VllmServer, client: Client, at: At) -> None:
    """Minutes, where it compiles. Raises LoadError with its reason when it ends instead."""
    reached = _LOADING

    def see(line: str) -> None:
        nonlocal reached
        for words, fraction in _MILESTONES:
            if words in line and fraction > reached:
                reached = fraction
                at("load", reached)

    server.on_line = see
    at("load", reached)
    while True:
        try:
            status, _ = client.wait_for(client.ask("/health", timeout_s=_HEALTH_S))
        except Broken:
            status = 0
        if status == 200:
            break
        if server.ended:
            raise LoadError(f"vLLM {server.how} before it was ready: {server.reason}")
        time.sleep(_POLL_S)
    server.on_line = lambda line: None
    at("load", _LOADED)


def _served(client: Client, name: str) -> int:
    """The context that it has, which its flags or its memory may have made shorter. Raises LoadError."""
    try:
        status, told = client.wait_for(client.ask("/v1/models", timeout_s=_HEALTH_S))
        cards: list[Mapping[str, Any]] = msgspec.json.decode(told)["data"] if status == 200 else []
        return next(int(card["max_model_len"]) for card in cards if card["id"] == name)
    except (Broken, StopIteration, KeyError, TypeError, ValueError) as error:
        raise LoadError(f"vLLM does not say that it serves {name}: {error}") from error


def _try_out(server: VllmServer, client: Client, name: str) -> None:
    """One token: some models start, and end vLLM with the first text (heads of a size that its kernels do not have).

    Raises LoadError.
    """
    asked = {"model": name, "prompt": [0], "max_tokens": 1, "temperature": 0}
    try:
        status, told = client.wait_for(
            client.ask("/v1/completions", msgspec.json.encode(asked), timeout_s=_FIRST_TOKEN_S)
        )
    except Broken as error:
        raise LoadError(f"vLLM started and could not write: {server.reason}") from error
    if status < 500 and status != 200:
        raise LoadError(f"vLLM started and could not write: {refusal_of(status, told).message}")
    if status != 200:
        server.stop()
        server.join(_LAST_WORDS_S)
        raise LoadError(f"vLLM started and could not write: {server.reason}")
