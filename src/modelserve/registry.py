"""Names -> "module:Class", as strings, so that nothing heavy is imported before it is used.

A new task, backend, format or protocol is one new file and one row here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

TASKS: dict[str, str] = {
    "sequence_classification": "modelserve.tasks.sequence_classification:SequenceClassification",
    "token_classification": "modelserve.tasks.token_classification:TokenClassification",
    "fill_mask": "modelserve.tasks.fill_mask:FillMask",
    "text_embedding": "modelserve.tasks.text_embedding:TextEmbedding",
}

BACKENDS: dict[str, str] = {
    "huggingface": "modelserve.backends.huggingface:HuggingFaceBackend",
}

# Who builds the engine of a model that writes, by the backend's name.
ENGINES: dict[str, str] = {
    "huggingface": "modelserve.runtime.engine_huggingface:build",
    "openvino": "modelserve.runtime.engine_openvino:build",
    "vllm": "modelserve.runtime.engine_vllm:build",
}

# Who loads a format. A format of features brings its own backend and task.
FORMATS: dict[str, str] = {
    "huggingface": "modelserve.runtime.huggingface:load",
    "sklearn": "modelserve.runtime.tables:load_sklearn",
    "mlflow": "modelserve.runtime.tables:load_mlflow",
}

PROTOCOLS: dict[str, str] = {
    "v1": "modelserve.protocols.v1:routes",
    "v2": "modelserve.protocols.v2:routes",
    "openai": "modelserve.protocols.openai:routes",
    "health": "modelserve.protocols.health:routes",
    "v2_generate": "modelserve.protocols.v2_generate:routes",
    "docs": "modelserve.protocols.docs:routes",
}

TARGETS: dict[str, str] = {
    "local": "modelserve.deploy.local:LocalTarget",
    "kubernetes": "modelserve.deploy.kubernetes.target:KubernetesTarget",
}


def load(row: str) -> Any:
    """The object that a row names. Raises ImportError or AttributeError, which only a broken row can cause."""
    module, _, name = row.partition(":")
    return getattr(import_module(module), name)
