"""Where the SDK keeps things on this machine. Reads the variables that are no parameters of the server, once each."""

from __future__ import annotations

import os
from pathlib import Path

from modelserve import environment


def home() -> Path:
    """$MODELSERVE_HOME, else ~/.modelserve; the server's downloads are there too."""
    return environment.home()


def store_url() -> str:
    """$MODELSERVE_STORE_URL (SQLAlchemy's form, such as postgresql://user@host/name), else SQLite in `home()`."""
    return os.environ.get("MODELSERVE_STORE_URL") or f"sqlite:///{home() / 'modelserve.db'}"


def run_directory(run_id: str) -> Path:
    """Logs and notes of one local run."""
    return home() / "runs" / run_id


def profiles_directory() -> Path:
    """YAML files that `profile=` names."""
    return home() / "profiles"
