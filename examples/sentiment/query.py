"""Asks a sequence_classification server what texts are and prints the label and its probability. Needs Python alone.

Run `python examples/sentiment/query.py [--url URL] [TEXT ...]`.
"""

import argparse
import json
from urllib.request import Request, urlopen

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="http://localhost:8080", help="the server (default: %(default)s)")
parser.add_argument("--model_name", default="sentiment", help="default: %(default)s")
parser.add_argument(
    "texts",
    nargs="*",
    metavar="TEXT",
    default=[
        "Hello, my dog is cute.",
        "The dentist was so careful that I felt no pain.",
        "The tent leaked and we spent the night in a puddle.",
    ],
)
arguments = parser.parse_args()

question = {"instances": arguments.texts, "parameters": {"return_labels": True}}
request = Request(
    f"{arguments.url}/v1/models/{arguments.model_name}:predict",
    json.dumps(question).encode(),
    {"Content-Type": "application/json"},
)
with urlopen(request) as reply:
    predictions = json.load(reply)["predictions"]

for text, prediction in zip(arguments.texts, predictions, strict=True):
    print(f"{prediction['label']} {prediction['score']:4.0%}  {text}")
