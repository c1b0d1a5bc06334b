"""A model that is served: its life (download, load, warm-up, ready, unloaded) and its answers.

All that a protocol may touch. Knows no protocol. `infer` runs on the event loop and only waits there: texts are
tokenised on the tokenizer's threads, forward passes run on the backend's.
"""
