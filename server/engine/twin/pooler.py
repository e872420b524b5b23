"""Turns all models' hidden states into rows of statistics, on the device, a bounded number of positions at a time."""

from collections.abc import Callable, Sequence, Set
from itertools import accumulate

import torch
from vllm.model_executor.layers.pooler import Pooler, PoolingParamsUpdate
from vllm.pooling_params import PoolingParams
from vllm.tasks import PoolingTask
from vllm.v1.pool.metadata import PoolingMetadata

from server.engine.twin.kernels import expected_counts, likeliest
from server.engine.twin.rows import WIDTH

Logits = Callable[[torch.Tensor], list[torch.Tensor]]
"""From the models' hidden states to the logits of each, the base's first."""
Statistics = Callable[..., tuple[torch.Tensor, ...]]
"""From next tokens and logits to rows of each variant and normalizers of each model: ``kernels.statistics``."""
LOGITS_IN_FLIGHT = 2**25
"""Logits of one model held at once; with POSITIONS, what bounds the pooler's memory."""
POSITIONS = (64, 512)
"""Fewest and most positions per chunk: larger chunks gain nothing, smaller ones starve the projection."""


def request_options(start: int, top: int, *, counts: bool = False) -> dict[str, int]:
    """Return a request's options: the first position whose next token is scored, the number of likeliest tokens, and
    whether each token's probability is summed over the positions."""
    return {"start": start, "top": top, "counts": counts}


class TwinPooler(Pooler):
    """Pooler of the task "token_classify": for every position that has a next token, from the request's start on, a row
    for each quantized variant; shape (positions, variants, columns). Sums of probabilities, where a request asks for
    them, come in rows before these: ``rows.taken_apart``."""

    def __init__(self, all_logits: Logits, statistics: Statistics, vocab_size: int, variants: int) -> None:
        super().__init__()
        self.all_logits = all_logits
        self.vocab_size = vocab_size
        self.variants = variants
        self.statistics = statistics
        fewest, most = POSITIONS
        self.chunk = max(fewest, min(most, LOGITS_IN_FLIGHT // vocab_size))

    def get_supported_tasks(self) -> Set[PoolingTask]:
        return {"token_classify"}

    def get_pooling_updates(self, task: PoolingTask) -> PoolingParamsUpdate:
        return PoolingParamsUpdate(requires_token_ids=True)

    def forward(self, hidden_states: torch.Tensor, pooling_metadata: PoolingMetadata) -> list[torch.Tensor | None]:
        indices, targets, lengths = _wanted(pooling_metadata)
        top = [_option(params, "top") for params in pooling_metadata.pooling_params]
        counts = self._counts(pooling_metadata, hidden_states.device)
        rows = self._rows(
            hidden_states,
            indices.to(hidden_states.device),
            targets.to(hidden_states.device),
            max(top),
            [(part, sums) for part, sums in zip(_ranges(lengths), counts, strict=True) if sums is not None],
        )

        outputs: list[torch.Tensor | None] = []
        finished = pooling_metadata.get_pooling_cursor().is_finished().tolist()
        for state, part, k, of_request, done in zip(
            pooling_metadata.pooling_states, rows.split(lengths), top, counts, finished, strict=True
        ):
            # A chunked prefill brings a request's rows over several steps; they are few numbers, kept on the device.
            state.hidden_states_cache.append(_first_top(part, k))
            if not done:
                outputs.append(None)
                continue
            parts = state.hidden_states_cache
            if of_request is not None:
                parts = [_as_rows(of_request, columns=WIDTH + 4 * k), *parts[1:]]
            outputs.append(torch.cat(parts))
            state.clean()
        return outputs

    def _counts(self, metadata: PoolingMetadata, device: torch.device) -> list[torch.Tensor | None]:
        """Return the sums so far of each request that asks for them, shape (models, vocabulary)."""
        counts: list[torch.Tensor | None] = []
        for params, state in zip(metadata.pooling_params, metadata.pooling_states, strict=True):
            if not _option(params, "counts"):
                counts.append(None)
                continue
            if not state.hidden_states_cache:
                zeros = torch.zeros((1 + self.variants, self.vocab_size), dtype=torch.float32, device=device)
                state.hidden_states_cache.append(zeros)
            counts.append(state.hidden_states_cache[0])
        return counts

    def _rows(
        self,
        hidden_states: torch.Tensor,
        indices: torch.Tensor,
        targets: torch.Tensor,
        top: int,
        counts: Sequence[tuple[range, torch.Tensor]],
    ) -> torch.Tensor:
        """Return a row for each index, and add to the sums of ``counts`` what is of each one's range of rows."""
        rows = hidden_states.new_empty((len(indices), self.variants, WIDTH + 4 * top), dtype=torch.float32)
        for i in range(0, len(indices), self.chunk):
            chunk = indices[i : i + self.chunk]
            # torch.compile specializes on one row: pad to two, so that no request triggers a compilation.
            padded = [0, 0] if len(chunk) == 1 else slice(None)
            logits = self.all_logits(hidden_states[chunk[padded]])
            found, *normalizers = self.statistics(targets[i : i + self.chunk][padded], *logits)
            if top:
                base, *variants = (likeliest(*each, top) for each in zip(logits, normalizers, strict=True))
                found = torch.cat([found, torch.stack([torch.cat([base, each], -1) for each in variants], 1)], -1)
            rows[i : i + self.chunk] = found[: len(chunk)]
            for part, sums in counts:
                first, last = max(part.start - i, 0), min(part.stop - i, len(chunk))
                if first < last:
                    for total, each, normalizer in zip(sums, logits, normalizers, strict=True):
                        total += expected_counts(each[first:last], normalizer[first:last])
        return rows


def _option(params: PoolingParams, name: str) -> int:
    return int((params.extra_kwargs or {}).get(name, 0))  # vLLM's own warm-up requests have none


def _ranges(lengths: Sequence[int]) -> list[range]:
    ends = list(accumulate(lengths))
    return [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _as_rows(counts: torch.Tensor, columns: int) -> torch.Tensor:
    """Write sums of shape (models, vocabulary) into rows: of each variant the base's, then its own, then padding."""
    base, *variants = counts
    flat = torch.stack([torch.cat([base, each]) for each in variants])
    padded = torch.nn.functional.pad(flat, (0, -flat.shape[1] % columns))
    return padded.view(len(variants), -1, columns).swapaxes(0, 1)


def _wanted(metadata: PoolingMetadata) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Find the positions of this step to score: indices in the batch, next tokens, and how many of each request."""
    cursor = metadata.get_pooling_cursor()
    indices, targets, lengths = [], [], []
    offset = 0
    for token_ids, params, scheduled, seen in zip(
        # The copy on the device is absent in vLLM's Model Runner V2.
        metadata.get_prompt_token_ids_cpu(),
        metadata.pooling_params,
        cursor.num_scheduled_tokens_cpu.tolist(),
        cursor.seq_lens_cpu.tolist(),
        strict=True,
    ):
        begin = seen - scheduled
        first, last = max(begin, _option(params, "start")), min(seen, len(token_ids) - 1)
        positions = torch.arange(first, max(first, last))
        indices.append(positions - begin + offset)
        targets.append(token_ids[positions + 1].long())
        lengths.append(len(positions))
        offset += scheduled
    return torch.cat(indices), torch.cat(targets), lengths


def _first_top(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Cut rows to their own k likeliest tokens; the batch was computed for its largest k."""
    width = (rows.shape[-1] - WIDTH) // 4
    if k == width:
        return rows
    return torch.cat([rows[..., :WIDTH], *(part[..., :k] for part in rows[..., WIDTH:].split(width, -1))], -1)
