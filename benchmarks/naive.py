"""The naive server that most people write first: FastAPI, one forward pass a request, mean pooling by hand.

Run by uvicorn with uvloop and httptools, as `uvicorn benchmarks.naive:app`. Two routes that differ in one word: `def`
(FastAPI calls it on its thread pool) and `async def` (it runs on the event loop). Default threads, default everything.
"""

from __future__ import annotations

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModel, AutoTokenizer

from benchmarks.texts import model_dir

tokenizer = AutoTokenizer.from_pretrained(model_dir())
model = AutoModel.from_pretrained(model_dir()).eval()
app = FastAPI()


class Request(BaseModel):
    instances: list[str]


@torch.inference_mode()
def embed(texts: list[str]) -> list[list[float]]:
    """Normalised mean embeddings, as the model's card computes them."""
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(pooled).tolist()


@app.post("/def")
def predict(request: Request) -> dict[str, list[list[float]]]:
    return {"predictions": embed(request.instances)}


@app.post("/async")
async def predict_on_the_loop(request: Request) -> dict[str, list[list[float]]]:
    return {"predictions": embed(request.instances)}
