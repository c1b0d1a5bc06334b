"""Every page is true: its blocks run, its links lead somewhere."""

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.blocks import LANGUAGES, ROOT, Reader, blocks, difference
from tests.deploy.kubernetes.fake import cluster
from tests.generative import tiny_generative
from tests.hub import Hub
from tests.models import minilm, tiny
from tests.process import serve

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "CHANGELOG.md", *DOCS]
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
"""Their blocks train models, and are run by tests/examples."""


@pytest.fixture(scope="module")
def hub_environment() -> Iterator[dict[str, str]]:
    """The environment of a machine whose hub has the models that the pages name: tiny ones, but for MiniLM."""
    models = {
        "google-bert/bert-base-uncased": tiny("bert", "fill_mask"),
        "dslim/bert-base-NER": tiny("bert", "token_classification", cased=True),
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english": tiny(
            "distilbert", "sequence_classification", num_labels=2
        ),
        "cross-encoder/ms-marco-MiniLM-L6-v2": tiny("bert", "sequence_classification", num_labels=1),
        "sentence-transformers/all-MiniLM-L6-v2": minilm(),
        "HuggingFaceTB/SmolLM2-135M-Instruct": tiny_generative("llama"),
    }
    with Hub(models) as hub:
        yield hub.environment()


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Fragments of a page's headings, as GitHub makes them."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    titles = (inline.content for opened, inline in itertools.pairwise(tokens) if opened.type == "heading_open")
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    tokens = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    children = (child for token in tokens if token.type == "inline" for child in token.children or [])
    return [str(child.attrs["href"]) for child in children if child.type == "link_open"]


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        target, _, fragment = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name(page)}: {link}"
        assert not fragment or fragment in anchors(file), f"{name(page)}: {link}"


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=name)
def test_blocks_have_a_language(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, str(block)


@contextmanager
def cluster_environment(file: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine with a cluster, whose pods that are ready are all one real server."""
    with cluster() as fake, serve("--model_dir", str(tiny("bert", "fill_mask"))) as server:
        fake.backends = {8080: ("127.0.0.1", server.http_port)}
        yield {"KUBECONFIG": str(fake.kubeconfig(file))}


@contextmanager
def predictor() -> Iterator[dict[int, int]]:
    """Triton's usual ports, and those of a server that stands for it; tests/conformance has a real Triton."""
    model = tiny("distilbert", "sequence_classification", num_labels=2)
    with serve("--model_dir", str(model), "--model_name", "sst2") as server:
        server.wait_ready()
        assert server.grpc_port is not None
        yield {8000: server.http_port, 8001: server.grpc_port}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_run(page: Path, hub_environment: dict[str, str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        environment = hub_environment
        if page.name == "kubernetes.md":
            environment = environment | stack.enter_context(cluster_environment(tmp_path / "kubeconfig"))
        ports = stack.enter_context(predictor()) if page.name == "triton.md" else {}
        reader = stack.enter_context(Reader(environment, ports=ports))
        for block in blocks(page):
            reader.read(block)


@pytest.mark.parametrize(
    ("shown", "given", "where"),
    [
        ({"a": [0.5]}, {"a": [0.25, 1.0]}, None),
        ({"a": "x"}, {"a": "y"}, None),
        ({"a": 1}, {"a": 1.0}, "answer.a is float"),
        ({"a": 1}, {"a": True}, "answer.a is bool"),
        ({"a": {"b": None}}, {"a": {}}, "answer.a has the keys []"),
        ({"a": [[1], [2]]}, {"a": [[1]]}, "answer.a has 1 elements"),
        ([{"b": 1}], [{"b": "1"}], "answer[0].b is str"),
        ({"error": "No."}, {"error": "Never."}, "answer.error is 'Never.'"),
    ],
)
def test_difference_names_the_place(shown: object, given: object, where: str | None) -> None:
    found = difference(shown, given)
    assert found is None if where is None else found is not None and found.startswith(where)
