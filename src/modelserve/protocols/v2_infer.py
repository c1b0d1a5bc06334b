"""What V2 means: named tensors -> InferRequest, InferResponse -> named tensors, and what the server says of itself.

REST and gRPC share it. Knows no message: bytes and lists are tensors.py's. Runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from modelserve.errors import InvalidRequest
from modelserve.protocols import rows
from modelserve.protocols.exchange import invalid
from modelserve.types import InferRequest, InferResponse, Instance, Params, Rows, Takes, Tensor, TextPair, TokenIds

if TYPE_CHECKING:
    from modelserve.runtime.model import Model

VERSION = "1"
"""The only version that a model has."""
TOKEN_IDS = "input_ids"
"""The name that makes a request one for the network's own answer."""
_LISTS = ("targets", "stop")
_WHAT_IS_READ = f"Send one BYTES input with texts, or an INT64 input named {TOKEN_IDS}"


def to_params(parameters: Mapping[str, Any]) -> Params:
    """Request parameters of V2, where a list travels as a JSON string: {"targets": "[\\"paris\\"]"}.

    Raises InvalidRequest for a value of the wrong type.
    """
    if not parameters:
        return Params()
    values = dict(parameters)
    for name in _LISTS:
        if isinstance(value := values.get(name), str) and (name != "stop" or value.startswith("[")):
            try:
                values[name] = msgspec.json.decode(value)
            except (msgspec.DecodeError, RecursionError) as error:
                raise InvalidRequest(
                    f'parameters.{name} is a list written as a JSON string, such as ["paris"].', param=name
                ) from error
    try:
        return msgspec.convert(values, Params, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error) from error


def to_request(
    model_name: str,
    inputs: Sequence[Tensor],
    parameters: Mapping[str, Any],
    *,
    id: str,
    api: str,
    takes: Takes = "texts",
    wanted: Sequence[str] = (),
) -> InferRequest:
    """The request that these inputs make to a model that takes texts, or rows of features (rows.py).

    Of texts: a tensor named input_ids [N, L], with attention_mask and token_type_ids where given, asks for the
    network's own logits or hidden states. Otherwise the first input is read, whatever its name, as KServe does: BYTES
    of shape [N] or [N, 1] for texts, [N, 2] for pairs of texts. wanted: names of the outputs that are asked for.
    Raises InvalidRequest.
    """
    if not inputs:
        raise InvalidRequest(f"inputs is empty. {_WHAT_IS_READ}.", param="inputs")
    named = {tensor.name: tensor for tensor in inputs}
    raw = takes == "texts" and TOKEN_IDS in named
    instances: list[Instance] | Rows
    if takes == "rows":
        instances = rows.of_tensors(inputs, parameters)
    else:
        instances = _token_ids(named) if raw else _texts(inputs[0])
    if not len(instances):
        raise InvalidRequest(f"Input {inputs[0].name!r} is empty; send at least one {takes[:-1]}.", param="inputs")
    return InferRequest(
        model_name,
        instances,
        to_params(parameters),
        id=id,
        api=api,
        form="tensors",
        raw=raw,
        raw_length=named[TOKEN_IDS].shape[1] if raw else 0,
        wanted=tuple(wanted),
    )


def _texts(tensor: Tensor) -> list[Instance]:
    if not isinstance(tensor.data, list):
        raise InvalidRequest(f"Input {tensor.name!r} is {tensor.datatype}. {_WHAT_IS_READ}.", param="datatype")
    texts = [_text(tensor.name, index, element) for index, element in enumerate(tensor.data)]
    match tensor.shape:
        case (_,) | (_, 1):
            return list(texts)
        case (_, 2):
            return [TextPair(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    raise InvalidRequest(
        f"Input {tensor.name!r} has shape {list(tensor.shape)}; N texts are [N], N pairs of texts [N, 2].",
        param="shape",
    )


def _text(name: str, index: int, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"Element {index} of input {name!r} is not UTF-8 text.", param="inputs") from error


def _token_ids(named: Mapping[str, Tensor]) -> list[Instance]:
    ids = _integers(named[TOKEN_IDS])
    if ids.ndim != 2:
        raise InvalidRequest(f"{TOKEN_IDS} has shape {list(ids.shape)}; it must be [N, L].", param=TOKEN_IDS)
    mask = _beside(named, "attention_mask", ids)
    types = _beside(named, "token_type_ids", ids)
    lengths = np.full(len(ids), ids.shape[1]) if mask is None else (mask != 0).sum(axis=1)
    if not lengths.all():
        raise InvalidRequest(f"{TOKEN_IDS} has a row without tokens.", param=TOKEN_IDS)
    if mask is not None and not ((mask != 0) == (np.arange(ids.shape[1]) < lengths[:, None])).all():
        # Left padding would need its own positions, which no encoder has been trained with.
        raise InvalidRequest(
            "attention_mask has a 0 before a 1; padding goes behind the tokens of each row.", param="attention_mask"
        )
    return [
        TokenIds(row[:length].tolist(), None if types is None else types[index, :length].tolist())
        for index, (row, length) in enumerate(zip(ids, lengths, strict=True))
    ]


def _beside(named: Mapping[str, Tensor], name: str, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    if name not in named:
        return None
    values = _integers(named[name])
    if values.shape != ids.shape:
        raise InvalidRequest(
            f"{name} has shape {list(values.shape)}; it must be {list(ids.shape)}, as {TOKEN_IDS} has.", param=name
        )
    return values


def _integers(tensor: Tensor) -> np.ndarray[Any, Any]:
    if isinstance(tensor.data, np.ndarray) and tensor.data.dtype.kind in "iu":
        return tensor.data
    raise InvalidRequest(f"Input {tensor.name!r} is {tensor.datatype}; it must be INT64.", param="datatype")


def to_outputs(response: InferResponse, wanted: Sequence[str]) -> list[Tensor]:
    """The response's tensors; only the wanted ones when any are named, in that order and each once.

    Raises InvalidRequest for a name that the response does not have.
    """
    if not wanted or response.chosen:
        return response.outputs
    outputs = {tensor.name: tensor for tensor in response.outputs}
    for name in wanted:
        if name not in outputs:
            raise InvalidRequest(
                f"Unexpected inference output {name!r} for model {response.model_name!r}; it has {', '.join(outputs)}.",
                param="outputs",
            )
    return [outputs[name] for name in dict.fromkeys(wanted)]


def to_parameters(response: InferResponse) -> dict[str, int | str]:
    """The response's own parameters: tokens_dropped, when truncation dropped any; MLServer's content_type."""
    found: dict[str, int | str] = {"tokens_dropped": response.tokens_dropped} if response.tokens_dropped else {}
    if response.content_type:
        found["content_type"] = response.content_type
    return found


def server_metadata() -> dict[str, Any]:
    """name, version and extensions of this server."""
    return {
        "name": "modelserve",
        "version": version("modelserve"),
        "extensions": ["binary_tensor_data", "model_repository"],
    }


def platform(model: Model) -> str:
    """What runs the model; "" until it is loaded."""
    return str(model.describe().get("backend", ""))


def index_entry(model: Model) -> dict[str, Any]:
    """A model's entry in the repository index: name, version, state and why it is not ready."""
    if model.ready:
        state = "READY"
    else:
        state = "LOADING" if model.stage in ("queued", "download", "load", "warm-up") else "UNAVAILABLE"
    return {"name": model.name, "version": VERSION, "state": state, "reason": model.reason}
