"""For pods that start `python -m huggingfaceserver`: the command `modelserve serve` under that name."""
