"""Asks a token_classification server for the names in texts and prints their kinds and spans. Needs Python alone.

Run `python examples/token_classification/query.py [--url URL] [TEXT ...]`.
"""

import argparse
import json
from urllib.request import Request, urlopen

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="http://localhost:8080", help="the server (default: %(default)s)")
parser.add_argument("--model_name", default="names", help="default: %(default)s")
parser.add_argument(
    "texts",
    nargs="*",
    metavar="TEXT",
    default=[
        "HuggingFace is a company based in Paris and New York.",
        "Amara Okafor flew to Oslo to talk with Nokia.",
    ],
)
arguments = parser.parse_args()

question = {"instances": arguments.texts, "parameters": {"aggregation_strategy": "first"}}
request = Request(
    f"{arguments.url}/v1/models/{arguments.model_name}:predict",
    json.dumps(question).encode(),
    {"Content-Type": "application/json"},
)
with urlopen(request) as reply:
    predictions = json.load(reply)["predictions"]

for text, entities in zip(arguments.texts, predictions, strict=True):
    print(text)
    for entity in entities:
        # The model reads lower case; the span gives the name as it was written.
        start, end = entity["start"], entity["end"]
        print(f"    {entity['entity_group']}  {text[start:end]}  ({start}-{end}, {entity['score']:.0%})")
