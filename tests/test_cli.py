"""The command: its help, its exit statuses, and what it starts."""

import os
import re
import subprocess
import sys
from types import ModuleType

import pytest

from modelserve import cli
from modelserve.config import Config
from modelserve.environment import environment_defaults
from modelserve.errors import ConfigError, LoadError
from modelserve.flags import PARAMETERS

COMMANDS = [["-m", "modelserve", "serve"], ["-m", "huggingfaceserver"]]


def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELSERVE_")}
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=60, env=kept | environ, check=False
    )


class Server(ModuleType):
    """In the place of modelserve.server: keeps the configurations and environments that it was started with."""

    def __init__(self) -> None:
        super().__init__("modelserve.server")
        self.started: list[tuple[Config, dict[str, str]]] = []
        self.end: int | BaseException = 0

    def run(self, config: Config) -> int:
        self.started.append((config, dict(os.environ)))
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    module = Server()
    monkeypatch.setitem(sys.modules, "modelserve.server", module)
    defaults: dict[str, str] = {}
    environment_defaults(defaults)
    for name in defaults:
        monkeypatch.setenv(name, "to be undone")
        monkeypatch.delenv(name)
    return module


def test_serve_starts_the_server_with_what_was_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVE_MODEL_NAME", "bert")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)  # another project's, which is honoured
    server.end = 3
    assert cli.main(["serve", "--http-port", "9000", "--configure_logging=false"]) == 3
    ((config, environ),) = server.started
    assert config == Config(http_port=9000, model_name="bert", configure_logging=False)
    assert environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert environ["SAFETENSORS_FAST_GPU"] == "1"
    assert environ["TOKENIZERS_PARALLELISM"] == "false"


def test_environment_defaults_leave_what_is_set() -> None:
    environ = {"HF_HUB_DISABLE_TELEMETRY": "0"}
    environment_defaults(environ)
    assert environ == {
        "HF_HUB_DISABLE_TELEMETRY": "0",
        "SAFETENSORS_FAST_GPU": "1",
        "GOMP_SPINCOUNT": "20000",
        "MKL_DISABLE_FAST_MM": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def test_an_unknown_variable_is_logged(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MODELSERVE_HTTPPORT", "1")
    assert cli.main(["serve", "--configure_logging=false"]) == 0
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "unknown variable MODELSERVE_HTTPPORT; did you mean MODELSERVE_HTTP_PORT? It has no effect.")
    ]


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigError("the port\nis taken"), 2), (LoadError("the port\nis taken"), 1)]
)
def test_a_start_that_fails_is_one_line(
    server: Server, capsys: pytest.CaptureFixture[str], error: Exception, status: int
) -> None:
    server.end = error
    assert cli.main(["serve", "--configure_logging=false"]) == status
    assert capsys.readouterr() == ("", "modelserve: error: the port is taken\n")


def test_ctrl_c_while_starting(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.end = KeyboardInterrupt()
    assert cli.main(["serve", "--configure_logging=false"]) == 130
    assert capsys.readouterr().err.strip() == ""


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_wrong_command_line_is_one_line(command: list[str]) -> None:
    done = run(*command, "--modle_name", "bert")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "modelserve: error: unknown flag --modle_name; did you mean --model_name?\n"


def test_the_environment_is_read() -> None:
    done = run("-m", "modelserve", "serve", MODELSERVE_HTTP_PORT="x")
    assert done.returncode == 2
    assert done.stderr.startswith("modelserve: error: MODELSERVE_HTTP_PORT is 'x'; ")


def test_unknown_command() -> None:
    done = run("-m", "modelserve", "serv")
    assert done.returncode == 2
    assert done.stderr.startswith("modelserve: error: ")
    assert "serv" in done.stderr


def test_version() -> None:
    done = run("-m", "modelserve", "--version")
    assert done.returncode == 0
    assert re.fullmatch(r"modelserve \d+\.\d+\.\d+\S*\n", done.stdout)


def test_no_command_shows_what_there_is() -> None:
    done = run("-m", "modelserve")
    assert done.returncode == 2
    assert "serve" in done.stderr
    assert run("-m", "modelserve", "--help").stdout == done.stderr


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_help_wins_over_mistakes(command: list[str], flag: str) -> None:
    done = run(*command, "--frobnicate", flag)
    assert (done.returncode, done.stderr) == (0, "")


def joined(text: str) -> str:
    """Without the blanks, since lines are broken at different places."""
    return "".join(text.split())


@pytest.mark.parametrize("columns", [80, 120])
def test_help_shows_the_whole_table(columns: int) -> None:
    done = run("-m", "modelserve", "serve", "--help", COLUMNS=str(columns))
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert max(map(len, lines)) > columns - 12, "uses the width there is"
    at = 0
    for parameter in PARAMETERS:
        at = re.compile(rf"^  --{parameter.name}\b", re.MULTILINE).search(done.stdout, at).start()  # type: ignore[union-attr]
        row = joined(done.stdout[at : done.stdout.index("]\n", at)])
        assert joined(parameter.help) in row
        assert all(variable in row for variable in (parameter.variables[0], parameter.env or ""))
        assert all(choice in row for choice in (*parameter.choices, *parameter.synonyms))
        assert all(f"--{alias}" in row for alias in parameter.aliases)
        if parameter.default != "" and type(parameter.default) in (int, str):
            assert f"default{parameter.default};" in row
    for group in dict.fromkeys(parameter.group for parameter in PARAMETERS):
        assert f"{group}:" in lines
