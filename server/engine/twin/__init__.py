"""The pair as one vLLM model. With engine.py, the only code that imports vLLM.

Tested on vLLM 0.32; 0.26 has the same interfaces.
"""
