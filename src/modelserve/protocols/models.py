"""What is served, in one body for two kinds of clients: V1's keys and OpenAI's.

/v1/models and /v1/models/{model} are routes of both APIs; V1's clients read `models`, `name` and `ready`, OpenAI's
read `data`, `id` and `created`. Knows no route.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from modelserve.runtime.model import Model, Models


class ModelCard(msgspec.Struct):
    """One model. `created` is in Unix seconds."""

    name: str
    ready: bool
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str | None
    parent: str | None
    max_model_len: int | None
    """Most tokens of one input, once the model is loaded."""
    permission: list[str]


class ModelList(msgspec.Struct):
    """Every model that is not unloaded."""

    models: list[str]
    object: Literal["list"]
    data: list[ModelCard]


def model_card(model: Model) -> ModelCard:
    return ModelCard(
        name=model.name,
        ready=model.ready,
        id=model.name,
        object="model",
        created=model.created,
        owned_by="modelserve",
        root=None,
        parent=None,
        max_model_len=model.info.max_length if model.info else None,
        permission=[],
    )


def adapter_card(model: Model, name: str) -> ModelCard:
    """Of one of its adapters: like the model's own, which is its parent."""
    return msgspec.structs.replace(model_card(model), name=name, id=name, root=model.adapters[name], parent=model.name)


def model_list(models: Models) -> ModelList:
    """Adapters are OpenAI's: V1 predicts with models."""
    names = models.names()
    cards = []
    for name in names:
        model = models.get(name)
        cards += [model_card(model), *(adapter_card(model, adapter) for adapter in model.adapters)]
    return ModelList(names, "list", cards)
