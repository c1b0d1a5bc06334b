"""What is known of a model from its directory, before its weights are loaded: labels, sizes, longest input, task.

Reads config.json, the tokenizer's and sentence-transformers' configurations and the names in the safetensors
headers; imports no torch, and transformers only to name a reason. Runs in the load thread.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime.files import Files
from modelserve.runtime.heads import class_rows, infer, refusal
from modelserve.runtime.weights import read_json
from modelserve.types import ModelInfo

LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""Names of the longest input in config.json; the smallest counts (KServe's and vLLM's rule)."""

DEFAULT_LENGTH = 2048
"""Where config.json has none of them (KServe's rule)."""

COUNTED_FROM_PADDING = {
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
"""Model types whose first position is pad_token_id + 1, so that the positions below are never used
(create_position_ids_from_input_ids in transformers)."""

HIDDEN_SIZES = ("hidden_size", "dim", "d_model", "n_embd", "emb_dim")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
_SENTENCE_TASKS = ("text_embedding", "sequence_classification")
"""What sentence-transformers' embedding models and cross-encoders do."""
_NO_LIMIT = 10**9
"""Tokenizers without a limit say 10**30."""


def inspect(files: Files, config: Config) -> tuple[ModelInfo, str]:
    """What the directory says of the model, and the task: --task or the one it was made for.

    Raises LoadError when the weights cannot do the task, config.json contradicts them, or --max_length is too long.
    """
    described = files.config
    _check_code(described, config)
    architectures = described.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise LoadError(f"architectures in config.json is {architectures!r}, which is no list of names")
    task = config.task or infer(
        architectures, files.shapes, sentence_transformers=_is_sentence_transformers(files.model)
    )
    if reason := refusal(task, architectures, files.shapes):
        raise LoadError(reason)
    settings = _sentence_settings(files.model) if task in _SENTENCE_TASKS else {}
    id2label = _labels(described)
    if task in ("sequence_classification", "token_classification") and files.shapes is not None:
        found = class_rows(files.shapes)
        if found is not None and found[1] != len(id2label):
            raise LoadError(f"config.json has {len(id2label)} labels, but {found[0]} has {found[1]} rows")
    problem_type = described.get("problem_type")
    if problem_type is not None and problem_type not in PROBLEM_TYPES:
        raise LoadError(f"problem_type in config.json is {problem_type!r}; it must be {', '.join(PROBLEM_TYPES)}")
    info = ModelInfo(
        path=files.model,
        config=described,
        id2label=id2label,
        num_labels=len(id2label),
        problem_type=problem_type,
        hidden_size=_hidden_size(described),
        max_length=_max_length(files, config, settings),
        lower_case=bool(settings.get("do_lower_case")),
        sentence_transformers=_json_object(files.model / "config_sentence_transformers.json"),
        revision=files.revision,
    )
    return info, task


def _check_code(described: dict[str, Any], config: Config) -> None:
    """A model that only its own code can run is not run without leave."""
    model_type = described.get("model_type")
    own = described.get("auto_map")
    if not own and not isinstance(model_type, str):
        raise LoadError(f"model_type in config.json is {model_type!r}, so transformers cannot tell what model it is")
    if own and not config.trust_remote_code:
        from transformers import CONFIG_MAPPING  # a second, and the load needs it anyhow

        if model_type not in CONFIG_MAPPING:
            raise LoadError(
                f"a {model_type} model runs on code that comes with it, not on transformers'; "
                "give --trust_remote_code if you trust it"
            )


def _is_sentence_transformers(directory: Path) -> bool:
    """Whether modules.json is that of an embedding model: its other kinds have the file too, and say what they are."""
    if not (directory / "modules.json").is_file():
        return False
    kind = _json_object(directory / "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    if kind not in ("SentenceTransformer", "CrossEncoder"):
        raise LoadError(f"the model is a {kind} of sentence-transformers, which is not served")
    return bool(kind == "SentenceTransformer")


def _labels(described: dict[str, Any]) -> dict[int, str]:
    """id2label, complete. Two nameless labels where config.json has none: so do transformers' configurations."""
    given = described.get("id2label")
    if not given:
        count = _positive(described.get("num_labels")) or 2
        return {number: f"LABEL_{number}" for number in range(count)}
    try:
        names = {int(number): str(name) for number, name in given.items()}
    except (AttributeError, ValueError) as error:
        raise LoadError(f"id2label in config.json must map numbers to names ({error})") from error
    return {number: names.get(number, f"LABEL_{number}") for number in range(len(names))}


def _hidden_size(described: dict[str, Any]) -> int:
    size = next((size for name in HIDDEN_SIZES if (size := _positive(described.get(name)))), None)
    if size is None:
        raise LoadError(f"config.json has no hidden size ({', '.join(HIDDEN_SIZES)}), so it is no text encoder's")
    return size


def _sentence_settings(directory: Path) -> dict[str, Any]:
    """What sentence-transformers is told of the network: sentence_bert_config.json, once named after each network."""
    found = sorted(path for path in directory.glob("*.json") if re.fullmatch(r"sentence_.*_config", path.stem))
    return {name: value for path in found for name, value in _json_object(path).items()}


def _max_length(files: Files, config: Config, settings: dict[str, Any]) -> int:
    """--max_length, or what sentence-transformers or else the tokenizer says, and never more than the network takes.

    Only the network's own limit binds --max_length: the others are what its authors recommend.
    """
    limit, source = _limit(files.config)
    if config.max_length is not None:
        if config.max_length > limit and not config.allow_long_max_model_len:
            raise LoadError(
                f"--max_length {config.max_length} is above the model's limit of {limit} tokens ({source}); give at "
                f"most {limit}, or --allow_long_max_model_len (ALLOW_LONG_MAX_MODEL_LEN=1), with wrong answers or "
                "failures where the model cannot"
            )
        return config.max_length
    advised = _positive(settings.get("max_seq_length"))  # sentence-transformers overwrites the tokenizer's with it
    if advised is None:
        advised = _positive(_json_object(files.tokenizer / "tokenizer_config.json").get("model_max_length"))
    return min(limit, advised or limit)


def _limit(described: dict[str, Any]) -> tuple[int, str]:
    """Most tokens that the network takes, and where it is written."""
    lengths = [(length, name) for name in LENGTHS if (length := _positive(described.get(name)))]
    if not lengths:
        return DEFAULT_LENGTH, "config.json names none"
    limit, name = min(lengths)
    source = f"{name}={limit} in config.json"
    if described.get("model_type") not in COUNTED_FROM_PADDING:
        return limit, source
    padding = described.get("pad_token_id")
    unused = (padding if isinstance(padding, int) else 1) + 1  # 1 is the default of all of them
    return limit - unused, f"{source}, of which {unused} are not used"


def _positive(value: object) -> int | None:
    """A length or size that means something."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _NO_LIMIT:
        return None
    return int(value)


def _json_object(file: Path) -> dict[str, Any]:
    """A configuration that need not be there."""
    content = read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise LoadError(f"{file.name} is not a JSON object")
    return content
