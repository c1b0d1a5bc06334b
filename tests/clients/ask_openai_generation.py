"""Ask a model that writes with openai's client, sync and async; print what came back as JSON. Runs where openai is.

ask_openai_generation.py BASE_URL MODEL PROMPT
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai

BASE_URL, MODEL, PROMPT = sys.argv[1:4]
OPTIONS: dict[str, Any] = {"base_url": BASE_URL, "api_key": "none", "max_retries": 0, "timeout": 120}
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0}
MESSAGES: list[Any] = [{"role": "user", "content": PROMPT}]
SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}
"""So narrow that a model of random weights gets to its end."""
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
ONE: Any = {"parallel_tool_calls": False, "max_tokens": 100}
"""A model of random weights would go on calling."""
TOOL: Any = {"type": "function", "function": {"name": "answer", "description": "Answer.", "parameters": SCHEMA}}


def told(function: Any, **kwargs: Any) -> dict[str, Any]:
    """What the client makes of the error that a call ends in."""
    try:
        function(**kwargs)
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        return {"class": type(error).__name__, "status": error.status_code, **body}
    raise AssertionError("no error")


def whole(completion: Any) -> dict[str, Any]:
    choice = completion.choices[0]
    return {
        "text": choice.text if hasattr(choice, "text") else choice.message.content,
        "finish": choice.finish_reason,
        "usage": [completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens],
        "texts": [one.text if hasattr(one, "text") else one.message.content for one in completion.choices],
    }


def joined(chunks: list[Any]) -> dict[str, Any]:
    """A stream's pieces as a whole."""
    choices = [choice for chunk in chunks for choice in chunk.choices]
    usage = chunks[-1].usage
    return {
        "text": "".join((one.text if hasattr(one, "text") else one.delta.content) or "" for one in choices),
        "finishes": [one.finish_reason for one in choices],
        "roles": [one.delta.role for one in choices if hasattr(one, "delta")],
        "last_choices": len(chunks[-1].choices),
        "usage": [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens],
        "ids": len({chunk.id for chunk in chunks}),
    }


def calls(message: Any) -> list[Any]:
    return [[call.type, call.function.name, json.loads(call.function.arguments)] for call in message.tool_calls or []]


async def asynchronous() -> dict[str, Any]:
    async with openai.AsyncOpenAI(**OPTIONS) as client:
        create = client.chat.completions.create
        together = await asyncio.gather(*(create(messages=MESSAGES, max_tokens=12, **GREEDY) for _ in range(4)))
        stream = await create(
            messages=MESSAGES, max_tokens=12, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
        chunks = [chunk async for chunk in stream]
        left = await create(messages=MESSAGES, max_tokens=200, stream=True, extra_body={"ignore_eos": True}, **GREEDY)
        async for _ in left:
            break
        await left.close()
        return {"together": [whole(answer) for answer in together], "stream": joined(chunks)}


with openai.OpenAI(**OPTIONS) as client:
    complete, chat = client.completions.create, client.chat.completions.create
    usage: Any = {"stream_options": {"include_usage": True}}
    scored = complete(prompt=PROMPT, max_tokens=0, echo=True, logprobs=2, **GREEDY).choices[0]
    likely = chat(messages=MESSAGES, max_tokens=3, logprobs=True, top_logprobs=2, **GREEDY).choices[0]
    required = chat(messages=MESSAGES, tools=[TOOL], tool_choice="required", **ONE, **GREEDY).choices[0]
    named: Any = {"type": "function", "function": {"name": "answer"}}
    forced = chat(messages=MESSAGES, tools=[TOOL], tool_choice=named, **ONE, **GREEDY).choices[0]
    with client.chat.completions.stream(
        messages=MESSAGES, tools=[TOOL], tool_choice="required", **ONE, **GREEDY
    ) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0]
    answers = {
        "completion": whole(complete(prompt=PROMPT, max_tokens=12, **GREEDY)),
        "completion_stream": joined(list(complete(prompt=PROMPT, max_tokens=12, stream=True, **usage, **GREEDY))),
        "completions": whole(complete(prompt=[PROMPT, PROMPT], n=2, max_tokens=4, **GREEDY)),
        "scored": [scored.text, scored.logprobs.tokens, scored.logprobs.token_logprobs, scored.logprobs.text_offset],
        "chat": whole(chat(messages=MESSAGES, max_completion_tokens=12, **GREEDY)),
        "chat_stream": joined(list(chat(messages=MESSAGES, max_tokens=12, stream=True, **usage, **GREEDY))),
        "likely": [[one.token, one.logprob, one.bytes, len(one.top_logprobs)] for one in likely.logprobs.content],
        "seeded": [
            chat(messages=MESSAGES, max_tokens=12, seed=7, model=MODEL).choices[0].message.content for _ in range(2)
        ],
        "json": chat(messages=MESSAGES, response_format=FORMAT, max_tokens=100, **GREEDY).choices[0].message.content,
        "required": [required.finish_reason, calls(required.message)],
        "named": [forced.finish_reason, calls(forced.message)],
        "required_stream": [streamed.finish_reason, calls(streamed.message)],
        "too_long": told(complete, prompt=PROMPT, max_tokens=100_000, model=MODEL),
        "suffix": told(complete, prompt=PROMPT, suffix="x", model=MODEL),
        "temperature": told(chat, messages=MESSAGES, temperature=3, model=MODEL),
        "unknown": told(chat, messages=MESSAGES, model="nope"),
        "embeddings": told(client.embeddings.create, model=MODEL, input="x"),
    }
print(json.dumps(answers | {"async": asyncio.run(asynchronous())}))
