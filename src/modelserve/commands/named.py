"""Which function NAME|PATH means on a command line, and which one a path makes. Knows no command."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from modelserve.errors import ConfigError, EntityNotFound
from modelserve.run_line import Line

if TYPE_CHECKING:
    from modelserve.deploy.function import Function

_FILES = (".pkl", ".pickle", ".joblib", ".skops")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def function_of(asked: Line, *, stored: bool = True) -> Function:
    """The function that is named, or the one of that path: the newest of its name where that has the path already,
    else a new version, which is only described where it is not to be `stored`. Raises EntityNotFound, ConfigError."""
    from modelserve.deploy import catalog, paths
    from modelserve.deploy.reference import NAME, SCHEME

    what = asked.what
    is_key = what.startswith(SCHEME)
    is_path = not is_key and ("://" in what or "/" in what or Path(what).exists())
    if is_key or (NAME.fullmatch(what) and not (is_path and (asked.name or asked.kind))):
        try:
            found = catalog.get_function(what, asked.project)
        except EntityNotFound as error:
            if not is_path:
                more = "" if is_key else ", and no file or directory here has that name"
                raise EntityNotFound(error.message + more) from error
        else:
            if is_path and found.spec.path != paths.absolute(what):
                raise ConfigError(f"{what} is a function and a path here; write ./{what} for the path, or {found.key}")
            _check_unset(asked, found)
            return found
    if stored:
        _check_here(asked)
    return _of_path(asked, stored)


def _check_unset(asked: Line, found: Function) -> None:
    for option in ("name", "kind"):
        said = getattr(asked, option)
        if said not in (None, getattr(found, option)):
            raise ConfigError(
                f"--{option} is {said!r}, but {asked.what} is a function, whose {option} is {getattr(found, option)!r}"
            )


def _check_here(asked: Line) -> None:
    """Before a function is made of it. Raises ConfigError."""
    from modelserve.deploy import paths, sealing

    if sealing.choose_target(asked.target, None) != "local":
        return
    try:
        paths.check_here(asked.what)
    except ConfigError as error:
        hint = f"; a model on the hub is hf://{asked.what}" if _HUB_ID.fullmatch(asked.what) else ""
        raise ConfigError(error.message + hint) from error


def _of_path(asked: Line, stored: bool) -> Function:
    from modelserve.deploy import catalog, paths

    path = paths.absolute(asked.what)
    kind = asked.kind or _kind(path)
    name = asked.name or re.sub(r"[^A-Za-z0-9._+-]+", "-", paths.title(path)).strip("-").lower() or "model"
    with suppress(EntityNotFound):
        newest = catalog.get_function(name, asked.project)
        if (newest.kind, newest.spec.path) == (kind, path):
            return newest
    make = catalog.new_function if stored else catalog.describe_function
    return make(asked.project, name, kind, path=path)


def _kind(path: str) -> str:
    if path.partition("?")[0].lower().endswith(_FILES):
        return "sklearnserve"
    return "mlflowserve" if (Path(path) / "MLmodel").is_file() else "huggingfaceserve"
