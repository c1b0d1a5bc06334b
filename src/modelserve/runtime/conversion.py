"""`modelserve convert`: a model's directory -> a directory that the openvino backend serves, checked.

The export runs in an environment of its own (export_environment.py), the check in this process, with the steps that
will serve it (conversion_check.py). Everything is made beside its place and renamed when it is whole. Blocking.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import deque
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from modelserve.config import Config
from modelserve.errors import ConfigError, LoadError
from modelserve.runtime import conversions, export_environment
from modelserve.runtime.building import Say, alone, building, check_space, put
from modelserve.runtime.conversions import Deviation, Record
from modelserve.runtime.files import SMALL, Files, resolve
from modelserve.runtime.info import inspect
from modelserve.runtime.weights import INDEX, PICKLE, SAFETENSORS
from modelserve.types import ModelInfo

_SCRIPT = Path(__file__).with_name("export_openvino.py")
_OWN = (SAFETENSORS + INDEX, PICKLE + INDEX, conversions.RECORD)
"""Small files of the model that its conversion has no use for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A command line of `modelserve convert`."""

    config: Config
    """Where the model is, --trust_remote_code and --threads."""
    weights: str
    """float32 or int8."""
    output: Path | None
    python: str | None


def convert(asked: Asked, say: Say) -> tuple[Path, Record, bool]:
    """The directory, what is known of it, and whether it is new. Raises ConfigError, LoadError."""
    _check_runtime()
    say("looking at the model")
    files = resolve(asked.config, lambda fraction: say(f"download {fraction:.0%}"))
    info, task = inspect(files, asked.config)
    _check(files, info, task)
    python, exporter = export_environment.python(asked.python, say)
    target = asked.output or conversions.place(files.model, asked.weights, exporter)
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone(target, say):
        found = _made(target, files, asked.weights, exporter)
        if found is not None:
            return target, found, False
        if asked.output is None:
            shutil.rmtree(target, ignore_errors=True)  # another version's, or what somebody has torn
        else:
            _check_empty(target)
        with building(target, target.parent) as made:
            check_space(files.shapes, 5 if asked.weights == "int8" else 4, made, "the conversion", target)
            _export(python, files, asked, made, say)
            _copy(files, made)
            record = _checked(asked, files, info, made, python, exporter, say)
            (made / conversions.RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
            put(made, target)
    return target, record, True


def _check_runtime() -> None:
    """What checks it, and serves it. Raises LoadError."""
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise LoadError(
            "openvino is not installed, which checks conversions; pip install 'modelserve[openvino]'"
        ) from error


def _check(files: Files, info: ModelInfo, task: str) -> None:
    """Raises LoadError for what is never converted."""
    if conversions.read(files.model) is not None:
        raise LoadError(f"{files.model} is a conversion already; serve it with --model_dir")
    if task != "text_generation" or info.config.get("is_encoder_decoder"):
        name = (info.config.get("architectures") or ["the model"])[0]
        raise LoadError(
            f"{name} is made for {task}; only decoder-only models that write text are converted to openvino"
        )


def _made(target: Path, files: Files, weights: str, exporter: str) -> Record | None:
    """What is there already, of these very weights."""
    record = conversions.read(target)
    if record is not None and (record.identity, record.weights, record.exporter) == (
        conversions.identity(files.model),
        weights,
        exporter,
    ):
        return record
    return None


def _check_empty(output: Path) -> None:
    """Raises ConfigError for a place that holds something else."""
    if not output.exists():
        return
    if not output.is_dir():
        raise ConfigError(f"--output {output} is a file; give a new directory")
    if any(output.iterdir()):
        raise ConfigError(f"--output {output} holds something else; give a new directory, or remove that one")


def _export(python: Path, files: Files, asked: Asked, output: Path, say: Say) -> None:
    """Raises LoadError with the exporter's last words."""
    command = [str(python), "-I", str(_SCRIPT), str(files.model), str(output), asked.weights]
    if asked.config.trust_remote_code:
        command.append("--trust_remote_code")
    last: deque[str] = deque(maxlen=50)
    environ = export_environment.environ()
    if asked.config.threads:
        environ["OMP_NUM_THREADS"] = str(asked.config.threads)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environ
    ) as process:
        assert process.stdout is not None, "a pipe"
        try:
            for line in process.stdout:
                if line.startswith("stage "):
                    say(line.removeprefix("stage ").strip())
                elif line.strip():
                    last.append(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode or not (output / conversions.GRAPH).is_file():
        raise LoadError(f"{files.model.name} cannot be exported to OpenVINO: {_last_words(last)}")


def _last_words(lines: deque[str]) -> str:
    """Of a traceback its error, of anything else the end."""
    if not lines:
        return "the exporter ended without a word"
    line = lines[-1]
    kind, colon, message = line.partition(": ")
    return message if colon and kind.endswith(("Error", "Exception")) else line


def _copy(files: Files, output: Path) -> None:
    """What the server reads besides the weights: configurations and the tokenizer, as the model has them."""
    for directory in (files.model, files.tokenizer):
        for file in directory.iterdir():
            if file.is_file() and file.name.endswith((*SMALL, ".py")) and file.name not in _OWN:
                shutil.copyfile(file, output / file.name)


def _checked(
    asked: Asked, files: Files, info: ModelInfo, output: Path, python: Path, exporter: str, say: Say
) -> Record:
    """Its record. Raises LoadError for a conversion that writes other texts than the model."""
    import gc

    from modelserve.backends.cores import cores
    from modelserve.backends.pretrained import load_pretrained
    from modelserve.runtime import conversion_check as check
    from modelserve.runtime.greedy import answers
    from modelserve.runtime.heads import missing_head
    from modelserve.runtime.tokenizer import load_tokenizer

    config = asked.config
    threads = config.threads or cores()
    say("check: loading the model with transformers")
    tokenizer = load_tokenizer(config, files, info)
    wanted = check.prompts(tokenizer.ids, tokenizer.rows, info.config, info.max_length)
    model = load_pretrained(
        files.model,
        "AutoModelForCausalLM",
        "float32",
        config.trust_remote_code,
        config.allow_pickle,
        lambda keys: missing_head(keys, "text_generation"),
    )
    known = answers(model.eval(), wanted, say)
    del model
    gc.collect()
    deviations: dict[str, Deviation] = {}
    for dtype in ("float32", "bfloat16"):
        say(f"check: the conversion follows in {dtype}")
        try:
            deviations[dtype] = check.deviation(output, known, dtype, threads)
        except LoadError as error:
            if dtype == "float32":
                raise
            say(f"check: not in {dtype}: {error.message}")
    record = Record(
        source=config.model_id or str(files.model),
        identity=conversions.identity(files.model),
        weights=asked.weights,
        exporter=exporter,
        versions=json.loads(export_environment.versions(python))
        | {f"checked with {name}": metadata.version(name) for name in ("transformers", "openvino", "modelserve")},
        prompts=len(wanted),
        deviations=deviations,
        passed=asked.weights == "float32" and deviations["float32"].equal == 1.0,
    )
    if asked.weights == "float32" and not record.passed:
        name = (info.config.get("architectures") or ["it"])[0]
        off = deviations["float32"]
        raise LoadError(
            f"{name} converted to openvino writes other texts than with transformers: {1 - off.equal:.1%} of "
            f"{off.tokens} tokens differ, and logits by up to {off.largest:.2g}; serve it with --backend huggingface"
        )
    return record
