"""Import our gRPC messages beside a client's, which carry the same names, in the order that is asked for.

together.py first|last MODULE: MODULE is the client's module of messages. Its messages and ours must read each other.
"""

from __future__ import annotations

import sys
from importlib import import_module

if sys.argv[1] == "last":
    theirs = import_module(sys.argv[2])
from modelserve import pb

if sys.argv[1] == "first":
    theirs = import_module(sys.argv[2])

request = theirs.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"\x01\x00\x00\x00x"])
request.inputs.add(name="input-0", datatype="BYTES", shape=[1])
request.parameters["top_k"].int64_param = 3
ours = pb.ModelInferRequest.FromString(request.SerializeToString())
assert ours.inputs[0].name == "input-0"
assert ours.parameters["top_k"].int64_param == 3
assert theirs.ModelInferRequest.FromString(ours.SerializeToString()) == request
response = pb.ModelInferResponse(model_name="m")
response.outputs.add(name="output-0", datatype="FP32", shape=[2]).contents.fp32_contents.extend([1.5, 2.5])
answer = theirs.ModelInferResponse.FromString(response.SerializeToString())
assert list(answer.outputs[0].contents.fp32_contents) == [1.5, 2.5]
print('{"ok": true}')
