"""Greedy answers of plain vLLM, one model at a time, in a process of its own: ``python -m tests.plain_vllm``."""

import json
import subprocess
import sys
from typing import Any

from server.engine import engine as _  # noqa: F401  # sets what vLLM reads at import


def greedy(models: list[str], prompts: list[list[int]], max_tokens: int, dtype: str) -> list[list[list[int]]]:
    """Return the token ids that each model answers to each prompt, asked one by one."""
    work = {"models": models, "prompts": prompts, "max_tokens": max_tokens, "dtype": dtype}
    finished = subprocess.run(
        [sys.executable, "-m", "tests.plain_vllm"], input=json.dumps(work), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    answers: list[list[list[int]]] = json.loads(finished.stdout.splitlines()[-1])
    return answers


def _answers(model: str, work: dict[str, Any]) -> list[list[int]]:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(model, dtype=work["dtype"], enforce_eager=True, kv_cache_memory_bytes=2**28)
    params = SamplingParams(max_tokens=work["max_tokens"], temperature=0, ignore_eos=True, detokenize=False)
    answers = [
        list(llm.generate([TokensPrompt(prompt_token_ids=prompt)], params, use_tqdm=False)[0].outputs[0].token_ids)
        for prompt in work["prompts"]
    ]
    llm.llm_engine.engine_core.shutdown()
    return answers


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps([_answers(model, asked) for model in asked["models"]]))
