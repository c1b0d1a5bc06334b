"""Asks a fill_mask server for the words of a mask and prints the likeliest ones. Needs Python alone.

Run `python examples/fill_mask/query.py [--url URL] [TEXT ...]`.
"""

import argparse
import json
from urllib.request import Request, urlopen

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="http://localhost:8080", help="the server (default: %(default)s)")
parser.add_argument("--model_name", default="fill-mask", help="default: %(default)s")
parser.add_argument(
    "texts",
    nargs="*",
    metavar="TEXT",
    default=[
        "The capital of France is [MASK].",
        "The capital of [MASK] is Paris.",
        "The capital of Germany is [MASK]. The language of Chile is [MASK].",
    ],
)
arguments = parser.parse_args()

question = {"instances": arguments.texts, "parameters": {"top_k": 3}}
request = Request(
    f"{arguments.url}/v1/models/{arguments.model_name}:predict",
    json.dumps(question).encode(),
    {"Content-Type": "application/json"},
)
with urlopen(request) as reply:
    predictions = json.load(reply)["predictions"]

for text, candidates in zip(arguments.texts, predictions, strict=True):
    print(text)
    # A text with one mask has a list of candidates, a text with several has such a list for each.
    for mask in candidates if isinstance(candidates[0], list) else [candidates]:
        print("   ", ", ".join(f"{candidate['token_str']} {candidate['score']:.0%}" for candidate in mask))
