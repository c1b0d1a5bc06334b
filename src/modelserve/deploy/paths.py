"""Where a function's model is: the schemes that users type, and what the server is told for each.

Pure, but for looking whether a local path is there; nothing is downloaded here, the server does that.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from modelserve.errors import ConfigError
from modelserve.urls import shown

HUB = ("hf", "huggingface")
_HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(:(?P<revision>[\w./-]*[\w.-]))?/?")
REMOTE = ("s3", "http", "https", "file", "zip+s3", "zip+http", "zip+https", "gs", "az", "abfs")


class Where(NamedTuple):
    """A path, understood. scheme: "" for a local one. server: the parameters that tell it to the server."""

    scheme: str
    server: dict[str, Any]

    @property
    def local(self) -> Path | None:
        return Path(self.server["model_dir"]) if not self.scheme else None

    @property
    def here(self) -> Path | None:
        """On this machine, also where it was written file://. Raises ConfigError for a file of another."""
        if self.scheme != "file":
            return self.local
        url = str(self.server["model_dir"])
        host, slash, path = url.removeprefix("file://").partition("#sha256=")[0].partition("/")
        if host not in ("", "localhost") or not slash:
            raise ConfigError(f"path is {shown(url)!r}; a path of this machine is file:///models/bert")
        return Path("/" + unquote(path))


def parse(path: str) -> Where:
    """Raises ConfigError for a scheme that nobody here reads."""
    scheme, separator, rest = path.partition("://")
    if not separator:
        return Where("", {"model_dir": path})
    scheme = scheme.lower()
    if scheme in HUB:
        found = _HUB_ID.fullmatch(rest)
        if found is None:
            raise ConfigError(f"path is {shown(path)!r}; a model on the hub is hf://org/name or hf://org/name:revision")
        revision = {"model_revision": found["revision"]} if found["revision"] else {}
        return Where("hf", {"model_id": found["id"], **revision})
    if scheme == "store":
        raise ConfigError(
            f"path is {shown(path)!r}, a model of a DigitalHub platform, which is not asked here; give the path "
            "that the model has there (s3://…, hf://…) or a local directory"
        )
    if scheme in REMOTE and rest:
        return Where(scheme, {"model_dir": f"{scheme.removeprefix('zip+')}://{rest}"})
    known = ", ".join(f"{one}://" for one in (*HUB, "s3", "http", "https", "file"))
    raise ConfigError(f"path is {shown(path)!r}; it must be a local path or begin with one of {known}")


def absolute(path: str) -> str:
    """A local path from the root, as another process with another working directory needs it, and without .., so that
    one place has one name; others as they are."""
    local = parse(path).local
    if local is None:
        return path
    found = Path()
    for part in local.expanduser().absolute().parts:
        if part != "..":
            found /= part
        else:  # as the system goes up: from where a link leads
            found = (found.resolve() if found.is_symlink() else found).parent
    return str(found)


def check_here(path: str) -> None:
    """Raises ConfigError for a path of this machine that is not there."""
    here = parse(path).here
    if here is not None and not here.exists():
        raise ConfigError(f"path is {shown(path)!r}, and there is nothing at that place on this machine")


def check_override(path: str, function_path: str) -> None:
    """Raises ConfigError unless a run's path is the function's with something behind it: a folder, a revision."""
    # A disk may tell cases apart; the hub does not, and the platform whose rule this is does not either.
    same = str if parse(function_path).local else str.lower
    base, behind = function_path.rstrip("/"), path[len(function_path.rstrip("/")) :]
    below = same(path[: len(base)]) == same(base) and behind[:1] in ("", "/", ":")
    if not below or ".." in behind.split("/"):
        raise ConfigError(f"path is {shown(path)!r}; a run's path is below its function's, {shown(function_path)!r}")


def title(path: str) -> str:
    """What a person would call the model: the last part of its path, without revision and ending."""
    where = parse(path)
    last = str(where.server.get("model_id") or where.server["model_dir"]).rstrip("/").rpartition("/")[2]
    return last.partition("#")[0].partition("?")[0].partition(".")[0] or last
