"""The engine on OpenVINO: the batcher of our own over a converted model (backends/openvino.py).

Blocking; runs in the load thread. Knows no protocol.
"""

from __future__ import annotations

import logging
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime import conversions
from modelserve.runtime.engines import Built, end_ids, iterating, said_ends
from modelserve.runtime.modality import At
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.types import ModelInfo

log = logging.getLogger(__name__)


def converted(config: Config, info: ModelInfo) -> Path | None:
    """The directory of a conversion of this model that passed its check with the OpenVINO of this environment and
    computes in --dtype, for `auto`. Cheap; imports no openvino but to ask whether this CPU computes in bfloat16."""
    if find_spec("openvino") is None or config.dtype not in (None, "auto", "float32", "bfloat16"):
        return None
    found = conversions.find(info.path)
    record = None if found is None else conversions.read(found)
    if record is None:
        return None
    checked, here = record.versions.get("checked with openvino", "another version"), metadata.version("openvino")
    if _release(checked) != _release(here):
        log.warning("a conversion was checked with openvino %s, and here is %s; convert the model again", checked, here)
        return None
    if config.dtype == "bfloat16":
        from modelserve.backends.openvino import computes_in_bfloat16

        if not computes_in_bfloat16():
            return None
    return found


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def build(config: Config, info: ModelInfo, task_name: str, tokenizer: Tokenizer, at: At) -> Built:
    """Raises LoadError."""
    from modelserve.backends.cores import cores
    from modelserve.backends.openvino import OpenVinoDecoder

    _check(config, info, task_name)
    directory = conversions.find(info.path, ("float32", "int8"))
    if directory is None:
        raise LoadError(f"the openvino backend serves converted models, and this one is not; {_how(config)}")
    record = conversions.read(directory)
    assert record is not None, "find reads it"
    dtype = "float32" if config.dtype in (None, "auto") else str(config.dtype)
    decoder = OpenVinoDecoder(directory, dtype=dtype, threads=config.threads or cores())
    if decoder.vocabulary < tokenizer.rows:
        raise LoadError(f"the conversion has {decoder.vocabulary} tokens, the model {tokenizer.rows}; convert it again")
    at("warm-up", 0.8)
    engine = iterating(config, decoder, end_ids(said_ends(info), tokenizer), info.max_length)
    return Built(engine, f"texts join and leave between steps of OpenVINO, {_from(record, dtype)}")


def _check(config: Config, info: ModelInfo, task_name: str) -> None:
    """Raises LoadError for what this engine never serves."""
    if task_name != "text_generation" or info.config.get("is_encoder_decoder"):
        raise LoadError("the openvino backend writes with decoder-only models; give --backend huggingface")
    if config.device == "cuda":
        raise LoadError(
            "--device cuda: the openvino backend computes on the CPU; give --device cpu, or another backend"
        )


def _how(config: Config) -> str:
    """The command that converts it."""
    model = f"--model_id {config.model_id}" if config.model_id else f"--model_dir {config.model_dir}"
    if config.model_id and config.model_revision:
        model += f" --model_revision {config.model_revision}"
    return f"`modelserve convert {model} --to openvino` makes a conversion"


def _from(record: conversions.Record, dtype: str) -> str:
    """What it computes with, and how near that is to the model."""
    if dtype == "float32" and record.weights == "float32":
        return "whose tokens were found to be transformers'"
    known = record.deviations.get(dtype)
    near = (
        f"{known.equal:.1%} of {known.tokens} tokens are transformers'" if known else "not compared with transformers"
    )
    return f"{record.weights} weights in {dtype}, {near}"
