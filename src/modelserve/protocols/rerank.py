"""Rerank, in the shape that Cohere's and Jina's APIs share: documents in the order of their relevance to a query.

Answered by cross-encoders: sequence classifiers of one label that read query and document together. Bytes <-> types
only; runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from modelserve.errors import InvalidRequest, NotSupported
from modelserve.protocols.exchange import Exchange, Reply, encode
from modelserve.protocols.openai_errors import read
from modelserve.runtime.model import Model
from modelserve.types import InferRequest, Instance, Params, TextPair

Array = np.ndarray[Any, Any]


class Document(msgspec.Struct):
    text: str


class Rerank(msgspec.Struct):
    """The body of a rerank request; other keys are ignored."""

    model: str
    query: str
    documents: Annotated[list[str | Document], Meta(min_length=1)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    """Only so many results; all when not given."""
    return_documents: bool | None = None
    """Repeat the text of each document in its result."""


class Result(msgspec.Struct):
    """`index` is the document's place in the request."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class RerankUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class RerankTokens(msgspec.Struct):
    input_tokens: int


class RerankMeta(msgspec.Struct):
    tokens: RerankTokens


class Reranked(msgspec.Struct):
    """Results, the most relevant one first. Jina's clients read `usage`, Cohere's `meta`."""

    object: Literal["list"]
    id: str
    model: str
    results: list[Result]
    usage: RerankUsage
    meta: RerankMeta


_rerank = msgspec.json.Decoder(Rerank)
_HINTS = {
    "model": "it names the model",
    "query": "it is a text",
    "documents": 'it is a list of at least one text or {"text": "…"}',
    "top_n": "it is a number of results, 1 or more",
    "return_documents": "it is true or false",
}


async def rerank(exchange: Exchange) -> Reply:
    asked = await read(exchange, _rerank, _HINTS)
    model = exchange.model = exchange.context.models.get(asked.model)
    model.check_ready()
    activation = _activation(model)
    pairs = await exchange.aside(_pairs, asked)
    params = Params(return_raw_logits=True)
    response = await exchange.infer(model, InferRequest(model.name, pairs, params, id=exchange.id, api="openai"))
    scores = activation(np.array([logits["0"] for logits in response.predictions]))
    # Stable: equally relevant documents stay in the caller's order.
    best = np.argsort(-scores, kind="stable")[: asked.top_n].tolist()
    results = [
        Result(
            index,
            float(scores[index]),
            Document(_text(asked.documents[index])) if asked.return_documents else UNSET,
        )
        for index in best
    ]
    tokens = sum(response.tokens)
    answer = Reranked(
        "list", exchange.id, model.name, results, RerankUsage(tokens, tokens), RerankMeta(RerankTokens(tokens))
    )
    return Reply(encode(answer))


def _pairs(asked: Rerank) -> list[Instance]:
    return [TextPair(asked.query, _text(document)) for document in asked.documents]


def _text(document: str | Document) -> str:
    return document if isinstance(document, str) else document.text


def _activation(model: Model) -> Callable[[Array], Array]:
    """What makes scores of the model's logits. Raises InvalidRequest when it is no cross-encoder."""
    if model.info is None or model.task_name != "sequence_classification":
        it_is = f"its task is {model.task_name}"
    elif model.info.num_labels != 1:
        it_is = f"it tells {model.info.num_labels} classes apart"
    else:
        return activation_of(model.info.config, model.info.sentence_transformers)
    raise InvalidRequest(
        f"Model {model.name} does not support Rerank API: {it_is}, and reranking needs a cross-encoder, which is "
        "a sequence_classification model of one label.",
        param="model",
    )


def activation_of(
    config: Mapping[str, Any], settings: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Array], Array]:
    """The activation that a cross-encoder of one label names, sigmoid when it names none.

    sentence-transformers writes it in config_sentence_transformers.json (settings); it did in config.json from its
    release 4 on, and there under another name before. Raises NotSupported for one that is not known here.
    """
    path = settings.get("activation_fn") or (config.get("sentence_transformers") or {}).get("activation_fn")
    path = path or config.get("sbert_ce_default_activation_function") or "Sigmoid"
    name = str(path).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise NotSupported(
            f"The model's configuration names the activation {path}; known here are {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def _sigmoid(logits: Array) -> Array:
    # By tanh, which does not overflow for large logits.
    half: Array = 0.5 + 0.5 * np.tanh(0.5 * logits)
    return half


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"Sigmoid": _sigmoid, "Identity": np.asarray, "Tanh": np.tanh}
