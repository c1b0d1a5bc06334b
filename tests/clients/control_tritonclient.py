"""Unload and load a model with tritonclient's HTTP and gRPC clients; print what was seen on the way as JSON.

control_tritonclient.py HTTP_PORT GRPC_PORT MODEL
"""

from __future__ import annotations

import json
import sys
from typing import Any

import tritonclient.grpc
import tritonclient.http

HTTP_PORT, GRPC_PORT, MODEL = sys.argv[1:4]


def round_trip(client: Any, **as_json: Any) -> list[Any]:
    seen = []
    client.unload_model(MODEL)
    index = client.get_model_repository_index(**as_json)
    seen.append([client.is_server_ready(), (index["models"] if as_json else index)[0]["state"]])
    client.load_model(MODEL)
    index = client.get_model_repository_index(**as_json)
    seen.append([client.is_server_ready(), (index["models"] if as_json else index)[0]["state"]])
    return seen


with tritonclient.http.InferenceServerClient(f"127.0.0.1:{HTTP_PORT}", network_timeout=120) as http:
    over_http = round_trip(http)
with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{GRPC_PORT}") as grpc:
    over_grpc = round_trip(grpc, as_json=True)
print(json.dumps({"http": over_http, "grpc": over_grpc}))
