"""`modelserve verify` as it is typed: what is told, its exit status, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.backends.predictors import Predicting, rest
from tests.commands.conftest import Typed
from tests.models import tiny


def test_a_table_and_a_verdict(typed: Typed) -> None:
    done = typed("verify", "--model_dir", str(tiny("bert", "token_classification")), "--return-raw-logits")
    assert done.status == 0
    first, head, together, alone, verdict = done.out.splitlines()
    assert first.endswith(": token_classification by huggingface in float32, against transformers")
    assert head.split() == ["ASKED", "TEXTS", "UNLIKE", "LARGEST", "MEAN", "SAME", "CHOICE", "NEAR-TIES"]
    assert together.split()[:3] == ["together", "16", "0"]
    assert alone.split()[:3] == ["alone", "16", "0"]
    assert verdict.startswith("passed: ")
    assert verdict.endswith("is allowed (tolerance 0.0001)")


def test_json(typed: Typed) -> None:
    done = typed("verify", "--json", f"--model_dir={tiny('bert')}", "--tolerance", "0.5")
    assert done.status == 0
    said = done.json
    what = ["passed", "model", "task", "backend", "device", "dtype", "reference"]
    assert list(said) == [*what, "tolerance", "allowed", "left_out", "rounds"]
    assert (said["passed"], said["task"], said["tolerance"]) == (True, "text_embedding", 0.5)
    for one in said["rounds"]:
        assert list(one) == ["asked", "texts", "unlike", "largest", "mean", "cosine", "rows", "same", "near_ties"]
        assert one["cosine"] > 0.999


def test_a_wrong_answer_is_status_1(typed: Typed) -> None:
    it = Predicting(outputs=[{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}])
    with rest(it) as port:
        words = ["--model_dir", str(tiny("bert", "sequence_classification")), "--model_name", "m"]
        done = typed("verify", *words, "--predictor_host", f"127.0.0.1:{port}")
    assert done.status == 1
    assert "sequence_classification by remote in float32, against transformers" in done.out
    assert "pairs of texts were left out: the remote predictor takes no token_type_ids" in done.out
    assert done.out.splitlines()[-1].startswith("failed: ")


def test_texts_of_a_file_and_of_standard_input(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = str(tiny("bert", "sequence_classification"))
    file = tmp_path / "texts"
    file.write_text("Zoë\n\na question\tan answer\n", encoding="utf-8")
    done = typed("verify", "--model_dir", directory, "--texts", str(file), "--json")
    assert [one["texts"] for one in done.json["rounds"]] == [2, 2]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\nthree\n")))
    done = typed("verify", "--model_dir", directory, "--texts", "-", "--json")
    assert [one["texts"] for one in done.json["rounds"]] == [3, 3]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--tolerance", "-1"], 2, "-1.0 is not in the range x>=0"),
        (["--texts", "/nowhere"], 2, "'/nowhere': No such file or directory"),
        (["--reference_dir", "/nowhere"], 2, "Directory '/nowhere' does not exist"),
        (["--model_dri", "x"], 2, "unknown flag --model_dri; did you mean --model_dir?"),
        (["--model_dir", "/nowhere"], 1, "there is no directory /nowhere"),
    ],
)
def test_what_is_refused(typed: Typed, words: list[str], status: int, said: str) -> None:
    done = typed("verify", *words)
    assert done.status == status
    assert said in done.err
    assert done.out == ""


def test_texts_that_are_no_utf_8(typed: Typed, tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_bytes(b"caf\xe9\n")
    done = typed("verify", "--model_dir", str(tiny("bert")), "--texts", str(file))
    assert done.status == 2
    assert "is not UTF-8 at byte 3; save it as UTF-8" in done.err


def test_its_help_names_the_tolerances_and_the_servers_flags(typed: Typed) -> None:
    done = typed("verify", "--help")
    assert done.status == 0
    words = " ".join(done.out.split())
    assert "1e-4 in float32, 1e-2 in float16, 1e-1 in bfloat16" in words
    assert "those of `modelserve serve`" in words
