"""Ask a model that writes with langchain-openai; print what came back as JSON. Runs where langchain-openai is.

ask_langchain.py BASE_URL MODEL PROMPT
"""

from __future__ import annotations

import json
import sys

from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

BASE_URL, MODEL, PROMPT = sys.argv[1:4]

chat = ChatOpenAI(
    base_url=BASE_URL, model=MODEL, api_key=SecretStr("none"), temperature=0, max_completion_tokens=12, max_retries=0
)
answer = chat.invoke(PROMPT)
chunks = list(chat.stream(PROMPT, stream_usage=True))
llm = OpenAI(base_url=BASE_URL, model=MODEL, api_key=SecretStr("none"), temperature=0, max_tokens=12, max_retries=0)
print(
    json.dumps(
        {
            "invoke": answer.content,
            "usage": answer.usage_metadata,
            "finish": answer.response_metadata["finish_reason"],
            "pieces": [chunk.content for chunk in chunks],
            "stream_usage": [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata],
            "completion": llm.invoke(PROMPT),
        }
    )
)
