"""Log lines, as text or JSON, on stderr. Knows no request."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from modelserve.config import Config
from modelserve.errors import ConfigError

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a request's fields lie beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        line |= fields if fields is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at that moment, which is the progress bar's while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure(config: Config) -> None:
    """Set up logging as the parameters say. Raises ConfigError for an unreadable --log_config_file."""
    if not config.configure_logging:
        return
    # A line per request is on the hot path. Our formats name no thread, process or source line, so they are not looked
    # up (the logging HOWTO's optimisations); a --log_config_file may want them.
    if not config.log_config_file:
        logging._srcfile = None
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if config.log_config_file:
        _from_file(Path(config.log_config_file))
        return
    handler = _StandardError()
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("modelserve", "uvicorn"):
        logging.getLogger(name).setLevel(config.log_level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its start and stop lines say less than ours


def _from_file(path: Path) -> None:
    """A dictConfig in JSON or YAML."""
    try:
        text = path.read_text()
        if path.suffix == ".json":
            settings = json.loads(text)
        else:
            import yaml

            settings = yaml.safe_load(text)
        logging.config.dictConfig(settings)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise ConfigError(f"--log_config_file {path} cannot be used: {error}") from error
    except Exception as error:  # yaml's errors share no base with the others
        raise ConfigError(f"--log_config_file {path} is not valid YAML: {error}") from error
