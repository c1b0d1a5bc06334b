"""Tables and JSON."""

from datetime import UTC, datetime, timedelta

import pytest

from modelserve import listing


def test_columns_are_as_wide_as_what_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    listing.table(["name", "n"], [["a", "100"], ["long name", ""]], "nothing")
    assert capsys.readouterr() == ("NAME       N\na          100\nlong name\n", "")


def test_no_rows_are_a_sentence_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    listing.table(["name"], [], "nothing")
    assert capsys.readouterr() == ("", "nothing\n")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.print_json({"a": ["ü"]}) == listing.print_json({"a": ["ü"]}, compact=True) == 0
    assert capsys.readouterr().out == '{\n  "a": [\n    "ü"\n  ]\n}\n{"a": ["ü"]}\n'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86399, "23h"), (200000, "2d")],
)
def test_age(seconds: int, text: str) -> None:
    created = datetime.now(UTC) - timedelta(seconds=seconds, milliseconds=5)
    assert listing.age(created.isoformat()) == text


@pytest.mark.parametrize(("value", "text"), [(None, ""), (0.0, "0.00"), (1.234, "1.23"), (9.996, "10"), (123.4, "123")])
def test_number(value: float | None, text: str) -> None:
    assert listing.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, ""), (0, "0Mi"), (3 * 2**30, "3072Mi")])
def test_mebibytes(value: int | None, text: str) -> None:
    assert listing.mebibytes(value) == text
