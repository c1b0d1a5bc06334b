"""A project: a name under which functions, runs and secrets are kept apart from others'."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelserve.deploy import catalog
from modelserve.deploy.entity import Entity
from modelserve.deploy.record import Record, now
from modelserve.deploy.reference import check_name
from modelserve.errors import ConfigError

if TYPE_CHECKING:
    from modelserve.deploy.function import Function
    from modelserve.deploy.run import Run
    from modelserve.deploy.task import Task


class Project(Entity):
    """One project. Its methods are those of the library (catalog.py), in this project."""

    def new_function(
        self,
        name: str,
        kind: str,
        uuid: str | None = None,
        description: str | None = None,
        labels: list[str] | None = None,
        **spec: Any,
    ) -> Function:
        """A new version where there is a function of that name. spec: path, model_name, image. Raises ConfigError."""
        return catalog.new_function(self.name, name, kind, uuid, description, labels, **spec)

    def get_function(self, identifier: str, entity_id: str | None = None) -> Function:
        """Raises EntityNotFound."""
        return catalog.get_function(identifier, self.name, entity_id)

    def get_function_versions(self, identifier: str) -> list[Function]:
        return catalog.get_function_versions(identifier, self.name)

    def list_functions(self, **filters: Any) -> list[Function]:
        return catalog.list_functions(self.name, **filters)

    def delete_function(self, identifier: str, entity_id: str | None = None, **options: Any) -> None:
        catalog.delete_function(identifier, self.name, entity_id, **options)

    def import_function(self, file: str | Path, reset_id: bool = True) -> Function:
        """A function with its tasks from an export, as a new version unless reset_id is False."""
        return catalog.import_function(file, self.name, reset_id)

    def get_run(self, identifier: str) -> Run:
        return catalog.get_run(identifier, self.name)

    def list_runs(self, **filters: Any) -> list[Run]:
        return catalog.list_runs(self.name, **filters)

    def delete_run(self, identifier: str) -> None:
        catalog.delete_run(identifier, self.name)

    def list_tasks(self, **filters: Any) -> list[Task]:
        return catalog.list_tasks(self.name, **filters)

    def new_secret(self, name: str, secret_value: str) -> None:
        """Keep a value, encrypted, that runs get as an environment variable of this name; an older one is replaced.

        It is in no log, no repr and no export. Raises ConfigError for a name or a value that is none.
        """
        if not isinstance(secret_value, str) or not secret_value or "\0" in secret_value:
            raise ConfigError(f"the value of the secret {name!r} must be a text that is not empty, without NUL")
        self._store.put_secret(self.name, check_name("name", name), secret_value)

    def list_secrets(self) -> list[str]:
        """Their names."""
        return self._store.list_secrets(self.name)

    def delete_secret(self, name: str) -> None:
        self._store.delete_secret(self.name, name)

    def delete(self, cascade: bool = True) -> None:
        catalog.delete_project(self.name, cascade)

    def _documents(self) -> list[dict[str, Any]]:
        functions = self.list_functions(versions="all")
        return [self.to_dict(), *(one for function in reversed(functions) for one in function._documents())]

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.metadata.description}


def new_record(name: str, description: str | None = None, labels: list[str] | None = None) -> Record:
    time = now()
    return Record(
        project=name,
        type="project",
        kind="project",
        name=name,
        id=name,
        metadata={"created": time, "updated": time, "description": description, "labels": labels or []},
        status={"state": "CREATED"},
    )
