"""One HTTP request and the reply to it, as a protocol's functions see them.

Knows no protocol: header names, limits, codings and the caller going away are settled here, what the bytes mean is
not. Lives on the event loop, for as long as its request.
"""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import msgspec
import numpy as np
from starlette.types import Message, Receive, Scope

from modelserve.errors import (
    BodyTimeout,
    InvalidRequest,
    RequestCancelled,
    UnsupportedMedia,
)
from modelserve.protocols.aside import LARGE_BYTES, aside
from modelserve.protocols.caller import caller
from modelserve.protocols.coding import decompressed, too_large
from modelserve.protocols.context import Context
from modelserve.protocols.patience import patience
from modelserve.types import InferRequest, InferResponse

if TYPE_CHECKING:
    from modelserve.runtime.model import Model

P = ParamSpec("P")
T = TypeVar("T")

JSON = b"application/json"
_MAX_ID = 256


def plain(value: Any) -> Any:
    """What msgspec does not encode by itself: numpy arrays and scalars."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


encode = msgspec.json.Encoder(enc_hook=plain).encode
"""Compact JSON; numpy allowed, NaN and infinities become null."""


JsonList = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "array"})]
"""A field of an answer that `encode_many` fills."""


async def encode_many(values: Sequence[Any] | np.ndarray[Any, Any], piece: int) -> msgspec.Raw:
    """A list, or a flat array, as JSON; more than `piece` elements of it on a thread and piece by piece.

    One call of the encoder keeps the interpreter to itself, and 4096 embeddings take it a quarter of a second: too
    long for a health probe to wait.
    """
    if len(values) <= piece:
        return msgspec.Raw(encode(values))
    return await asyncio.to_thread(_encode_in_pieces, values, piece)


def _encode_in_pieces(values: Sequence[Any] | np.ndarray[Any, Any], piece: int) -> msgspec.Raw:
    pieces = (encode(values[start : start + piece])[1:-1] for start in range(0, len(values), piece))
    return msgspec.Raw(b"[" + b",".join(pieces) + b"]")


Chunks = AsyncGenerator[bytes, None]
"""A body in the making; closed when nobody reads on."""


@dataclass(slots=True)
class Reply:
    """What goes back: status, body and the headers that are the protocol's own.

    chunks: the body of a stream (sse.py). sent: it has gone out already.
    """

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    chunks: Chunks | None = None
    sent: bool = False


class Exchange:
    """One request on its way through a protocol.

    id: x-request-id, the caller's or a new one. path: as it came, percent-encoded, which no line of the log can be
    broken with; params: its parameters, decoded. size: bytes of the body, once it is read. `model` and `response` are
    what `infer` was last asked and answered, for the log and the metrics.
    """

    __slots__ = (
        "context",
        "headers",
        "id",
        "method",
        "model",
        "params",
        "path",
        "receive",
        "request",
        "response",
        "scope",
        "size",
    )

    def __init__(self, context: Context, scope: Scope, receive: Receive) -> None:
        self.context = context
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.path: str = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
        self.params: dict[str, str] = scope["path_params"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.id = self.header("x-request-id")[:_MAX_ID] or str(uuid.uuid4())
        self.size = 0
        self.model: Model | None = None
        self.request: InferRequest | None = None
        self.response: InferResponse | None = None

    def header(self, name: str) -> str:
        """Value of a header by its lower-case name, "" when absent."""
        return self.headers.get(name.encode(), b"").decode("latin-1")

    def media_type(self) -> str:
        """Content-Type without its parameters, lower case, "" when absent."""
        return self.header("content-type").partition(";")[0].strip().lower()

    async def body(self) -> bytes:
        """The whole body, decoded by its Content-Encoding.

        Raises RequestTooLarge as soon as more than --payload_limit bytes are announced, received or unpacked: what
        is not read here is dropped by the server as it arrives, so the connection stays usable. Raises BodyTimeout.
        """
        limit, patience = self.context.config.payload_limit, self.context.config.request_timeout
        length = self.header("content-length")
        if length.isdigit() and int(length) > limit:
            raise too_large(limit)
        try:
            async with asyncio.timeout(patience):
                data = await self._received_body(limit)
        except TimeoutError as error:
            raise BodyTimeout(f"The body did not arrive within the {patience:g} s of --request_timeout.") from error
        if len(data) > limit:
            raise too_large(limit)
        if encoding := self.header("content-encoding").strip().lower():
            data = await decompressed(data, encoding, limit)
        self.size = len(data)
        return data

    async def _received_body(self, limit: int) -> bytes:
        """The bytes as they came; no more are read once they are more than `limit`."""
        message = await self._received()
        data: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return data
        chunks, size = [data], len(data)
        while message.get("more_body") and size <= limit:
            message = await self._received()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
        return b"".join(chunks)

    async def _received(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise RequestCancelled("The caller went away before the whole request had arrived.")
        return message

    async def json(self, decoder: msgspec.json.Decoder[T]) -> T:
        """The body, decoded and checked. A missing Content-Type and application/octet-stream are read as JSON.

        Raises UnsupportedMedia for other types, InvalidRequest for bad JSON or a value of the wrong type.
        """
        self.require_json()
        body = await self.body()
        return await self.aside(decode, body, decoder)

    async def aside(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """The result of a function that works through the body, which was read; on a thread when it is large."""
        return await aside(self.size, function, *arguments, **keywords)

    def require_json(self) -> None:
        media = self.media_type()
        if media not in ("", "application/json", "application/octet-stream") and not media.endswith("+json"):
            raise UnsupportedMedia(f"Content-Type '{media[:80]}' is not read here; send application/json.")

    async def infer(self, model: Model, request: InferRequest) -> InferResponse:
        """The model's answer; given up after --request_timeout, or when the caller disconnects."""
        self.model, self.request = model, replace(request, caller=caller(self.id, self.header))
        async with patience(self):
            self.response = await model.infer(self.request)
        return self.response


def decode(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """JSON bytes as the decoder's type. Raises InvalidRequest, with `param` where the message has a path."""
    # A body of millions of small lists would be walked through again and again as they come into being.
    pause = len(data) > LARGE_BYTES and gc.isenabled()
    if pause:
        gc.disable()
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {_lower(str(error))}.") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest("The body is not valid JSON: a string in it is not UTF-8.") from error
    except RecursionError as error:
        raise InvalidRequest("The body is not valid JSON here: it is nested too deeply.") from error
    finally:
        if pause:
            gc.enable()


def invalid(error: msgspec.ValidationError) -> InvalidRequest:
    """msgspec's complaint as ours: "Expected `int`, got `str` - at `$.top_k`" names its field as `param`."""
    message, _, path = str(error).partition(" - at `")
    path = path.rstrip("`").removeprefix("$").removeprefix(".")
    if message.startswith("Object missing required field"):
        missing = f"{path}.{message.split('`')[1]}".removeprefix(".")
        return InvalidRequest(f"{missing} is missing.", param=missing)
    if not path:
        return InvalidRequest(f"{message}.")
    return InvalidRequest(f"{path}: {_lower(message)}.", param=path)


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
