"""vLLM's scheduler, in which a sequence that generates goes on with the token that the pooler drew.

vLLM ends a request of a pooling model with its first output. But its sessions, whose input comes in parts, keep their
place in the KV cache when a part is done, and compute only what the next part adds. Here the next part is the token
that was drawn, so each further token costs one position under every model.

Touches vLLM's internals; tested on 0.32; 0.26 has the same interfaces.
"""

import time

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, StreamingUpdate

from server.engine.twin.pooler import generation


class TwinScheduler(Scheduler):
    """Steps sequences that generate beside those that are scored."""

    def add_request(self, request: Request) -> None:
        """Queue a request."""
        request.resumable = generation(request.pooling_params) is not None
        super().add_request(request)

    def schedule(self, *arguments: bool, **options: bool) -> SchedulerOutput:
        """Choose what the next step computes."""
        output = super().schedule(*arguments, **options)
        # Sessions wait with their blocks. vLLM takes blocks back from sequences that run only, so where the cache is
        # full and none runs, all would wait for each other.
        while not (output.total_num_scheduled_tokens or self.running) and self._give_up_blocks():
            output = super().schedule(*arguments, **options)
        return output

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """Process a step's results: a sequence that is not at its end gets the token that was drawn."""
        going_on = set()
        pooled = model_runner_output.pooler_output or []
        for request_id, index in model_runner_output.req_id_to_index.items() if pooled else ():
            request = self.requests.get(request_id)
            rows = pooled[index]
            if request is None or request.is_finished() or rows is None:
                continue
            how = generation(request.pooling_params)
            if how is None:
                continue
            # Where the cache was given up, the prompt's rows come again.
            rows = pooled[index] = rows[-len(how["models"]) :]
            token_id = int(rows[0, 0, -1])
            how["max_tokens"] -= 1
            if how["max_tokens"] <= 0 or token_id in how["end_ids"]:
                request.resumable = False
                continue
            going_on.add(request_id)
            assert request.streaming_queue is not None
            request.streaming_queue.append(
                StreamingUpdate(
                    mm_features=None,
                    prompt_token_ids=[token_id],
                    max_tokens=request.max_tokens,
                    arrival_time=time.time(),
                    sampling_params=None,
                )
            )
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for each in outputs.values():
            for output in each.outputs:
                if output.request_id in going_on:
                    output.finish_reason = None
        return outputs

    def _give_up_blocks(self) -> bool:
        """Take the blocks from the session that came last; whether there was one. Its tokens are computed again."""
        holding = [each for each in self.requests.values() if each.resumable and each.num_computed_tokens]
        if len(holding) < 2:
            return False
        last = max(holding, key=lambda request: request.arrival_time)
        for queue in (getattr(self, "kv_holding_waiting", self.waiting), self.waiting):
            if last in queue:
                queue.remove_request(last)
        self.kv_cache_manager.free(last)
        last.num_computed_tokens = 0
        self._enqueue_waiting_request(last)
        return True
