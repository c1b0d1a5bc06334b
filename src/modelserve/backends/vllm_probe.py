"""Asks an environment's vLLM what it is and whether it takes some arguments; loads no model.

A program of its own, run by the Python that has vLLM: {"args": […]} as JSON on stdin, the answer as JSON on stdout (see
`Found` in vllm_environment.py). Imports nothing of modelserve, which need not be there. Some ten seconds, in which
vLLM is imported.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

_FRONTEND = {"lora_modules", "enable_auto_tool_choice", "tool_parser_plugin", "reasoning_parser_plugin"}
"""Of vLLM's own HTTP API. What belongs to no engine but means something here: adapters, and what is here anyway."""


class _Wrong(Exception):
    """What the parser says."""


def main() -> None:
    if Path(sys.path[0]) == Path(__file__).parent:
        del sys.path[0]  # which has a vllm.py of ours
    asked = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM logs to stdout
    json.dump(look(asked["args"]), answer)
    answer.flush()


def look(args: list[str]) -> dict[str, Any]:
    try:
        vllm = import_module("vllm")
        registry = vllm.ModelRegistry
        engine_args = import_module("vllm.engine.arg_utils").AsyncEngineArgs
        platform = import_module("vllm.platforms").current_platform
        parser = _parser()
    except Exception as error:  # a broken environment raises anything
        return {"missing": _said(error)}
    found: dict[str, Any] = {
        "version": vllm.__version__,
        "device": platform.device_type,
        "has_command": _is_distribution("vllm"),
        "has_socket": any(action.dest == "uds" for action in parser._actions),
        "architectures": sorted(registry.get_supported_archs()),
    }
    engine = {field.name for field in dataclasses.fields(engine_args)}
    try:
        given = vars(parser.parse_args(args))
    except _Wrong as wrong:
        return found | {"wrong": str(wrong)}
    except (SystemExit, Exception) as error:  # --help ends; some of its types raise what they like
        return found | {"wrong": _said(error)}
    if given.get("model_tag") is not None:
        return found | {"wrong": f"unrecognized arguments: {given['model_tag']}"}
    adapters = [(one.name, one.path) for one in given.get("lora_modules") or ()]
    return found | {
        "given": sorted(given),
        "foreign": sorted(given.keys() - engine - _FRONTEND),
        "adapters": adapters,
        "tensor_parallel_size": given.get("tensor_parallel_size", 1),
    }


def _parser() -> Any:
    """vLLM's own, of its server, which raises what is wrong and has no defaults: what it reads was given."""
    make = _one("make_arg_parser", "vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
    flexible: Any = _one("FlexibleArgumentParser", "vllm.utils.argparse_utils", "vllm.utils")

    class Parser(flexible):  # type: ignore[misc]  # vLLM is not where this is checked
        def error(self, message: str) -> Any:
            raise _Wrong(message)

    parser = make(Parser(prog="vllm", add_help=False, allow_abbrev=False))
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    parser._defaults.clear()
    return parser


def _one(name: str, *modules: str) -> Any:
    """From the first of the modules that is there: they moved. Raises ImportError."""
    for module in modules[:-1]:
        try:
            return getattr(import_module(module), name)
        except ImportError:
            continue
    return getattr(import_module(modules[-1]), name)


def _is_distribution(name: str) -> bool:
    """The command `vllm` asks for its own version under this name, and the builds of others have another."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


if __name__ == "__main__":
    main()
