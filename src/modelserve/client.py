"""Talks to a running server: any route with `invoke`, the model's answers as Python values with `predict`.

Knows the server's routes, not how it was started. Blocking; each method has an async twin that runs it on a thread.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from modelserve.errors import ConfigError, InvokeError

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 310.0
"""A little more than the server's own --request_timeout, whose answer says more than a broken connection."""


class Client:
    """A server at `url` (with or without http://) and the model that it serves under `model_name`."""

    def __init__(self, url: str, model_name: str = "model", *, timeout: float = TIMEOUT_S) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.model_name = model_name
        self._timeout = timeout
        self._client: httpx2.Client | None = None
        self._knows_more: bool | None = None
        """Whether it may take other parameters than ours; None until that matters."""

    def invoke(
        self,
        *,
        model_name: str | None = None,
        path: str | None = None,
        url: str | None = None,
        method: str | None = None,
        **request: Any,
    ) -> httpx2.Response:
        """One request, V2's infer of the model unless `path` or `url` says otherwise; the response as it is.

        url: a whole URL of this server, with or without a scheme. method: POST with a body (json, data, files, content)
        and GET without one, unless given. request: further keywords of httpx2's `request`, such as headers, params
        and timeout. Raises InvokeError when the server cannot be reached or `url` is another's.
        """
        if url is not None:
            path = self._path_of(url)
        elif path is None:
            path = f"/v2/models/{model_name or self.model_name}/infer"
        body = any(request.get(name) is not None for name in ("json", "data", "files", "content"))
        if isinstance(request.get("data"), str | bytes):  # as requests has it; httpx2 means a form
            request["content"] = request.pop("data")
        with self._errors(request.get("timeout", self._timeout)):
            return self._open().request(
                method or ("POST" if body else "GET"), self.url + "/" + path.lstrip("/"), **request
            )

    def predict(self, inputs: Any, **parameters: Any) -> Any:
        """The answers to texts (or pairs of texts, or rows of numbers), in order; one alone is answered by one value.

        parameters: the request's own, such as top_k or return_probabilities. Raises ConfigError for one that is
        unknown, InvokeError with the server's words.
        """
        self._check(parameters)
        alone = isinstance(inputs, str | Mapping) or _is_pair(inputs)
        instances = [_instance(one) for one in ([inputs] if alone else _listed(inputs))]
        body: dict[str, Any] = {"instances": instances} | ({"parameters": parameters} if parameters else {})
        response = checked(self.invoke(path=f"/v1/models/{self.model_name}:predict", json=body))
        predictions = response.json()["predictions"]
        return predictions[0] if alone else predictions

    def ready(self) -> dict[str, Any]:
        """{"ready": true}, or how far the load is: stage, and progress from 0 to 1. Raises InvokeError when nobody
        answers."""
        state: dict[str, Any] = self.invoke(path="/v2/health/ready", method="GET").json()
        return state

    def info(self) -> dict[str, Any]:
        """What is served and how: model, task, dtype, device, versions."""
        described: dict[str, Any] = checked(self.invoke(path="/info", method="GET")).json()
        return described

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by its name with its labels, as Prometheus writes it."""
        lines = checked(self.invoke(path="/metrics", method="GET")).text.splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    async def ainvoke(self, **request: Any) -> httpx2.Response:
        return await asyncio.to_thread(self.invoke, **request)

    async def apredict(self, inputs: Any, **parameters: Any) -> Any:
        return await asyncio.to_thread(self.predict, inputs, **parameters)

    def _check(self, parameters: Mapping[str, Any]) -> None:
        """The server ignores what it does not know, as V1 has it, so that a typing error would go unnoticed. A model of
        MLflow has parameters of its own, and a server that is not ours may have any. Raises ConfigError."""
        if not parameters:
            return
        from modelserve.types import Params  # here, since it takes numpy with it

        known = Params.__struct_fields__
        unknown = [name for name in parameters if name not in known]
        if not unknown:
            return
        if self._knows_more is None:
            described = self.invoke(path="/info", method="GET")
            self._knows_more = not described.is_success or described.json().get("backend") == "mlflow"
        if not self._knows_more:
            near = get_close_matches(unknown[0], known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; a request has {', '.join(known)}"
            raise ConfigError(f"unknown parameter {unknown[0]}{hint}")

    def close(self) -> None:
        if self._client is not None:
            self._end()
            self._client = None

    def _open(self) -> httpx2.Client:
        import httpx2  # here, so that `import modelserve` stays light

        if self._client is None:
            self._client = httpx2.Client(timeout=self._timeout, trust_env=not _is_loopback(self.url))
            # Runs are cheap views, which nobody closes: connections go with them.
            self._end = weakref.finalize(self, self._client.close)
        return self._client

    def _path_of(self, url: str) -> str:
        plain, own = url.partition("://")[2] or url, self.url.partition("://")[2]
        if plain != own and not plain.startswith((own + "/", own + "?")):
            raise InvokeError(f"{url!r} is no URL of this server, whose URLs begin with {self.url}")
        return plain.removeprefix(own)

    @contextmanager
    def _errors(self, timeout: Any) -> Iterator[None]:
        import httpx2

        try:
            yield
        except httpx2.TimeoutException as error:
            within = f"{timeout:g} s" if isinstance(timeout, int | float) else "its time-out"
            raise InvokeError(f"{self.url} did not answer within {within}", timed_out=True) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise InvokeError(f"{self.url} cannot be asked: {error}") from error


def checked(response: httpx2.Response) -> httpx2.Response:
    """The response, which is no error. Raises InvokeError with the server's own sentence."""
    if response.is_success:
        return response
    try:
        said = response.json()["error"]
        sentence = said["message"] if isinstance(said, Mapping) else str(said)
    except (ValueError, KeyError, TypeError):
        sentence = response.text[:500]
    raise InvokeError(f"{response.status_code}: {sentence}", status=response.status_code)


def _listed(inputs: Any) -> Sequence[Any]:
    """A list of inputs; an array or a table of numbers by its rows."""
    if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):  # a DataFrame: the names of its columns matter
        rows: list[Any] = inputs.to_dict("records")
        return rows
    if hasattr(inputs, "tolist"):
        listed: list[Any] = inputs.tolist()
        return listed
    return list(inputs)


def _instance(one: Any) -> Any:
    """A pair of texts as V1 writes it; anything else as it is."""
    return {"text": one[0], "text_pair": one[1]} if _is_pair(one) else one


def _is_pair(one: Any) -> bool:
    """A tuple of two texts. A list of two is two texts."""
    return isinstance(one, tuple) and len(one) == 2 and all(isinstance(part, str) for part in one)


def _is_loopback(url: str) -> bool:
    """A proxy of the environment is not asked for this machine."""
    host = re.sub(r":[0-9]*$", "", url.partition("://")[2].partition("/")[0]).strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")
