"""The messages of inference.proto, from its compiled form inference.binpb (`make proto` writes it):

    python -m grpc_tools.protoc -I. --descriptor_set_out=inference.binpb inference.proto

They live in a descriptor pool of their own, because tritonclient and kserve register the same names in the process's
default pool, each with its own idea of their fields. There is no generated Python, since that runs only with the
protobuf that it was generated for, or a newer one. Knows no server.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

FILE = FileDescriptorSet.FromString(files(__package__).joinpath("inference.binpb").read_bytes()).file[0]
"""The FileDescriptorProto of inference.proto."""

_pool = DescriptorPool()
_pool.Add(FILE)

SERVICE = _pool.FindServiceByName("inference.GRPCInferenceService")
"""Descriptor of the service: its methods, with their input and output types."""


def message(name: str) -> Any:
    """The class of a top-level message, such as ModelInferRequest."""
    return GetMessageClass(_pool.FindMessageTypeByName(f"inference.{name}"))


ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
InferTensorContents = message("InferTensorContents")
