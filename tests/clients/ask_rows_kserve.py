"""Ask a model of features with KServe's clients, over V1, V2 and gRPC; print what came back as JSON.

ask_rows_kserve.py HTTP_PORT GRPC_PORT MODEL ROWS (a JSON list of lists of numbers)
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

HTTP_PORT, GRPC_PORT, MODEL = sys.argv[1:4]
ROWS = np.array(json.loads(sys.argv[4]))
URL = f"http://127.0.0.1:{HTTP_PORT}"


def request() -> InferRequest:
    rows = InferInput("x", list(ROWS.shape), "FP64")
    rows.set_data_from_numpy(ROWS, binary_data=True)
    return InferRequest(MODEL, [rows])


def plain(answer: Any) -> list[Any]:
    (output,) = answer.outputs
    return [output.name, output.datatype, list(output.shape), output.as_numpy().ravel().tolist()]


async def main() -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v1", timeout=120)) as client:
        v1 = (await client.infer(URL, {"instances": ROWS.tolist()}, model_name=MODEL))["predictions"]
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=120)) as client:
        v2 = plain(await client.infer(URL, request(), model_name=MODEL))
    async with InferenceGRPCClient(f"127.0.0.1:{GRPC_PORT}", timeout=120) as client:
        grpc = plain(await client.infer(request()))
    print(json.dumps({"v1": v1, "v2": v2, "grpc": grpc}))


asyncio.run(main())
