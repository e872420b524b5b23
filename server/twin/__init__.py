"""The pair as one vLLM model. With server/engine.py, the only code that imports vLLM (tested on 0.26 and 0.32)."""
