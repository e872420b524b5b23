"""Outputs of a request at every step. vLLM's own ``encode`` keeps the last output of a request alone.

Touches vLLM's internals; tested on 0.32; 0.26 has the same interfaces.
"""

import asyncio
from collections.abc import AsyncGenerator

from vllm import PoolingParams
from vllm.inputs import TokensInput
from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import RequestOutputCollector

Output = RequestOutput | PoolingRequestOutput


class Steps(RequestOutputCollector):
    """Holds outputs until they are asked for, where vLLM's would replace one that nobody has taken yet."""

    def __init__(self, request_id: str) -> None:
        super().__init__(RequestOutputKind.DELTA, request_id)
        self._outputs: asyncio.Queue[Output | Exception] = asyncio.Queue()

    def put(self, output: Output | Exception) -> None:
        """Take an output; called by vLLM."""
        self._outputs.put_nowait(output)

    async def get(self) -> Output:
        """Return the next output, or raise what ended the request."""
        output = await self._outputs.get()
        if isinstance(output, Exception):
            raise output
        return output


async def submit_steps(
    llm: AsyncLLM, token_ids: list[int], params: PoolingParams, request_id: str
) -> AsyncGenerator[PoolingRequestOutput]:
    """Submit a request and yield its outputs, those before the last included. Closing it aborts the request."""
    tokens = TokensInput(type="token", prompt_token_ids=token_ids)
    request = llm.input_processor.process_inputs(
        request_id, tokens, params, supported_tasks=await llm.get_supported_tasks()
    )
    llm.input_processor.assign_request_id(request)
    llm._run_output_handler()
    steps = Steps(request.request_id)
    its_params = request.pooling_params
    assert its_params is not None
    # Decides which outputs this process passes on; the engine's process accepts no other value than its default.
    its_params.output_kind = RequestOutputKind.DELTA
    llm.output_processor.add_request(request, None, None, 0, steps)
    its_params.output_kind = RequestOutputKind.FINAL_ONLY
    finished = False
    try:
        await llm.engine_core.add_request_async(request)
        while not finished:
            output = await steps.get()
            assert isinstance(output, PoolingRequestOutput)
            finished = output.finished
            yield output
    finally:
        if not finished:
            await llm.abort(request.request_id, internal=True)
