"""A remote predictor over V2 and REST: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol,
with Triton's binary tensors and model configuration where it has them.

Blocking; several threads may ask at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from modelserve.backends.remote_answer import index_of, most_bytes, tensor
from modelserve.backends.remote_failure import absent, failure, message
from modelserve.backends.remote_http import Http
from modelserve.backends.remote_model import RemoteModel, headers_of
from modelserve.errors import PredictorDown, PredictorFailed
from modelserve.types import Caller, Tensor, TensorSpec

_BINARY = "binary_tensor_data"
_HEADER_LENGTH = "inference-header-content-length"


class _Server(msgspec.Struct):
    name: str = ""
    version: str = ""
    extensions: list[str] = []


class _Described(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class _Metadata(msgspec.Struct):
    inputs: list[_Described] = []
    outputs: list[_Described] = []
    platform: str | None = ""


class _Input(msgspec.Struct):
    name: str = ""
    optional: bool = False


class _Group(msgspec.Struct):
    count: int = 1
    gpus: list[int] | None = None


class _Config(msgspec.Struct):
    max_batch_size: int = 0
    input: list[_Input] | None = None
    instance_group: list[_Group] | None = None


class _Entry(msgspec.Struct):
    name: str


class _Parameters(msgspec.Struct):
    binary_data_size: int | None = None


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: _Parameters | None = None


class _Inferred(msgspec.Struct):
    outputs: list[_Output] = []


class V2:
    """Fulfils remote_model.Predictor."""

    def __init__(self, http: Http, name: str) -> None:
        self._http = http
        self._name = name
        self._path = f"/v2/models/{quote(name, safe='')}"
        self._binary = True

    def describe(self) -> RemoteModel:
        status, _, body = self._http.look("GET", f"{self._path}/ready")
        if status != 200:
            self._check_there(status, body)
            raise PredictorDown(f"the remote predictor at {self._http.where} is not ready for {self._name}")
        server = self._read("/v2", _Server) or _Server()
        said = self._read(self._path, _Metadata)
        if said is None:
            raise PredictorDown(f"the remote predictor at {self._http.where} gives no metadata of {self._name}")
        config = self._read(f"{self._path}/config", _Config)
        self._binary = _BINARY in server.extensions
        groups = config.instance_group if config else None
        return RemoteModel(
            inputs=_specs(said.inputs),
            outputs=_specs(said.outputs),
            optional=frozenset(one.name for one in (config.input if config else None) or () if one.optional),
            max_batch_size=config.max_batch_size if config else None,
            instances=sum(group.count * max(1, len(group.gpus or ())) for group in groups) if groups else None,
            server=f"{server.name} {server.version}".strip(),
            platform=said.platform or "",
        )

    def infer(self, inputs: Sequence[Tensor], output: str, numbers: int, caller: Caller, timeout_s: float) -> Tensor:
        binary = self._binary
        asked, raw = _request(inputs, output, caller.request_id, binary=binary)
        headers = headers_of(caller) | {"content-type": "application/octet-stream" if binary else "application/json"}
        if binary:
            headers["Inference-Header-Content-Length"] = str(len(asked))
        status, answered, body = self._http.ask(
            "POST",
            f"{self._path}/infer",
            body=b"".join((asked, *raw)),
            headers=headers,
            timeout_s=timeout_s,
            most=most_bytes(numbers),
        )
        if status != 200:
            raise failure(self._http.where, status, answered, body)
        try:
            return _answer(body, answered.get(_HEADER_LENGTH), output)
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
            raise PredictorFailed(f"the remote predictor's answer cannot be read ({error})") from error

    def close(self) -> None:
        self._http.close()

    def _check_there(self, status: int, body: bytes) -> None:
        """Raises LoadError where there is no such model."""
        found, _, index = self._http.look("POST", "/v2/repository/index", b"{}")
        if found == 200:
            names = sorted({entry.name for entry in self._decoded("/v2/repository/index", index, list[_Entry])})
            if self._name not in names:
                raise absent(self._http.where, self._name, names)
        elif status == 404:
            raise absent(self._http.where, self._name, None)

    def _read(self, path: str, kind: type[Any]) -> Any:
        """A description; None where there is no such path. Raises PredictorDown, PredictorFailed."""
        status, headers, body = self._http.look("GET", path)
        if status in (400, 404, 405, 501):
            return None
        if status != 200:
            raise failure(self._http.where, status, headers, body)
        return self._decoded(path, body, kind)

    def _decoded(self, path: str, body: bytes, kind: type[Any]) -> Any:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise PredictorFailed(
                f"what the remote predictor at {self._http.where} says at {path} is not V2's ({error}): "
                f"{message(body)[:80]}"
            ) from error


def _specs(described: Sequence[_Described]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(one.name, one.datatype.upper(), tuple(one.shape)) for one in described)


def _request(inputs: Sequence[Tensor], output: str, id: str, *, binary: bool) -> tuple[bytes, list[bytes]]:
    """The JSON, and the bytes of the tensors behind it."""
    described: list[dict[str, Any]] = []
    raw = []
    for given in inputs:
        values = np.asarray(given.data)
        one: dict[str, Any] = {"name": given.name, "shape": list(given.shape), "datatype": given.datatype}
        if binary:
            raw.append(values.tobytes())
            one["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            one["data"] = values.ravel().tolist()
        described.append(one)
    wanted = {"name": output, "parameters": {"binary_data": True}} if binary else {"name": output}
    return msgspec.json.encode({"id": id, "inputs": described, "outputs": [wanted]}), raw


def _answer(body: bytes, header_length: str | None, output: str) -> Tensor:
    """The output of that name. Raises PredictorFailed where it is not there, ValueError where it is not whole."""
    size = int(header_length) if header_length else len(body)
    said = msgspec.json.decode(body[:size], type=_Inferred)
    index = index_of([one.name for one in said.outputs], output)
    lengths = [one.parameters.binary_data_size if one.parameters else None for one in said.outputs]
    length, at = lengths[index], size + sum(length or 0 for length in lengths[:index])
    one = said.outputs[index]
    return tensor(one.name, one.datatype, one.shape, None if length is None else body[at : at + length], one.data)
