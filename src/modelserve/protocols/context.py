"""What every protocol is built from. Knows no protocol; its parts live on the event loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelserve.config import Config

if TYPE_CHECKING:
    from modelserve.runtime.model import Models


@dataclass(frozen=True, slots=True)
class Context:
    """The server's parameters and the models that it serves."""

    config: Config
    models: Models
