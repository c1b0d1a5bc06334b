"""Where entities and secrets are kept: one row each, every write one transaction, on SQLite or PostgreSQL.

Any thread and any number of processes may write at once. Knows no state and no target; what a record means is for those
who change it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, select, update

from modelserve.deploy import schema, secrets
from modelserve.deploy.database import Database
from modelserve.deploy.home import store_url
from modelserve.deploy.record import Record, now
from modelserve.deploy.reference import Type
from modelserve.deploy.schema import ENTITY, SECRET
from modelserve.deploy.secrets import Sealed
from modelserve.errors import EntityExists, EntityNotFound, StoreError

_Records = list[Record]
_Names = list[str]


class Store:
    """The entities and secrets in one database. Every method raises StoreError where the database cannot be used."""

    def __init__(self, url: str | None = None) -> None:
        """url: as home.store_url(), which is the default. The tables are made where there are none."""
        self._database = Database(url or store_url())
        try:
            schema.prepare(self._database)
        except BaseException:
            self._database.close()
            raise

    def __repr__(self) -> str:
        return f"Store({self._database.name!r})"

    def close(self) -> None:
        self._database.close()

    def create(self, record: Record) -> Record:
        """The record as it is stored: its revision is 1. Raises EntityExists."""
        stored = record.replace(revision=1)
        row = _row(stored) | {"created": _instant(record.metadata.get("created"))}
        statement = _insert(self._database)(ENTITY).values(row).on_conflict_do_nothing()
        while True:
            with self._database.transaction(write=True) as connection:
                if connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1:
                    return stored
                taken = _taken(connection, stored)
            if taken:
                raise EntityExists(taken)
            # what was in the way is deleted by now

    def get(self, type: Type, project: str, id: str) -> Record:
        """Raises EntityNotFound."""
        with self._database.transaction(write=False) as connection:
            body = self._body(connection, select(ENTITY.c.body).where(_is(type, project, id)), type, project, id)
        return self._decode(body)

    def latest(self, type: Type, project: str, name: str) -> Record:
        """The newest version by that name. Raises EntityNotFound."""
        named = and_(ENTITY.c.type == type, ENTITY.c.project == project, ENTITY.c.name == name)
        newest = select(ENTITY.c.body).where(named).order_by(*_newest_first(ENTITY.c)).limit(1)
        with self._database.transaction(write=False) as connection:
            body = self._body(connection, newest, type, project, name)
        return self._decode(body)

    def list(
        self,
        type: Type,
        project: str | None = None,
        *,
        name: str | None = None,
        kind: str | None = None,
        function: str | None = None,
        state: str | None = None,
        versions: Literal["latest", "all"] = "all",
    ) -> _Records:
        """Newest first. versions="latest": of what has the same name only the newest, where that passes the filters."""
        rows = select(ENTITY).where(ENTITY.c.type == type)
        if project is not None:
            rows = rows.where(ENTITY.c.project == project)
        if name is not None:
            rows = rows.where(ENTITY.c.name == name)
        if versions == "latest":
            place = func.row_number().over(
                partition_by=(ENTITY.c.project, ENTITY.c.name), order_by=_newest_first(ENTITY.c)
            )
            rows = rows.add_columns(place.label("place"))
        found = rows.subquery()
        wanted = {"kind": kind, "function": function, "state": state}
        query = select(found.c.body).where(
            *(found.c[key] == value for key, value in wanted.items() if value is not None)
        )
        if versions == "latest":
            query = query.where(found.c.place == 1)
        with self._database.transaction(write=False) as connection:
            bodies = connection.execute(query.order_by(*_newest_first(found.c))).scalars().all()
        return [self._decode(body) for body in bodies]

    def change(self, type: Type, project: str, id: str, change: Callable[[Record], Record]) -> Record:
        """Read, `change`, write, in one transaction: what others change meanwhile is neither lost nor overwritten.

        `change` is short and writes nothing else, since others wait for it; what it raises undoes everything; a record
        like the one it was given is not written. Raises EntityNotFound, and StoreError for a record made of an older
        revision.
        """
        one = _is(type, project, id)
        with self._database.transaction(write=True) as connection:
            body = self._body(connection, select(ENTITY.c.body).where(one).with_for_update(), type, project, id)
            after = change(self._decode(body))
            _check_change(self._decode(body), after)  # decoded again: `change` may have changed the first in place
            if _row(after)["body"] == body:
                return after
            stored = after.replace(revision=after.revision + 1)
            connection.execute(update(ENTITY).where(one).values(_row(stored)))
        return stored

    def delete(self, type: Type, project: str, id: str) -> None:
        """No error when it is not there."""
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(ENTITY).where(_is(type, project, id)))

    def put_secret(self, project: str, name: str, value: str) -> None:
        """Keep it encrypted; one of that name is replaced. Raises StoreError."""
        sealed = secrets.seal(value, _secret(project, name))
        statement = _insert(self._database)(SECRET).values(project=project, name=name, **sealed._asdict())
        statement = statement.on_conflict_do_update(index_elements=["project", "name"], set_=sealed._asdict())
        with self._database.transaction(write=True) as connection:
            connection.execute(statement)

    def get_secret(self, project: str, name: str) -> str:
        """Raises EntityNotFound, and StoreError without the key that encrypted it."""
        query = select(SECRET.c.token, SECRET.c.key, SECRET.c.salt).where(_is_secret(project, name))
        with self._database.transaction(write=False) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise EntityNotFound(f"the project {project!r} has no secret {name!r}")
        return secrets.unseal(Sealed(*row), _secret(project, name))

    def list_secrets(self, project: str) -> _Names:
        """Their names, sorted."""
        with self._database.transaction(write=False) as connection:
            names = connection.execute(select(SECRET.c.name).where(SECRET.c.project == project)).scalars().all()
        return sorted(names)

    def delete_secret(self, project: str, name: str) -> None:
        """No error when it is not there."""
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(SECRET).where(_is_secret(project, name)))

    def _body(self, connection: Connection, query: Select[Any], type: Type, project: str, called: str) -> str:
        body: str | None = connection.execute(query).scalar_one_or_none()
        if body is None:
            raise EntityNotFound(
                f"there is no project {project!r}"
                if type == "project"
                else f"the project {project!r} has no {type} {called!r}"
            )
        return body

    def _decode(self, body: str) -> Record:
        try:
            return msgspec.json.decode(body, type=Record)
        except msgspec.DecodeError as error:
            raise StoreError(
                f"the store {self._database.name} has a record that cannot be read ({error}); put a copy back"
            ) from error


def _is(type: Type, project: str, id: str) -> ColumnElement[bool]:
    return and_(ENTITY.c.type == type, ENTITY.c.project == project, ENTITY.c.id == id)


def _is_secret(project: str, name: str) -> ColumnElement[bool]:
    return and_(SECRET.c.project == project, SECRET.c.name == name)


def _secret(project: str, name: str) -> str:
    return f"the secret {name!r} of the project {project!r}"


def _newest_first(columns: Any) -> tuple[Any, Any]:
    return columns.created.desc(), columns.sequence.desc()


def _row(record: Record) -> dict[str, Any]:
    """All columns that a change may write. Raises StoreError for what JSON cannot hold."""
    try:
        body = msgspec.json.encode(record).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(
            f"{record.key} cannot be stored ({error}); what is stored is text, numbers, true, false, null, lists and "
            "mappings"
        ) from error
    same = {name: getattr(record, name) for name in ("project", "type", "kind", "name", "id", "state", "revision")}
    return same | {"function": str(record.spec.get("function") or ""), "body": body}


def _check_change(before: Record, after: Record) -> None:
    """Raises StoreError."""
    if after.revision != before.revision:
        raise StoreError(
            f"{before.key} has revision {before.revision}, and the change was made to revision {after.revision}; "
            "read it again and make the change to that"
        )
    fixed = ["project", "type", "kind", "name", "id"]
    changed = [name for name in fixed if getattr(after, name) != getattr(before, name)]
    if before.type == "task" and after.spec.get("function") != before.spec.get("function"):
        changed.append("spec.function")
    if changed:
        raise StoreError(f"{before.key} is known by its {', '.join(changed)}, which cannot change; make another")


def _taken(connection: Connection, record: Record) -> str:
    """Which entity is in the record's way, as a sentence; "" when there is none any more."""
    if connection.execute(select(ENTITY.c.id).where(_is(record.type, record.project, record.id))).first():
        if record.type == "project":
            return f"there is a project {record.name!r} already"
        return f"the project {record.project!r} has a {record.type} with the id {record.id!r} already"
    function = str(record.spec.get("function") or "")
    same = and_(ENTITY.c.project == record.project, ENTITY.c.function == function, ENTITY.c.kind == record.kind)
    if record.type == "task" and connection.execute(select(ENTITY.c.id).where(ENTITY.c.type == "task", same)).first():
        return f"the function {function!r} has a task {record.kind!r} already"
    return ""


def _insert(database: Database) -> Any:
    """The database's own INSERT, which knows ON CONFLICT; SQLAlchemy has none in common for them."""
    if database.is_postgres:
        from sqlalchemy.dialects.postgresql import insert as postgres_insert

        return postgres_insert
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert


def _instant(created: object) -> str:
    """A record's time of creation, as the column has it; now for one that says none."""
    try:
        instant = datetime.fromisoformat(str(created))
        if instant.tzinfo is None:
            instant = instant.replace(tzinfo=UTC)
        return instant.astimezone(UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError):
        return now()
