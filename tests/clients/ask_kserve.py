"""Ask a server with kserve's REST (V1, V2) and gRPC clients; print what came back as JSON. Runs where kserve is.

ask_kserve.py HTTP_PORT GRPC_PORT MODEL TEXTS (a JSON list)
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

HTTP_PORT, GRPC_PORT, MODEL = sys.argv[1:4]
TEXTS = json.loads(sys.argv[4])
URL = f"http://127.0.0.1:{HTTP_PORT}"


def request(*, binary: bool, pairs: bool = False, **parameters: Any) -> InferRequest:
    values = np.array(TEXTS, dtype=object)
    values = np.stack([values, values[::-1]], axis=1) if pairs else values
    tensor = InferInput("input-0", list(values.shape), "BYTES")
    tensor.set_data_from_numpy(values, binary_data=binary)
    return InferRequest(MODEL, [tensor], request_id="k1", parameters=parameters or None)


def plain(response: Any) -> dict[str, Any]:
    (output,) = response.outputs
    values = output.as_numpy()
    strings = values.dtype == object
    return {
        "id": response.id,
        "name": output.name,
        "datatype": output.datatype,
        "shape": list(output.shape),
        "data": [v.decode() if isinstance(v, bytes) else v for v in values.ravel()] if strings else values.tolist(),
    }


async def told(call: Awaitable[Any]) -> str:
    """What the error says that a call ends in."""
    try:
        await call
    except httpx.HTTPStatusError as error:
        return str(error)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    raise AssertionError("no error")


async def over_v1() -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v1", timeout=120)) as client:
        return {
            "live": await client.is_server_live(URL),
            "model_ready": await client.is_model_ready(URL, MODEL),
            "model_unknown": await told(client.is_model_ready(URL, "nope")),
            "texts": (await client.infer(URL, {"instances": TEXTS}, model_name=MODEL))["predictions"],
            "infer_unknown": await told(client.infer(URL, {"instances": TEXTS}, model_name="nope")),
        }


async def over_v2() -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=120)) as client:
        return {
            "live": await client.is_server_live(URL),
            "ready": await client.is_server_ready(URL),
            "model_ready": await client.is_model_ready(URL, MODEL),
            "model_unknown": await client.is_model_ready(URL, "nope"),
            "binary": plain(await client.infer(URL, request(binary=True), model_name=MODEL)),
            "json": plain(await client.infer(URL, request(binary=False), model_name=MODEL)),
            "binary_both_ways": plain(
                await client.infer(URL, request(binary=True, binary_data_output=True), model_name=MODEL)
            ),
            "infer_unknown": await told(client.infer(URL, request(binary=False), model_name="nope")),
        }


async def over_grpc() -> dict[str, Any]:
    async with InferenceGRPCClient(f"127.0.0.1:{GRPC_PORT}", timeout=120) as client:
        other = InferRequest("nope", request(binary=True).inputs)
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(MODEL),
            "model_unknown": await told(client.is_model_ready("nope")),
            "binary": plain(await client.infer(request(binary=True))),
            "typed": plain(await client.infer(request(binary=False))),
            "infer_unknown": await told(client.infer(other)),
        }


async def main() -> None:
    print(json.dumps({"v1": await over_v1(), "v2": await over_v2(), "grpc": await over_grpc()}))


asyncio.run(main())
