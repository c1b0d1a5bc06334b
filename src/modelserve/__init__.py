"""modelserve: serve Hugging Face models behind the standard inference APIs.

The public names, imported when first used, so that `import modelserve` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelserve.errors import ConfigError as ConfigError
    from modelserve.errors import LoadError as LoadError
    from modelserve.errors import ModelServeError as ModelServeError

    __version__: str

_PUBLIC = {
    "ConfigError": "modelserve.errors:ConfigError",
    "LoadError": "modelserve.errors:LoadError",
    "ModelServeError": "modelserve.errors:ModelServeError",
}

__all__ = ["ConfigError", "LoadError", "ModelServeError", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("modelserve")
    if name in _PUBLIC:
        from modelserve.registry import load

        return load(_PUBLIC[name])
    raise AttributeError(f"module 'modelserve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
