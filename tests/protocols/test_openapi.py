"""/openapi.json is a valid OpenAPI 3.1 document of every route, and /docs shows it without the internet."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from modelserve.protocols.http import all_routes
from tests.protocols.rest import StandIn, client, context, v2_body


async def document() -> dict[str, Any]:
    async with client() as http:
        answer = await http.get("/openapi.json")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator(schema | {"components": document["components"]})


async def test_it_has_every_route_but_its_own() -> None:
    served = {
        (route.path, method)
        for route in all_routes(context())
        for method in route.methods or ()
        if method != "HEAD" and route.path not in ("/openapi.json", "/docs")
    }
    described = {(path, method.upper()) for path, item in (await document())["paths"].items() for method in item}
    assert served == described


async def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    api = await document()
    for kind, name in re.findall(r'"#/components/(\w+)/([\w-]+)"', json.dumps(api)):
        assert name in api["components"][kind]
    for schema in api["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    ids = [operation["operationId"] for item in api["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


async def test_the_examples_are_valid_and_answered_as_described() -> None:
    api = await document()
    seen = 0
    async with client() as http:
        for path, item in api["paths"].items():
            content = item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" not in content:
                continue
            assert validator(api, content["schema"]).is_valid(content["example"]), path
            # What the stand-in answers; it does not write.
            if path.startswith(("/v1/models/", "/v2/models/")) and "/generate" not in path:
                answer = await http.post(path.format(model="m", version="1"), json=content["example"])
                described = item["post"]["responses"]["200"]["content"]["application/json"]["schema"]
                validator(api, described).validate(answer.json())
                seen += 1
    assert seen == 3


async def test_a_body_that_names_its_model_can_name_those_that_are_served() -> None:
    api = await document()
    content = api["paths"]["/openai/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]
    assert content["example"]["model"] == "m"
    assert validator(api, content["schema"]).is_valid({"model": "m", "input": "a"})
    assert not validator(api, content["schema"]).is_valid({"model": "nope", "input": "a"})


@pytest.mark.parametrize(
    ("path", "body", "valid"),
    [
        ("/v1/models/{model}:predict", {"instances": ["a", {"text": "a", "text_pair": "b"}]}, True),
        ("/v1/models/{model}:predict", {"inputs": "a", "parameters": {"top_k": 3, "more": 1}}, True),
        ("/v1/models/{model}:predict", {}, False),
        ("/v1/models/{model}:predict", {"instances": []}, False),
        ("/v1/models/{model}:predict", {"instances": [1]}, False),
        ("/v1/models/{model}:predict", {"instances": ["a"], "parameters": {"top_k": "3"}}, False),
        ("/v2/models/{model}/infer", v2_body(["a"]), True),
        ("/v2/models/{model}/infer", {"inputs": []}, False),
        ("/v2/models/{model}/infer", {"inputs": [{"name": "a", "shape": [1], "data": ["x"]}]}, False),
    ],
)
async def test_the_schema_and_the_server_agree(path: str, body: Any, valid: bool) -> None:
    api = await document()
    schema = api["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert validator(api, schema).is_valid(body) is valid
    async with client() as http:
        answer = await http.post(path.format(model="m"), json=body)
    assert answer.status_code == (200 if valid else 400)


async def test_the_models_are_the_only_values_of_the_path() -> None:
    async with client(StandIn(name="a"), StandIn(name="b")) as http:
        api = (await http.get("/openapi.json")).json()
    (parameter,) = api["paths"]["/v2/models/{model}"]["get"]["parameters"]
    assert parameter["schema"] == {"type": "string", "enum": ["a", "b"]}


async def test_the_page_loads_nothing_from_elsewhere() -> None:
    async with client() as http:
        answer = await http.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)
    assert "openapi.json" in answer.text


async def test_the_page_can_be_switched_off_and_the_document_stays() -> None:
    async with client(StandIn(), enable_docs_url=False) as http:
        page, api = await http.get("/docs"), await http.get("/openapi.json")
    assert (page.status_code, api.status_code) == (404, 200)
