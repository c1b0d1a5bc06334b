"""One gRPC call, from its bytes to its status: what every RPC of our service shares.

Turns errors into statuses by the one table, gives x-request-id back, has each call recorded once. Knows no RPC. Runs on
the event loop, one task per call, which grpc cancels when the caller goes away or its deadline passes.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from modelserve.errors import InvalidRequest, ModelServeError, RequestTimeout
from modelserve.protocols.caller import caller
from modelserve.protocols.context import Context
from modelserve.protocols.status import status
from modelserve.runtime.record import record
from modelserve.types import InferRequest, InferResponse

if TYPE_CHECKING:
    from modelserve.runtime.model import Model

log = logging.getLogger("modelserve")

_MAX_ID = 256
_MAX_DETAILS = 800
"""Characters of a status message: it travels in a header, and headers of more than 8 KiB are refused by clients."""


class Call:
    """One call on its way through an RPC.

    id: x-request-id of the metadata, the caller's or a new one. `model`, `request` and `response` are what `infer` was
    last asked and answered, for the log and the metrics.
    """

    __slots__ = ("_metadata", "context", "id", "model", "request", "response")

    def __init__(self, context: Context, metadata: Any) -> None:
        self.context = context
        self._metadata = dict(metadata)
        self.id = self._said("x-request-id")[:_MAX_ID] or str(uuid.uuid4())
        self.model: Model | None = None
        self.request: InferRequest | None = None
        self.response: InferResponse | None = None

    def _said(self, name: str) -> str:
        return str(self._metadata.get(name, ""))

    async def infer(self, model: Model, request: InferRequest) -> InferResponse:
        """The model's answer within --request_timeout."""
        self.model, self.request = model, replace(request, caller=caller(self.id, self._said))
        limit = self.context.config.request_timeout
        try:
            async with asyncio.timeout(limit) as timeout:
                self.response = await model.infer(self.request)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise RequestTimeout(f"No answer within the {limit:g} s of --request_timeout; try fewer texts.") from error
        return self.response


Function = Callable[[Call, Any], Awaitable[Any]]
"""What an RPC does: its message in, the answer's message out. Raises ModelServeError subclasses."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """The handler of one unary RPC. `message`: class of its request. quiet: not recorded (probes).

    It takes and gives bytes, so that a message that cannot be read, or an answer that cannot be written, is ours to
    answer and not grpc's, which would send the exception's text to the caller.
    """

    context: Context
    path: str
    message: Any
    function: Function
    quiet: bool = False

    async def answer(self, data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        started = perf_counter()
        call = Call(self.context, context.invocation_metadata())
        code, details, encoded = "OK", "", b""
        trailing = [("x-request-id", call.id)]
        try:
            encoded = (await self.function(call, self._read(data))).SerializeToString()
        except ModelServeError as error:
            code, details = status(error).grpc, error.message
            if retry_after_s := getattr(error, "retry_after_s", None):
                trailing.append(("retry-after", str(retry_after_s)))
        except asyncio.CancelledError:
            self._record(call, "DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED", started)
            raise
        except Exception:
            log.exception("Request %s failed: %s", call.id, self.path)
            code = "INTERNAL"
            details = f"The server failed on this request; its log says why under the id {call.id}."
        limit = self.context.config.grpc_max_send_message_length
        if len(encoded) > limit:
            # grpc gives it the same status, but after we have recorded a success, and with a traceback in the log.
            code = "RESOURCE_EXHAUSTED"
            details = (
                f"The answer has {len(encoded)} bytes, at most {limit} are allowed (--grpc_max_send_message_length); "
                "send fewer texts."
            )
            encoded = b""
        self._record(call, code, started)
        if call.response is not None and call.response.tokens_dropped:
            trailing.append(("x-modelserve-tokens-dropped", str(call.response.tokens_dropped)))
        context.set_trailing_metadata(tuple(trailing))
        if code != "OK":
            context.set_code(grpc.StatusCode[code])
            context.set_details(_short(details))
        return encoded

    def _read(self, data: bytes) -> Any:
        try:
            return self.message.FromString(data)
        except DecodeError as error:
            raise InvalidRequest(f"The message is no {self.message.DESCRIPTOR.full_name}.") from error

    def _record(self, call: Call, code: str, started: float) -> None:
        if self.quiet:
            return
        request, model = call.request, call.model
        record(
            self.context.config,
            api="grpc",
            task=(model.task_name if model else None) or "",
            code=code,
            id=call.id,
            path=self.path,
            texts=len(request.instances) if request else 0,
            response=call.response,
            total_s=perf_counter() - started,
            request_texts=request.instances if request else (),
        )


def _short(details: str) -> str:
    return details if len(details) <= _MAX_DETAILS else details[: _MAX_DETAILS - 1] + "…"
