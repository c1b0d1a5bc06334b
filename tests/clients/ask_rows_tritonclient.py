"""Ask a model of features with tritonclient, over HTTP and gRPC; print what came back as JSON.

ask_rows_tritonclient.py HTTP_PORT GRPC_PORT MODEL ROWS (a JSON list of lists of numbers)
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

HTTP_PORT, GRPC_PORT, MODEL = sys.argv[1:4]
ROWS = np.array(json.loads(sys.argv[4]))
OUTPUTS = ("predict", "predict_proba")


def asked(library: Any, port: str) -> dict[str, Any]:
    with library.InferenceServerClient(f"127.0.0.1:{port}") as client:
        rows = library.InferInput("x", list(ROWS.shape), "FP64")
        rows.set_data_from_numpy(ROWS)
        wanted = [library.InferRequestedOutput(name) for name in OUTPUTS]
        answer = client.infer(MODEL, [rows], outputs=wanted)
        default = client.infer(MODEL, [rows])
        columns = []
        for index in range(ROWS.shape[1]):
            column = library.InferInput(f"c{index}", [len(ROWS), 1], "FP64")
            column.set_data_from_numpy(ROWS[:, index : index + 1].copy())
            columns.append(column)
        try:
            client.infer(MODEL, columns)
            refusal = ""
        except Exception as error:
            refusal = str(error)
        return {
            **{name: answer.as_numpy(name).tolist() for name in OUTPUTS},
            "default": default.as_numpy("predict").tolist(),
            "columns": refusal,
        }


print(json.dumps({"http": asked(tritonclient.http, HTTP_PORT), "grpc": asked(tritonclient.grpc, GRPC_PORT)}))
