"""Ask a server with openai's client, sync and async; print what came back as JSON. Runs where openai is.

ask_openai.py BASE_URL MODEL TEXTS (a JSON list)
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai

BASE_URL, MODEL = sys.argv[1:3]
TEXTS = json.loads(sys.argv[3])
OPTIONS: dict[str, Any] = {"base_url": BASE_URL, "api_key": "none", "max_retries": 0, "timeout": 120}


def plain(response: Any) -> dict[str, Any]:
    return {
        "object": response.object,
        "model": response.model,
        "vectors": [row.embedding for row in response.data],
        "indices": [row.index for row in response.data],
        "tokens": response.usage.prompt_tokens,
    }


def told(function: Any, **kwargs: Any) -> dict[str, Any]:
    """What the client makes of the error that a call ends in."""
    try:
        function(**kwargs)
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        return {"class": type(error).__name__, "status": error.status_code, **body}
    raise AssertionError("no error")


async def asynchronous() -> dict[str, Any]:
    async with openai.AsyncOpenAI(**OPTIONS) as client:
        together = await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in TEXTS))
        return {"vectors": [answer.data[0].embedding for answer in together]}


with openai.OpenAI(**OPTIONS) as client:
    embed = client.embeddings.create
    answers = {
        "models": [model.id for model in client.models.list()],
        "model": client.models.retrieve(MODEL).id,
        "model_unknown": told(client.models.retrieve, model="nope"),
        "default": plain(embed(model=MODEL, input=TEXTS)),
        "float": plain(embed(model=MODEL, input=TEXTS, encoding_format="float")),
        "ids": plain(embed(model=MODEL, input=[[101, 7592, 2088, 102]])),
        "unknown": told(embed, model="nope", input="x"),
        "dimensions": told(embed, model=MODEL, input="x", dimensions=64),
        "empty": told(embed, model=MODEL, input=[]),
        "chat": told(client.chat.completions.create, model=MODEL, messages=[{"role": "user", "content": "x"}]),
    }
print(json.dumps(answers | {"async": asyncio.run(asynchronous())}))
