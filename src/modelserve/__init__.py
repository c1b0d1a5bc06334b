"""modelserve: serve Hugging Face models behind the standard inference APIs.

The public names, imported when first used, so that `import modelserve` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelserve.client import Client as Client
    from modelserve.deploy.catalog import delete_function as delete_function
    from modelserve.deploy.catalog import delete_project as delete_project
    from modelserve.deploy.catalog import delete_run as delete_run
    from modelserve.deploy.catalog import delete_task as delete_task
    from modelserve.deploy.catalog import get_function as get_function
    from modelserve.deploy.catalog import get_function_versions as get_function_versions
    from modelserve.deploy.catalog import get_or_create_project as get_or_create_project
    from modelserve.deploy.catalog import get_project as get_project
    from modelserve.deploy.catalog import get_run as get_run
    from modelserve.deploy.catalog import get_task as get_task
    from modelserve.deploy.catalog import import_function as import_function
    from modelserve.deploy.catalog import import_project as import_project
    from modelserve.deploy.catalog import list_functions as list_functions
    from modelserve.deploy.catalog import list_projects as list_projects
    from modelserve.deploy.catalog import list_runs as list_runs
    from modelserve.deploy.catalog import list_tasks as list_tasks
    from modelserve.deploy.catalog import new_function as new_function
    from modelserve.deploy.catalog import new_project as new_project
    from modelserve.deploy.function import Function as Function
    from modelserve.deploy.project import Project as Project
    from modelserve.deploy.run import Run as Run
    from modelserve.deploy.task import Task as Task
    from modelserve.errors import ConfigError as ConfigError
    from modelserve.errors import DeployError as DeployError
    from modelserve.errors import EntityExists as EntityExists
    from modelserve.errors import EntityNotFound as EntityNotFound
    from modelserve.errors import IllegalTransition as IllegalTransition
    from modelserve.errors import InvokeError as InvokeError
    from modelserve.errors import LoadError as LoadError
    from modelserve.errors import ModelServeError as ModelServeError
    from modelserve.errors import RunFailed as RunFailed
    from modelserve.errors import StoreError as StoreError
    from modelserve.errors import TargetError as TargetError
    from modelserve.errors import WaitTimeout as WaitTimeout

    __version__: str

_HOMES = {
    "modelserve.client": ("Client",),
    "modelserve.deploy.catalog": (
        "delete_function",
        "delete_project",
        "delete_run",
        "delete_task",
        "get_function",
        "get_function_versions",
        "get_or_create_project",
        "get_project",
        "get_run",
        "get_task",
        "import_function",
        "import_project",
        "list_functions",
        "list_projects",
        "list_runs",
        "list_tasks",
        "new_function",
        "new_project",
    ),
    "modelserve.deploy.function": ("Function",),
    "modelserve.deploy.project": ("Project",),
    "modelserve.deploy.run": ("Run",),
    "modelserve.deploy.task": ("Task",),
    "modelserve.errors": (
        "ConfigError",
        "DeployError",
        "EntityExists",
        "EntityNotFound",
        "IllegalTransition",
        "InvokeError",
        "LoadError",
        "ModelServeError",
        "RunFailed",
        "StoreError",
        "TargetError",
        "WaitTimeout",
    ),
}
_PUBLIC = {name: f"{module}:{name}" for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_PUBLIC, "__version__"])


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
