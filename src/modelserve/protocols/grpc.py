"""The Open Inference Protocol over gRPC, with KServe's and Triton's model control, reflection and grpc.health.v1.

Knows no HTTP and no task: what the tensors mean is v2_infer.py's. Runs on the event loop, beside HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from modelserve import pb
from modelserve.errors import ConfigError, InvalidRequest, NotSupported
from modelserve.protocols import grpc_tensors, tensors, v2_infer
from modelserve.protocols.aside import aside
from modelserve.protocols.context import Context
from modelserve.protocols.grpc_call import Call, Function, Rpc
from modelserve.protocols.grpc_health import Health
from modelserve.runtime.model import Model
from modelserve.types import InferRequest


async def start_grpc(context: Context, port: int, *, so_reuseport: bool = False) -> tuple[grpc.aio.Server, int]:
    """A started server and the port it is bound to; 0 takes a free one.

    so_reuseport lets several processes share the port. `await server.stop(grace_s)` ends it: no new calls, those in
    flight finish within the grace. Raises ConfigError when the port cannot be had.
    """
    config = context.config
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", int(so_reuseport)),
            ("grpc.max_send_message_length", config.grpc_max_send_message_length),
            ("grpc.max_receive_message_length", config.grpc_max_receive_message_length),
        ]
    )
    server.add_generic_rpc_handlers((_service(context),))
    health_pb2_grpc.add_HealthServicer_to_server(Health(context), server)
    _add_reflection(server)
    host = f"[{config.host}]" if ":" in config.host else config.host
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise ConfigError(f"gRPC cannot listen on {host}:{port}; another program may have the port.") from error
    await server.start()
    return server, bound


def _service(context: Context) -> grpc.GenericRpcHandler[Any, Any]:
    return grpc.method_handlers_generic_handler(
        pb.SERVICE.full_name,
        {
            method.name: grpc.unary_unary_rpc_method_handler(
                Rpc(
                    context,
                    f"/{pb.SERVICE.full_name}/{method.name}",
                    GetMessageClass(method.input_type),
                    _FUNCTIONS[method.name],
                    quiet=method.name in _PROBES,
                ).answer
            )
            for method in pb.SERVICE.methods
        },
    )


def _add_reflection(server: grpc.aio.Server) -> None:
    files = [health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]
    pool = DescriptorPool()
    pool.Add(pb.FILE)
    for file in files:
        pool.AddSerializedFile(file.serialized_pb)
    names = [service.full_name for file in files for service in file.services_by_name.values()]
    reflection.enable_server_reflection([pb.SERVICE.full_name, *names], server, pool=pool)


async def _server_live(call: Call, request: Any) -> Any:
    return pb.message("ServerLiveResponse")(live=call.context.models.live())


async def _server_ready(call: Call, request: Any) -> Any:
    return pb.message("ServerReadyResponse")(ready=call.context.models.ready())


async def _model_ready(call: Call, request: Any) -> Any:
    model = call.context.models.get(request.name, request.version)
    return pb.message("ModelReadyResponse")(ready=model.ready)


async def _server_metadata(call: Call, request: Any) -> Any:
    return pb.message("ServerMetadataResponse")(**v2_infer.server_metadata())


async def _model_metadata(call: Call, request: Any) -> Any:
    model = call.context.models.get(request.name, request.version)
    return pb.message("ModelMetadataResponse")(
        name=model.name,
        versions=[v2_infer.VERSION],
        platform=v2_infer.platform(model),
        inputs=[{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in model.inputs()],
        outputs=[{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in model.outputs()],
    )


async def _model_infer(call: Call, request: Any) -> Any:
    model = call.model = call.context.models.get(request.model_name, request.model_version)
    model.check_ready()
    asked = await aside(request.ByteSize(), _understood, request, model, request.id or call.id)
    answer = await call.infer(model, asked)
    response = pb.ModelInferResponse(model_name=model.name, id=answer.id)
    grpc_tensors.set_parameters(response, v2_infer.to_parameters(answer))
    outputs = v2_infer.to_outputs(answer, [output.name for output in request.outputs])
    raw = len(request.raw_input_contents) > 0
    await aside(sum(map(tensors.weight, outputs)), grpc_tensors.set_outputs, response, outputs, raw=raw)
    return response


def _understood(request: Any, model: Model, id: str) -> InferRequest:
    return v2_infer.to_request(
        model.name,
        grpc_tensors.inputs(request),
        grpc_tensors.parameters(request),
        id=id,
        api="grpc",
        takes=model.takes,
        wanted=[output.name for output in request.outputs],
    )


async def _repository_index(call: Call, request: Any) -> Any:
    models = [model for model in call.context.models.index() if model.ready or not request.ready]
    return pb.message("RepositoryIndexResponse")(models=[v2_infer.index_entry(model) for model in models])


async def _load(call: Call, request: Any) -> Any:
    name = await _control(call, request, call.context.models.find, lambda model: model.load())
    return pb.message("RepositoryModelLoadResponse")(model_name=name, isLoaded=True)


async def _unload(call: Call, request: Any) -> Any:
    name = await _control(call, request, call.context.models.get, lambda model: model.unload())
    return pb.message("RepositoryModelUnloadResponse")(model_name=name, isUnloaded=True)


async def _control(
    call: Call, request: Any, find: Callable[[str], Model], change: Callable[[Model], Awaitable[None]]
) -> str:
    if not call.context.config.enable_model_control:
        raise NotSupported("Models are loaded and unloaded here only with --enable_model_control.")
    name = request.model_name or request.triton_model_name
    if not name:
        raise InvalidRequest("model_name is empty; name the model.", param="model_name")
    call.model = find(name)
    # A caller who hangs up does not leave the model half loaded.
    await asyncio.shield(asyncio.ensure_future(change(call.model)))
    return call.model.name


_FUNCTIONS: dict[str, Function] = {
    "ServerLive": _server_live,
    "ServerReady": _server_ready,
    "ModelReady": _model_ready,
    "ServerMetadata": _server_metadata,
    "ModelMetadata": _model_metadata,
    "ModelInfer": _model_infer,
    "RepositoryIndex": _repository_index,
    "RepositoryModelLoad": _load,
    "RepositoryModelUnload": _unload,
}
_PROBES = {"ServerLive", "ServerReady", "ModelReady"}
