"""A remote predictor over V2 and gRPC, with Triton's model configuration where it has one.

Blocking; several threads may ask at once, over one connection that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import grpc
import numpy as np

from modelserve import pb
from modelserve.backends.remote_answer import index_of, tensor
from modelserve.backends.remote_failure import CONNECT_S, absent, late, queue_is_full, sentence, silent
from modelserve.backends.remote_model import RemoteModel, headers_of
from modelserve.errors import LoadError, ModelServeError, Overloaded, PredictorDown, PredictorFailed, RequestTimeout
from modelserve.types import Caller, Tensor, TensorSpec

_SERVICE = f"/{pb.SERVICE.full_name}/"
_METHODS = ("ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "RepositoryIndex", "ModelInfer")
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    # A server that was restarted is found again in a second, not in two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),  # how often a request is tried is said by a flag
    ("grpc.enable_http_proxy", 0),  # as over REST
    ("grpc.use_local_subchannel_pool", 1),  # or a second channel would share the first one's connection
]
_UNSENT = ("failed to connect", "connections to all backends failing", "DNS resolution failed", "name resolution")
"""How grpc begins to say UNAVAILABLE where no connection could be had, so that nothing was sent."""
_OF_INPUT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
"""What is answered where one of the texts cannot be computed, or where they are too many."""
_TOO_LARGE = "larger than max"
"""How grpc says RESOURCE_EXHAUSTED of a message over its limit: another try would be no smaller."""

_NOBODY = Caller()
_SILENT = 2
"""Looks without an answer, after which there is a new connection: where the other machine is gone, nobody ends the old
one, and TCP goes on for a quarter of an hour. (A keepalive of HTTP/2 is for a server to allow; Triton's allows two.)"""
_WELL = 5
"""Looks with an answer over the new connection, five seconds apart where somebody waits, after which whoever still
waits on the old one is told that it is lost."""


class GrpcV2:
    """Fulfils remote_model.Predictor."""

    def __init__(
        self, host: str, port: int, name: str, *, credentials: grpc.ChannelCredentials | None, most: int = 2**30
    ) -> None:
        """credentials: of TLS; None without. most: bytes of an answer."""
        self._options = [*_OPTIONS, ("grpc.max_receive_message_length", most)]
        self.where = f"{host}:{port}"
        self._name = name
        self._credentials = credentials
        self._calls = self._open()
        self._former: grpc.Channel | None = None
        """The connection before this one, on which somebody may still wait."""
        self._silent = self._well = 0
        """Looks in a row without an answer, and with one."""

    def describe(self) -> RemoteModel:
        try:
            found = self._described()
        except RequestTimeout as error:
            self._silent += 1
            self._well = 0
            if self._silent == _SILENT:
                self._reopen()
            raise silent(self.where) from error
        self._silent = 0
        self._well += 1
        if self._former is not None and self._well >= _WELL:
            self._former.close()
            self._former = None
        return found

    def _described(self) -> RemoteModel:
        ready = self._ask("ModelReady", pb.message("ModelReadyRequest")(name=self._name), absent_is_none=True)
        if ready is None or not ready.ready:
            self._check_there(known=ready is not None)
            raise PredictorDown(f"the remote predictor at {self.where} is not ready for {self._name}")
        server = self._ask("ServerMetadata", pb.message("ServerMetadataRequest")())
        said = self._ask("ModelMetadata", pb.message("ModelMetadataRequest")(name=self._name))
        found = self._ask("ModelConfig", pb.message("ModelConfigRequest")(name=self._name), absent_is_none=True)
        config = None if found is None else found.config
        groups = config.instance_group if config is not None else ()
        return RemoteModel(
            inputs=_specs(said.inputs),
            outputs=_specs(said.outputs),
            optional=frozenset(one.name for one in config.input if one.optional) if config is not None else frozenset(),
            max_batch_size=config.max_batch_size if config is not None else None,
            instances=sum(max(1, group.count) * max(1, len(group.gpus)) for group in groups) or None,
            server=f"{server.name} {server.version}".strip(),
            platform=said.platform,
        )

    def infer(self, inputs: Sequence[Tensor], output: str, numbers: int, caller: Caller, timeout_s: float) -> Tensor:
        request = pb.ModelInferRequest(model_name=self._name, id=caller.request_id)
        for given in inputs:
            request.inputs.add(name=given.name, datatype=given.datatype, shape=given.shape)
            request.raw_input_contents.append(np.asarray(given.data).tobytes())
        request.outputs.add(name=output)
        answered = self._ask("ModelInfer", request, timeout_s=timeout_s, caller=caller)
        try:
            return _answer(answered, output)
        except ValueError as error:
            raise PredictorFailed(f"the remote predictor's answer cannot be read ({error})") from error

    def close(self) -> None:
        self._channel.close()
        if self._former is not None:
            self._former.close()

    def _open(self) -> dict[str, Any]:
        """The calls over a new connection."""
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self.where, options=self._options)
        else:
            self._channel = grpc.secure_channel(self.where, self._credentials, options=self._options)
        return {
            method: self._channel.unary_unary(
                _SERVICE + method,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=pb.message(f"{method}Response").FromString,
            )
            for method in _METHODS
        }

    def _reopen(self) -> None:
        """Another machine may have the address by now. What waits on this connection may be answered yet: the other one
        may only be busy."""
        if self._former is not None:
            self._former.close()
        self._former = self._channel
        self._calls = self._open()

    def _check_there(self, *, known: bool) -> None:
        """Raises LoadError where there is no such model. known: the server did not say that it does not know it."""
        index = self._ask("RepositoryIndex", pb.message("RepositoryIndexRequest")(), absent_is_none=True)
        if index is None:
            if not known:
                raise absent(self.where, self._name, None)
            return
        names = sorted({model.name for model in index.models})
        if self._name not in names:
            raise absent(self.where, self._name, names)

    def _ask(
        self,
        method: str,
        request: Any,
        *,
        timeout_s: float | None = None,
        caller: Caller = _NOBODY,
        absent_is_none: bool = False,
    ) -> Any:
        timeout_s = timeout_s or CONNECT_S
        try:
            return self._calls[method](request, timeout=timeout_s, metadata=tuple(headers_of(caller).items()))
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if absent_is_none and code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):
                return None
            if absent_is_none and code is grpc.StatusCode.INVALID_ARGUMENT:  # so Triton speaks of unknown models
                return None
            self._refused(code, details, timeout_s, error)
        except ValueError as error:  # the channel is closed
            raise PredictorDown("the server is shutting down") from error

    def _refused(self, code: grpc.StatusCode, details: str, timeout_s: float, error: grpc.RpcError) -> NoReturn:
        said = sentence(details)
        raised: ModelServeError
        if code is grpc.StatusCode.UNAVAILABLE and queue_is_full(details):
            raised = Overloaded(f"the remote predictor is busy: {said}")
        elif code is grpc.StatusCode.UNAVAILABLE:
            sent = not any(part in details for part in _UNSENT)
            raised = PredictorDown(f"the remote predictor at {self.where} is not available ({said})", begun=sent)
        elif code is grpc.StatusCode.CANCELLED:
            raised = PredictorDown(f"the remote predictor at {self.where} gave the request up ({said})", begun=True)
        elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE not in details:
            raised = Overloaded(f"the remote predictor is busy: {said}")
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raised = late(self.where, timeout_s)
        else:
            raised = PredictorFailed(f"the remote predictor answered {code.name}: {said}", of_input=code in _OF_INPUT)
        raise raised from error


def credentials(ca_file: str | None) -> grpc.ChannelCredentials:
    """By those authorities, or by grpc's own. Raises LoadError."""
    try:
        roots = None if ca_file is None else Path(ca_file).expanduser().read_bytes()
    except OSError as error:
        raise LoadError(f"--predictor_ca_file {ca_file} cannot be read ({error.strerror or error})") from error
    return grpc.ssl_channel_credentials(roots)


def _specs(described: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(one.name, one.datatype.upper(), tuple(one.shape)) for one in described)


def _answer(answered: Any, output: str) -> Tensor:
    """The output of that name. Raises PredictorFailed where it is not there, ValueError where it is not whole."""
    index = index_of([one.name for one in answered.outputs], output)
    one, raw = answered.outputs[index], answered.raw_output_contents
    if raw and len(raw) != len(answered.outputs):
        raise ValueError(f"{len(raw)} raw contents for {len(answered.outputs)} outputs")
    numbers = one.contents.fp32_contents or one.contents.fp64_contents
    return tensor(one.name, one.datatype, one.shape, raw[index] if raw else None, numbers)
