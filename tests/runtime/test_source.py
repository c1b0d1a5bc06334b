"""What --model_dir names, and what of it may be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelserve.errors import LoadError
from modelserve.runtime.source import is_url, parse
from modelserve.urls import shown

SIGNED = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA&X-Amz-Expires=60&X-Amz-Signature=5ec3e7"


@pytest.mark.parametrize(
    ("source", "scheme", "name", "packed"),
    [
        ("/models/bert", "", "bert", False),
        ("/models/bert.zip", "", "bert.zip", True),
        ("file:///models/a%20b", "", "a b", False),
        ("file://localhost/models/bert.tgz", "", "bert.tgz", True),
        ("s3://bucket/folder/", "s3", "", False),
        ("s3://bucket", "s3", "", False),
        ("s3://bucket/folder/bert.tar.gz", "s3", "bert.tar.gz", True),
        ("s3://bucket/folder.zip/", "s3", "", False),
        ("S3://bucket/model.pkl", "s3", "model.pkl", False),
        ("zip+s3://bucket/bert", "s3", "bert", True),
        ("https://host/a/bert.ZIP?x=1#top", "https", "bert.ZIP", True),
        ("https://host/a%2Fb%20c.pkl", "https", "a_b c.pkl", False),
        ("zip+http://host/download?id=3", "http", "download", True),
        ("gs://bucket/bert/", "gs", "", False),
    ],
)
def test_what_is_understood(source: str, scheme: str, name: str, packed: bool) -> None:
    found = parse(source)
    assert (found.scheme, found.name, found.packed) == (scheme, name, packed)


def test_a_local_path() -> None:
    assert parse("file:///models/a%20b").path == Path("/models/a b")
    assert parse("~/bert").path == Path.home() / "bert"
    assert parse("bert").path == Path.cwd() / "bert"
    assert not is_url("file:///models")
    assert not is_url("/models")
    assert is_url("s3://models")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://org/bert", "hf://org/bert is a model of the Hugging Face hub; give it as --model_id org/bert"),
        (
            "huggingface://org/bert:v1",
            "huggingface://org/bert:v1 is a model of the Hugging Face hub; "
            "give it as --model_id org/bert --model_revision v1",
        ),
        (
            "store://p/model/huggingface/bert:1",
            "store://p/model/huggingface/bert:1 is an entry of a platform's registry, which is not asked here; "
            "give the path that it stands for (s3://…, https://…)",
        ),
        (
            "pvc://claim/bert",
            "pvc://claim/bert has a scheme that is not known here; give a local path or one of file://, http://, "
            "https://, s3://, s3a://, gs://, gcs://, az://, abfs://, abfss://, oss://",
        ),
        ("file://elsewhere/bert", "file://elsewhere/bert names no file of this machine, as file:///models/bert does"),
        ("s3://", "s3:// names no bucket, as s3://bucket/folder/ does"),
        (
            "https://host/models/",
            "https://host/models/ names no file; over https a model is one file, such as https://host/model.zip",
        ),
        ("http://", "http:// names no file; over http a model is one file, such as http://host/model.zip"),
        ("http://host:x/a.zip", "http://host:x/a.zip is no valid URL: Port could not be cast to integer value as 'x'"),
        (
            "https://host/a.zip#sha256=abc",
            "https://host/a.zip has #sha256=abc, and a SHA-256 has 64 hexadecimal digits",
        ),
    ],
)
def test_what_is_refused(source: str, message: str) -> None:
    with pytest.raises(LoadError) as caught:
        parse(source)
    assert caught.value.message == message


def test_the_digest_of_the_url() -> None:
    assert parse(f"https://host/a.zip#sha256={'AB' * 32}").sha256 == "ab" * 32
    assert parse("https://host/a.zip#top").sha256 is None
    assert parse("s3://bucket/a#1/").shown == "s3://bucket/a#1/", "# is a usual character there"


@pytest.mark.parametrize(
    "source",
    [
        f"https://me:hunter2@host/bert.zip?{SIGNED}",
        f"s3://me:hunter2@bucket/bert.zip?{SIGNED}",
        f"pvc://me:hunter2@bucket/bert.zip?{SIGNED}",
        f"store://me:hunter2@bucket/bert.zip?{SIGNED}#5ec3e7",
    ],
)
def test_secrets_are_not_shown(source: str) -> None:
    try:
        found = parse(source)
        said = f"{found!r} {found.shown} {found.key} {found.label}"
    except LoadError as error:
        said = error.message
    for text in (said, shown(source)):
        assert "bert.zip" in text
        assert not any(secret in text for secret in ("hunter2", "me:", "5ec3e7", "AKIA"))


def test_one_file_however_it_is_signed() -> None:
    first = parse(f"https://host/bert.zip?version=2&{SIGNED}")
    again = parse(f"https://me:hunter2@HOST/bert.zip?version=2&{SIGNED.replace('5ec3e7', 'other')}")
    assert first.label == again.label
    assert first.label.startswith("bert-")
    assert first.label != parse(f"https://host/bert.zip?version=3&{SIGNED}").label
    azure = "https://a.blob.core.windows.net/m/bert.zip?"
    assert parse(f"{azure}sv=1&se=2&sr=b&sp=r&sig=x").label == parse(f"{azure}sv=1&se=3&sr=b&sp=r&sig=y").label
    assert parse("https://host/bert.zip?se=1").label != parse("https://host/bert.zip?se=2").label


def test_buckets_of_two_stores_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = set()
    for url in ("", "http://one", "http://two"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        labels.add(parse("s3://bucket/bert/").label)
        labels.add(parse("s3://bucket/bert").label)
    assert len(labels) == 3
