"""/openapi.json, and /docs: a page of our own that shows it and sends requests, offline.

A page of our own because every kept OpenAPI viewer is about a megabyte of minified JavaScript (swagger-ui-dist 5.35:
1.9 MB, Redoc 2.5: 1.1 MB, RapiDoc 9.3: 0.9 MB), several times this package, to be vendored and renewed for its own
security fixes; loading one from a CDN, as KServe's page does, fails in a closed network. Runs on the event loop.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.resources import files

from starlette.routing import Route

from modelserve.protocols.context import Context
from modelserve.protocols.exchange import Exchange, Reply, encode
from modelserve.protocols.http import all_routes, endpoint, endpoint_of
from modelserve.protocols.openapi import Described, document


@cache
def _page() -> bytes:
    return files(__package__).joinpath("docs.html").read_bytes()


async def docs(exchange: Exchange) -> Reply:
    policy = (
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
    )
    return Reply(_page(), content_type=b"text/html; charset=utf-8", headers=((b"content-security-policy", policy),))


async def openapi(exchange: Exchange) -> Reply:
    models = exchange.context.models.index()
    rows = any(model.takes == "rows" for model in models)
    described = [
        Described(route.path, sorted((route.methods or set()) - {"HEAD"}), place.api, operation)
        for route in all_routes(exchange.context)
        if (operation := (place := endpoint_of(route)).operation) is not None
    ]
    if rows:
        described = [replace(place, operation=place.operation.to_rows()) for place in described]
    return Reply(encode(document(described, [model.name for model in models])))


def routes(context: Context) -> list[Route]:
    document_route = Route("/openapi.json", endpoint(context, "docs", openapi, quiet=True), methods=["GET"])
    if not context.config.enable_docs_url:
        return [document_route]
    return [document_route, Route("/docs", endpoint(context, "docs", docs, quiet=True), methods=["GET"])]
