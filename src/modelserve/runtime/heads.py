"""What the weights of a model can do: which task its architecture names, and whether the head for a task is there.

A head that the weights lack would be filled with random numbers, and is never served. Here that is told early, from
config.json and the names in the safetensors headers; the last word has the load, by the keys that transformers
reports as missing (`missing_head`). Pure functions; import neither torch nor transformers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from modelserve.errors import LoadError
from modelserve.registry import TASKS
from modelserve.runtime.weights import Shapes, listed

GENERATIVE = ("text_generation", "text2text_generation")

_ARCHITECTURES: tuple[tuple[str, str], ...] = (
    ("ForSequenceClassification", "sequence_classification"),
    ("ForTokenClassification", "token_classification"),
    ("ForMaskedLM", "fill_mask"),
    # Two architectures older than the rule: their language modelling head fills masks.
    ("XLMWithLMHeadModel", "fill_mask"),
    ("FlaubertWithLMHeadModel", "fill_mask"),
    ("ForCausalLM", "text_generation"),
    ("ForConditionalGeneration", "text2text_generation"),
    ("ForSeq2SeqLM", "text2text_generation"),
    ("T5WithLMHeadModel", "text2text_generation"),
    ("MTModel", "text2text_generation"),  # MarianMTModel
    ("LMHeadModel", "text_generation"),
    ("Model", "text_embedding"),
)
"""End of an architecture's name -> the task that its class is for; the first that fits."""

_MASKED_LM = re.compile(
    r"(cls\.predictions|lm_predictions|predictions|lm_head|vocab_(transform|layer_norm|projector)"
    r"|generator_(predictions|lm_head)|pred_layer|lm_loss)\.|decoder\.(weight|bias)$"
)
"""Tensors of the heads that fill masks: bert and deberta, albert, roberta and mpnet, distilbert, electra, xlm, xlnet,
modernbert. Their large matrix is often not in the file: it is the word embeddings' (tied)."""

_CLASSIFIER = re.compile(r"(classifier|pre_classifier|score|classification_head|logits_proj|sequence_summary)\.")
"""Tensors of the heads that classify, sequences or tokens."""

_CLASSES = re.compile(r"(classifier|score|classification_head|logits_proj)(\.out_proj|\.out)?\.weight$")
"""The matrix with one row per class."""

_TRUNK = {"embeddings", "encoder", "layers", "layer", "transformer", "h", "wte", "embed_tokens", "word_embedding"}
"""What every encoder has below the model's prefix, or at the root of a bare model's tensors."""

_BODY = _TRUNK | {"pooler", "wpe", "norm", "final_norm", "ln_f", "shared", "rel_embeddings", "embeddings_project"}
"""Further parts of bare models."""

_TWO_HALVES = ("t5", "mt5", "umt5")
"""Model types of which AutoModel loads encoder and decoder, and an embedding reads the encoder's only (sentence-t5,
gtr-t5)."""


def infer(architectures: Sequence[str], shapes: Shapes | None, *, sentence_transformers: bool) -> str:
    """The task that a model was made for. Raises LoadError, which says to set --task, when nothing tells."""
    if sentence_transformers:
        return "text_embedding"
    if architectures:
        name = architectures[0]
        if name.endswith("ForPreTraining"):  # BERT's has the masked language model's head; ELECTRA's judges tokens
            return "fill_mask" if shapes is not None and _has(_MASKED_LM, shapes) else "text_embedding"
        task = _made_for(name)
        if task is None:
            raise LoadError(f"{name} names none of the tasks {', '.join(TASKS)}; set --task (text_embedding, say)")
        return task
    task = _by_names(shapes) if shapes is not None else None
    if task is None:
        raise LoadError("config.json names no architecture and the weights do not tell the task; set --task")
    return task


def refusal(task: str, architectures: Sequence[str], shapes: Shapes | None) -> str | None:
    """Why these weights cannot do the task, in one sentence; None when they can, or when only the load can tell."""
    architecture = architectures[0] if architectures else ""
    made_for = _made_for(architecture)
    if task in GENERATIVE:
        if made_for == task:
            return None
        return f"the task {task} cannot be served: {architecture or 'the model'} is no architecture that does it" + (
            f"; it is made for {made_for}" if made_for else ""
        )
    why = _lack(task, architecture, made_for, shapes)
    if why is None:
        return None
    able = [other for other in TASKS if other != task and _lack(other, architecture, made_for, shapes) is None]
    return (
        f"the task {task} cannot be served: {why}, and a head with random weights is never served; "
        f"the model can do {' and '.join(able)}"
    )


def missing_head(missing_keys: Collection[str], task: str) -> str | None:
    """Whether tensors that transformers did not find in the files matter to the task: the reason, or None.

    For text_embedding a pooler that is not there does no harm: embeddings are made of the last hidden state, which
    comes before it. For every other task it is part of the head.
    """
    keys = [key for key in missing_keys if not (task == "text_embedding" and "pooler" in key.split("."))]
    if not keys:
        return None
    return (
        f"the task {task} cannot be served: the weights lack {listed(keys)}, which would be random, "
        "and a head with random weights is never served"
    )


def encoder_class(task: str, auto_class: str, model_type: object) -> str:
    """The class of transformers that loads the network: the task's, but for embeddings of models with two halves."""
    return "AutoModelForTextEncoding" if task == "text_embedding" and model_type in _TWO_HALVES else auto_class


def class_rows(shapes: Shapes) -> tuple[str, int] | None:
    """The tensor that has one row per class, and how many; None where there is none or its name is unknown."""
    return next(((name, shape[0]) for name, shape in shapes.items() if len(shape) == 2 and _CLASSES.match(name)), None)


def _made_for(architecture: str) -> str | None:
    return next((task for end, task in _ARCHITECTURES if architecture.endswith(end)), None)


def _lack(task: str, architecture: str, made_for: str | None, shapes: Shapes | None) -> str | None:
    if task == "text_embedding":
        return None
    if made_for in GENERATIVE:
        return f"{architecture} generates text"
    if task == "fill_mask":
        head, wanted = "masked language modelling head", _MASKED_LM
    else:
        head, wanted = "classification head", _CLASSIFIER
        # The two kinds of classifier can have tensors of the same names.
        if made_for in ("sequence_classification", "token_classification") and made_for != task:
            return f"its head is for {made_for} ({architecture})"
        if architecture and made_for is None and not architecture.endswith("ForPreTraining"):
            return f"its head is another one ({architecture})"
    if shapes is None or _has(wanted, shapes):
        return None
    if made_for == task and _has_other(shapes):
        return None  # a head whose names are not known here: the load decides
    return f"the model has no {head}" + (f" ({architecture})" if architecture else "")


def _by_names(shapes: Shapes) -> str | None:
    if _has(_MASKED_LM, shapes):
        return "fill_mask"
    if not _has(_CLASSIFIER, shapes):
        return None if _has_other(shapes) else "text_embedding"
    sequence = re.compile(r"classifier\.out_proj\.|classification_head\.|pre_classifier\.|pooler\.|[^.]+\.pooler\.")
    return "sequence_classification" if _has(sequence, shapes) else None


def _has(pattern: re.Pattern[str], shapes: Shapes) -> bool:
    return any(pattern.match(name) for name in shapes)


def _has_other(shapes: Shapes) -> bool:
    """Whether there are tensors outside of the encoder."""
    names = [name.split(".") for name in shapes]
    bodies = {parts[0] for parts in names if parts[0] in _BODY or (len(parts) > 1 and parts[1] in _TRUNK)}
    return any(parts[0] not in bodies for parts in names)
