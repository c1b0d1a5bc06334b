"""What project, function, task and run have in common: a record, the store that keeps it, and a look for people.

Knows no target. Objects are cheap views; the store holds the truth and `refresh` reads it again.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelserve.deploy import documents
from modelserve.deploy.record import Record, now

if TYPE_CHECKING:
    from typing import Self

    from modelserve.deploy.store import Store


class Fields(Mapping[str, Any]):
    """A spec or a status: read by key, or by attribute, where what is not set is None."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._values.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def to_dict(self) -> dict[str, Any]:
        return dict(self._values)


class Spec(Fields):
    """What was asked for."""


class Status(Fields):
    """What became of it."""


class Metadata(Fields):
    """When it was made and changed, description, labels."""


class Entity:
    """One entity of the store."""

    def __init__(self, record: Record, store: Store) -> None:
        self._record = record
        self._store = store

    @property
    def project(self) -> str:
        return self._record.project

    @property
    def name(self) -> str:
        return self._record.name

    @property
    def id(self) -> str:
        return self._record.id

    @property
    def kind(self) -> str:
        return self._record.kind

    @property
    def key(self) -> str:
        return self._record.key

    @property
    def spec(self) -> Spec:
        return Spec(self._record.spec)

    @property
    def status(self) -> Status:
        return Status(self._record.status)

    @property
    def metadata(self) -> Metadata:
        return Metadata(self._record.metadata)

    def refresh(self) -> Self:
        """Read it again from the store. Raises EntityNotFound when it was deleted."""
        self._record = self._store.get(self._record.type, self.project, self.id)
        return self

    def describe(self, description: str | None = None, labels: list[str] | None = None) -> Self:
        """Set the description and the labels, which are all that changes of an entity; what is None stays."""
        changes = {key: value for key, value in (("description", description), ("labels", labels)) if value is not None}

        def described(record: Record) -> Record:
            return record.replace(metadata=record.metadata | changes | {"updated": now()})

        self._record = self._store.change(self._record.type, self.project, self.id, described)
        return self

    def to_dict(self) -> dict[str, Any]:
        return self._record.to_dict()

    def export(self, path: str | Path | None = None) -> Path:
        """Write it as YAML and return the file: `path`, or <type>s-<id>.yaml in that or in the working directory."""
        return documents.write(self._documents(), f"{self._record.type}s-{self.id}.yaml", path)

    def _documents(self) -> list[dict[str, Any]]:
        return [self.to_dict()]

    def _facts(self) -> dict[str, Any]:
        """What a person wants to see of it first."""
        return {"name": self.name, "id": self.id}

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self._facts().items() if value)
        return f"{type(self).__name__}({facts})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for name, value in {**self._facts(), "key": self.key}.items()
            if value
        )
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entity) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)
