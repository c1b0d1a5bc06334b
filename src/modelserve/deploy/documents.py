"""Entities as YAML files, for export and import. Knows no store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from modelserve.deploy.record import Record
from modelserve.deploy.reference import Type, check_name, parse_key
from modelserve.errors import ConfigError


class _Document(msgspec.Struct):
    """What a file says of one entity; further keys are ignored."""

    kind: str
    name: str
    id: str
    project: str
    key: str
    metadata: dict[str, Any] = {}
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


def write(documents: list[dict[str, Any]], name: str, path: str | Path | None) -> Path:
    """One entity is a mapping, several are a list. Returns the file. Raises ConfigError when it cannot be written."""
    import yaml

    file = Path(path or ".").expanduser()
    if file.is_dir() or path is None:
        file = file / name
    text = yaml.safe_dump(documents[0] if len(documents) == 1 else documents, sort_keys=False, allow_unicode=True)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    return file


def read(path: str | Path) -> list[Record]:
    """The entities in a file, in its order. Raises ConfigError."""
    import yaml

    file = Path(path).expanduser()
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        listed = found if isinstance(found, list) else [found]
        return [_record(msgspec.convert(one, _Document)) for one in listed]
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is no text in UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file} is no export of an entity: {error}") from error


def _record(document: _Document) -> Record:
    type_: Type = parse_key(document.key).type
    return Record(
        project=check_name("project", document.project),
        type=type_,
        kind=document.kind,
        name=check_name("name", document.name),
        id=check_name("id", document.id),
        metadata=document.metadata,
        spec=document.spec,
        status=document.status,
    )
