"""The same imports and load as the server's, with nothing around them: `python -m benchmarks.bare` prints one line when
it could answer. What the server's start is measured against.
"""

from benchmarks.texts import model_dir  # isort: skip  # finds the directory; imports tokenizers and no torch

import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(model_dir())
model = AutoModel.from_pretrained(model_dir()).eval()
with torch.inference_mode():
    model(**tokenizer(["Hello"], return_tensors="pt"))
print("true", flush=True)
