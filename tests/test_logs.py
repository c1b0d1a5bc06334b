"""Log lines as a person or a machine reads them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelserve import flags, logs
from modelserve.errors import ConfigError
from modelserve.runtime.record import check_format, record


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    source = logging._srcfile
    looked_up = logging.logThreads, logging.logProcesses, logging.logMultiprocessing
    yield
    root.handlers[:], root.level = before
    logging._srcfile = source
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = looked_up


def finished(config: flags.Config, **kwargs: object) -> None:
    record(config, api="v1", task="fill_mask", code="200", id="abc", total_s=0.25, **kwargs)  # type: ignore[arg-type]


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    config = flags.from_keywords(log_format="json")
    logs.configure(config)
    finished(config, texts=2)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("modelserve").exception("it failed")
    request, failure = map(json.loads, capsys.readouterr().err.splitlines())
    assert (request["id"], request["code"], request["texts"], request["total_ms"]) == ("abc", "200", 2, 250.0)
    assert failure["message"] == "it failed"
    assert "ValueError: broken" in failure["traceback"]


def test_text_lines_and_a_format_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    config = flags.from_keywords()
    logs.configure(config)
    finished(config)
    assert "INFO modelserve.request id=abc api=v1 code=200" in capsys.readouterr().err
    finished(flags.from_keywords(access_log_format="{code} {api} in {total_ms}"))
    assert capsys.readouterr().err.endswith("200 v1 in 250.0\n")


@pytest.mark.parametrize("format", ["{client_addr} {code}", "{code", "{}", "{code.x}", "{total_ms:d}"])
def test_a_format_that_no_line_can_be_written_with_is_refused(format: str) -> None:
    with pytest.raises(ConfigError, match=r"--access_log_format .*it may have \{id\}, .*\{total_ms\}"):
        check_format(flags.from_keywords(access_log_format=format))
    check_format(flags.from_keywords(access_log_format="{code:>4} {total_ms:.0f} %(h)s"))


def test_texts_are_logged_only_when_asked_for_and_cut(capsys: pytest.CaptureFixture[str]) -> None:
    config = flags.from_keywords()
    logs.configure(config)
    finished(config, request_texts=["private words"])
    assert "private" not in capsys.readouterr().err
    finished(flags.from_keywords(disable_log_requests=False, max_log_len=4), request_texts=["private words"])
    assert "['priv']" in capsys.readouterr().err


def test_the_latency_line_can_be_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    config = flags.from_keywords(enable_latency_logging=False)
    logs.configure(config)
    finished(config)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["log.yaml", "log.json"])
def test_a_configuration_file(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"f": {"format": "MINE %(message)s"}},
        "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}},
        "root": {"handlers": ["h"], "level": "WARNING"},
    }
    (tmp_path / name).write_text(json.dumps(settings))  # JSON is YAML
    logs.configure(flags.from_keywords(log_config_file=str(tmp_path / name)))
    logging.getLogger("modelserve.test").warning("hello")
    assert "MINE hello" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "- a list", "version: 1\nhandlers: {h: {class: no.Such}}"])
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.yaml").write_text(text)
    with pytest.raises(ConfigError, match="--log_config_file"):
        logs.configure(flags.from_keywords(log_config_file=str(tmp_path / "log.yaml")))
