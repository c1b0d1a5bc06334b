"""Asks a text_generation server about dates, as a chat, and prints what it writes as it writes it. Needs Python alone.

Run `python examples/text_generation/query.py [--url URL] [DATE ...]`.
"""

import argparse
import json
from urllib.request import Request, urlopen

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="http://localhost:8080", help="the server (default: %(default)s)")
parser.add_argument("--model_name", default="dates", help="default: %(default)s")
parser.add_argument("dates", nargs="*", metavar="DATE", default=["2026-11-26", "1969-07-20"])
arguments = parser.parse_args()

for date in arguments.dates:
    question = {
        "model": arguments.model_name,
        "messages": [{"role": "user", "content": f"When is {date}?"}],
        "temperature": 0,
        "stream": True,
    }
    request = Request(
        f"{arguments.url}/v1/chat/completions", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request) as reply:
        for line in reply:
            event = line.decode().removeprefix("data: ").strip()
            if event and event != "[DONE]":
                print(json.loads(event)["choices"][0]["delta"].get("content") or "", end="", flush=True)
    print()
