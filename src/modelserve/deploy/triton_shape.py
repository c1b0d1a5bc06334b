"""The shape of `triton`: the Triton Inference Server behind a run's server in a cluster. As shapes.py, whose rules hold
here too. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelserve.deploy import shapes
from modelserve.deploy.cluster_shapes import fields
from modelserve.deploy.shapes import Json, wrong

IMAGE = "nvcr.io/nvidia/tritonserver:26.09-py3"
"""Triton 2.73. There is a tag a month and none that moves, so that one is named which was the newest. "-py3" has all
backends, ONNX Runtime's and Python's among them; 16 GB on a node's disk."""
CONTAINER, DEPLOYMENT = FORMS = ("container", "deployment")
HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002
"""Triton's own."""
MOUNT_PATH = "/models"
"""Where Triton sees a volume of models that says no other place."""

_OF_A_DEPLOYMENT = ("replicas", "node_selector", "affinity", "tolerations", "runtime_class")
"""What is said of pods of its own; in the server's pods these are the run's."""
_KEYS = ("image", "model_repository", "form", "resources", "envs", "secrets", "args", *_OF_A_DEPLOYMENT)
_PORTS = ("--http-port", "--grpc-port", "--metrics-port")
_ELSEWHERE = re.compile(r"(s3|gs|as)://\S+")
"""Where Triton itself reads models: S3, Google's and Azure's storage."""
_TAKEN = ("/", "/tmp", "/dev/shm")
_SHOWN = '{"model_repository": {"claim_name": "models"}}'


def triton(name: str, value: object) -> Json:
    """{"model_repository", "image", "form", "replicas", "resources", …}, each as the run's parameter of that name is
    read; the image and the form are always in what is kept."""
    said = fields(name, value, f"such as {_SHOWN}", _KEYS)
    if "model_repository" not in said:
        raise wrong(name, value, f"told where Triton's models are, such as {_SHOWN}")
    form = shapes.choice(f"form in {name}", said.get("form", CONTAINER), FORMS)
    for key in _OF_A_DEPLOYMENT:
        if key in said and form == CONTAINER:
            raise wrong(f"{key} in {name}", said[key], "left out in form 'container', where it is the run's")
    found = {"image": IMAGE} | {key: _READ[key](f"{key} in {name}", one) for key, one in said.items() if key != "form"}
    return found | {"form": form}


def _repository(name: str, value: object) -> Json:
    """An address that Triton reads itself, a path in its image, or a volume as in `volumes`, of which {"claim_name",
    "sub_path", "mount_path"} is the short form -> the text, or the long form."""
    if isinstance(value, str):
        if not _ELSEWHERE.fullmatch(value) and not value.startswith("/"):
            raise wrong(
                name, value, 's3://…, gs://…, as://…, a path in the image, or a volume {"claim_name": "models"}'
            )
        return value
    said = {
        shapes.snake(key): one for key, one in shapes.mapping(name, value, 'such as {"claim_name": "models"}').items()
    }
    if "volume_type" not in said:
        shapes.known(name, said, {"claim_name", "sub_path", "mount_path"})
        spec = {key: said[key] for key in ("claim_name", "sub_path") if key in said}
        said = {key: said[key] for key in ("mount_path",) if key in said}
        said |= {"volume_type": "persistent_volume_claim", "spec": spec}
    (volume,) = shapes.volumes(name, [{"name": "models", "mount_path": MOUNT_PATH} | said])
    _check_full(name, value, volume)
    return volume


def _check_full(name: str, value: object, volume: Mapping[str, Any]) -> None:
    """Raises ConfigError for a volume that cannot have models on it, or that hides what is Triton's."""
    kind = volume["volume_type"]
    if kind in ("empty_dir", "ephemeral") or (kind == "persistent_volume_claim" and "claim_name" not in volume["spec"]):
        raise wrong(name, value, "a volume that has models on it: a claim that is there (claim_name), or a host_path")
    if volume["mount_path"].rstrip("/") in [one.rstrip("/") for one in _TAKEN]:
        raise wrong(f"mount_path in {name}", volume["mount_path"], f"a place of its own, such as {MOUNT_PATH}")


def _args(name: str, value: object) -> Json:
    words = shapes.texts(name, value)
    for word in words:
        if word.partition("=")[0] in _PORTS:
            raise wrong(name, word, f"without ports: Triton is asked at {HTTP_PORT} and {GRPC_PORT}")
    return words


_READ = {
    "image": shapes.text,
    "model_repository": _repository,
    "resources": shapes.resources,
    "envs": shapes.envs,
    "secrets": shapes.texts,
    "args": _args,
    "replicas": shapes.count,
    "node_selector": shapes.node_selector,
    "affinity": shapes.affinity,
    "tolerations": shapes.tolerations,
    "runtime_class": shapes.text,
}
