"""What every protocol of generative models does around one: find it, write, and say what was written for the record.

Knows no body. Runs on the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from modelserve.errors import InvalidRequest
from modelserve.generation import Generated, GenerateRequest, Piece
from modelserve.protocols.exchange import Exchange
from modelserve.protocols.usage import Usage, usage
from modelserve.types import InferRequest, Instance, TokenIds

if TYPE_CHECKING:
    from modelserve.runtime.generator import Generation
    from modelserve.runtime.model import Model


def generative(exchange: Exchange, name: str, api: str, version: str | None = None) -> Model:
    """The model, if it writes text; also by the name of an adapter, which the request must name then.

    Raises ModelNotFound, NotReady, and InvalidRequest for one that does not.
    """
    model = exchange.model = exchange.context.models.writer(name, version)
    model.check_ready()
    if not model.generates:
        raise InvalidRequest(f"Model {model.name} does not support {api}", param="model")
    return model


def asks(exchange: Exchange, model: Model, prompts: Sequence[str | list[int]]) -> None:
    """What is asked, for the record and the log."""
    texts: list[Instance] = [one if isinstance(one, str) else TokenIds(one) for one in prompts]
    exchange.request = InferRequest(model.name, texts, id=exchange.id)


@asynccontextmanager
async def writing(exchange: Exchange, model: Model, request: GenerateRequest) -> AsyncIterator[Generation]:
    """The generation under way; cancelled when the block is left before its end."""
    generation = await model.generate(request)
    try:
        yield generation
    finally:
        await generation.aclose()
        exchange.response = generation.response


async def written(exchange: Exchange, model: Model, request: GenerateRequest) -> Generated:
    """Everything at once."""
    generated, exchange.response = await model.collect(request)
    return generated


class Meter:
    """Counts the tokens of a stream."""

    def __init__(self, generation: Generation) -> None:
        self._prompt_tokens = generation.prompt_tokens
        self._written: dict[int, int] = {}

    def add(self, piece: Piece) -> None:
        self._written[piece.index] = piece.completion_tokens

    def usage(self) -> Usage:
        """So far."""
        return usage(self._prompt_tokens, sum(self._written.values()))
