"""Remote predictors for tests: real servers on loopback over REST, gRPC and V1, whose network is arithmetic.

The network's number c of a token is id * (c + 1) + 100 * type; of a text the sum of its tokens' by the mask. So whoever
is asked wrongly answers wrongly. `fault` is called for each inference and may answer otherwise.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np

from modelserve import pb
from modelserve.datatypes import DTYPES
from modelserve.types import Array

CLASSES = 3


class Drop(Exception):
    """Break the connection off instead of answering."""


@dataclass
class Fault:
    """What is answered instead. status: HTTP's; code: gRPC's."""

    status: int = 500
    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    body: bytes = b'{"error": "it broke"}'
    details: str = "it broke"
    headers: dict[str, str] = field(default_factory=dict)
    piece_s: float = 0.0
    """Pause after each byte of the body."""
    raw: Callable[[], Iterator[bytes]] | None = None
    """What goes over the connection instead of an answer."""


@dataclass
class Asked:
    """A request for inference, as it came."""

    tensors: dict[str, Array]
    headers: dict[str, str]
    id: str = ""


@dataclass
class Predicting:
    """A model `m`, and what has been asked of it."""

    inputs: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in ("input_ids", "attention_mask")
        ]
    )
    outputs: list[dict[str, Any]] = field(
        default_factory=lambda: [{"name": "logits", "datatype": "FP32", "shape": [-1, -1, CLASSES]}]
    )
    config: dict[str, Any] | None = field(default_factory=lambda: {"max_batch_size": 8})
    extensions: list[str] = field(default_factory=lambda: ["binary_tensor_data"])
    index: list[str] | None = field(default_factory=lambda: ["m", "other"])
    ready: bool = True
    fault: Callable[[Asked], Fault | None] = lambda asked: None
    answer: Callable[[Array], Array] = lambda answer: answer
    """What is made of the network's answer."""
    asked: list[Asked] = field(default_factory=list)
    look: Callable[[], None] = lambda: None
    """Called when it is asked whether the model is ready."""
    connections: int = 0
    tls: ssl.SSLContext | None = None

    def names(self) -> dict[str, str]:
        """transformers' names of the inputs by theirs: a test may call them otherwise, in the usual order."""
        usual = ("input_ids", "attention_mask", "token_type_ids")
        return {one["name"]: ours for one, ours in zip(self.inputs, usual, strict=False)}

    def network(self, tensors: dict[str, Array]) -> Array:
        """float32 [B, L, C], or [B, C] where the output has two dimensions (one fewer where the inputs have one)."""
        said = {self.names().get(name, name): values.astype(np.int64) for name, values in tensors.items()}
        ids = said["input_ids"]
        mask = said.get("attention_mask", np.ones_like(ids))
        types = said.get("token_type_ids", np.zeros_like(ids))
        numbers = (ids[..., None] * np.arange(1, CLASSES + 1) + 100 * types[..., None]) * mask[..., None]
        whole = numbers if len(self.outputs[0]["shape"]) > ids.ndim else numbers.sum(-2)
        return self.answer(whole.astype(np.float32))

    def encoded(self, answer: Array) -> bytes:
        """The answer's bytes in the output's datatype."""
        datatype = self.outputs[0]["datatype"]
        if datatype == "BF16":
            return (answer.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        return answer.astype(DTYPES[datatype]).tobytes()

    def infer(self, asked: Asked) -> Fault | Array:
        self.asked.append(asked)
        return self.fault(asked) or self.network(asked.tensors)


class _Rest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    predicting: Predicting

    def setup(self) -> None:
        super().setup()
        self.predicting.connections += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        it = self.predicting
        said: dict[str, Any] = {
            "/v2": {"name": "arithmetic", "version": "1", "extensions": it.extensions},
            "/v2/models/m": {"name": "m", "platform": "numpy", "inputs": it.inputs, "outputs": it.outputs},
            "/v2/models/m/config": it.config,
        }
        if self.path == "/v2/models/m/ready":
            self._send(200 if it.ready else 503, b"")
        elif self.path == "/v1/models/m":
            self._json(200 if it.ready else 503, {"name": "m", "ready": it.ready})
        elif said.get(self.path) is not None:
            self._json(200, said[self.path])
        else:
            self._json(404, {"error": "no such thing"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            if self.path == "/v2/repository/index" and self.predicting.index is not None:
                self._json(200, [{"name": name} for name in self.predicting.index])
            elif self.path == "/v2/models/m/infer":
                self._v2(body)
            elif self.path == "/v1/models/m:predict":
                self._v1(body)
            else:
                self._json(404, {"error": "no such thing"})
        except Drop:
            self.close_connection = True
            self.connection.shutdown(2)

    def _v2(self, body: bytes) -> None:
        size = int(self.headers.get("inference-header-content-length", len(body)))
        said = json.loads(body[:size])
        tensors: dict[str, Array] = {}
        at = size
        for one in said["inputs"]:
            length = one.get("parameters", {}).get("binary_data_size")
            dtype = DTYPES[one["datatype"]]
            values = (
                np.frombuffer(body[at : at + length], dtype) if length is not None else np.array(one["data"], dtype)
            )
            at += length or 0
            tensors[one["name"]] = values.reshape(one["shape"])
        answer = self.predicting.infer(Asked(tensors, dict(self.headers), said["id"]))
        if isinstance(answer, Fault):
            self._fault(answer)
            return
        output = dict(self.predicting.outputs[0], shape=list(answer.shape))
        wanted = said["outputs"][0]
        if not wanted.get("parameters", {}).get("binary_data"):
            self._json(200, {"outputs": [output | {"data": answer.ravel().tolist()}]})
            return
        raw = self.predicting.encoded(answer)
        head = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
        self._send(200, head + raw, {"Inference-Header-Content-Length": str(len(head))})

    def _v1(self, body: bytes) -> None:
        instances = json.loads(body)["instances"]
        tensors = {name: np.array([one[name] for one in instances]) for name in instances[0]}
        answer = self.predicting.infer(Asked(tensors, dict(self.headers)))
        if isinstance(answer, Fault):
            self._fault(answer)
        else:
            self._json(200, {"predictions": answer.tolist()})

    def _fault(self, fault: Fault) -> None:
        if fault.raw is not None:
            self.close_connection = True
            with suppress(OSError):
                for piece in fault.raw():
                    self.wfile.write(piece)
            return
        self._send(fault.status, fault.body, fault.headers, piece_s=fault.piece_s)

    def _json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), {"content-type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, piece_s: float = 0.0) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if not piece_s:
            self.wfile.write(body)
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            time.sleep(piece_s)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller who went away is no news."""


@contextmanager
def rest(predicting: Predicting, port: int = 0) -> Iterator[int]:
    """V2 over REST, and V1, on the port that is given back."""
    server = _Server(("127.0.0.1", port), type("Rest", (_Rest,), {"predicting": predicting}))
    if predicting.tls is not None:
        server.socket = predicting.tls.wrap_socket(server.socket, server_side=True)
    open_: set[Any] = set()
    get_request = server.get_request

    def remembered() -> Any:
        connection, address = get_request()
        open_.add(connection)
        return connection, address

    server.get_request = remembered  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        for connection in open_:  # as a process that is killed would
            try:
                connection.shutdown(2)
            except OSError:
                continue
        thread.join(10)


@contextmanager
def over_grpc(predicting: Predicting, port: int = 0) -> Iterator[int]:
    """V2 over gRPC, on the port that is given back."""

    def described(said: list[dict[str, Any]]) -> list[Any]:
        tensor = pb.message("ModelMetadataResponse").TensorMetadata
        return [tensor(**one) for one in said]

    def model_ready(request: Any, context: Any) -> Any:
        if request.name != "m":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        predicting.look()
        return pb.message("ModelReadyResponse")(ready=predicting.ready)

    def server_metadata(request: Any, context: Any) -> Any:
        return pb.message("ServerMetadataResponse")(name="arithmetic", version="1")

    def model_metadata(request: Any, context: Any) -> Any:
        made = pb.message("ModelMetadataResponse")
        return made(
            name="m", platform="numpy", inputs=described(predicting.inputs), outputs=described(predicting.outputs)
        )

    def model_config(request: Any, context: Any) -> Any:
        if predicting.config is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such call")
        return pb.message("ModelConfigResponse")(config=predicting.config)

    def repository_index(request: Any, context: Any) -> Any:
        if predicting.index is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such call")
        made = pb.message("RepositoryIndexResponse")
        return made(models=[made.ModelIndex(name=name) for name in predicting.index or ()])

    def model_infer(request: Any, context: Any) -> Any:
        tensors = {
            one.name: np.frombuffer(raw, DTYPES[one.datatype]).reshape(tuple(one.shape))
            for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        try:
            answer = predicting.infer(Asked(tensors, dict(context.invocation_metadata()), request.id))
        except Drop:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if isinstance(answer, Fault):
            context.abort(answer.code, answer.details)
        response = pb.ModelInferResponse(model_name="m", raw_output_contents=[predicting.encoded(answer)])
        output = predicting.outputs[0]
        response.outputs.add(name=output["name"], datatype=output["datatype"], shape=answer.shape)
        return response

    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    methods = {
        "ModelReady": model_ready,
        "ServerMetadata": server_metadata,
        "ModelMetadata": model_metadata,
        "ModelConfig": model_config,
        "RepositoryIndex": repository_index,
        "ModelInfer": model_infer,
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            function,
            request_deserializer=pb.message(f"{name}Request").FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for name, function in methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(pb.SERVICE.full_name, handlers),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield bound
    finally:
        server.stop(None).wait(10)
