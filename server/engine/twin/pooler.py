"""Turns all models' hidden states into rows of statistics, on the device, a bounded number of positions at a time."""

from collections.abc import Callable, Sequence, Set
from itertools import accumulate
from typing import Any

import torch
from vllm.model_executor.layers.pooler import Pooler, PoolingParamsUpdate
from vllm.pooling_params import PoolingParams
from vllm.tasks import PoolingTask
from vllm.v1.pool.metadata import PoolingMetadata

from server.engine.twin.kernels import expected_counts, likeliest
from server.engine.twin.rows import WIDTH
from server.engine.twin.sampling import Draw, drawn

Logits = Callable[[torch.Tensor], list[torch.Tensor]]
"""From the models' hidden states to the logits of each, the base's first."""
Statistics = Callable[..., tuple[torch.Tensor, ...]]
"""From next tokens and logits to rows of each variant and normalizers of each model: ``kernels.statistics``."""
LOGITS_IN_FLIGHT = 2**25
"""Logits of one model held at once; with POSITIONS, what bounds the pooler's memory."""
POSITIONS = (64, 512)
"""Fewest and most positions per chunk: larger chunks gain nothing, smaller ones starve the projection."""


TO_DRAW = -1
"""Stands for the next token where there is none yet."""


def request_options(start: int, top: int, *, counts: bool = False) -> dict[str, Any]:
    """Return a request's options: the first position whose next token is scored, the number of likeliest tokens, and
    whether each token's probability is summed over the positions."""
    return {"start": start, "top": top, "counts": counts}


def generation(params: PoolingParams | None) -> dict[str, Any] | None:
    """Return what a request says of generating: the fields of ``interface.Sampling``, or None if it only scores."""
    return ((params and params.extra_kwargs) or {}).get("generate")


class TwinPooler(Pooler):
    """Pooler of the task "token_classify": for every position that has a next token, from the request's start on, a row
    for each quantized variant; shape (positions, variants, columns). Sums of probabilities, where a request asks for
    them, come in rows before these: ``rows.taken_apart``. A request that generates gets, after the last position, a row
    for the token that each of its models draws there; the token's id is in a last column of its own."""

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
        indices, targets, lengths, draws = _wanted(pooling_metadata)
        top = [_option(params, "top") for params in pooling_metadata.pooling_params]
        counts = self._counts(pooling_metadata, hidden_states.device)
        targets = targets.to(hidden_states.device)
        rows = self._rows(
            hidden_states,
            indices.to(hidden_states.device),
            targets,
            draws,
            max(top),
            [(part, sums) for part, sums in zip(_ranges(lengths), counts, strict=True) if sums is not None],
        )

        outputs: list[torch.Tensor | None] = []
        finished = pooling_metadata.get_pooling_cursor().is_finished().tolist()
        for state, params, part, its_targets, k, of_request, done in zip(
            pooling_metadata.pooling_states,
            pooling_metadata.pooling_params,
            rows.split(lengths),
            targets.split(lengths),
            top,
            counts,
            finished,
            strict=True,
        ):
            part = _first_top(part, k)
            if generation(params) is not None:
                ids = its_targets.float()[:, None, None].expand(-1, self.variants, 1)
                part = torch.cat([part, ids], -1)
            # A chunked prefill brings a request's rows over several steps; they are few numbers, kept on the device.
            state.hidden_states_cache.append(part)
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
        draws: dict[int, Draw],
        top: int,
        counts: Sequence[tuple[range, torch.Tensor]],
    ) -> torch.Tensor:
        """Return a row for each index, and add to the sums of ``counts`` what is of each one's range of rows.

        The targets of the rows in ``draws`` are drawn, and written to ``targets``.
        """
        rows = hidden_states.new_empty((len(indices), self.variants, WIDTH + 4 * top), dtype=torch.float32)
        for i in range(0, len(indices), self.chunk):
            chunk = indices[i : i + self.chunk]
            # torch.compile specializes on one row: pad to two, so that no request triggers a compilation.
            padded = [0, 0] if len(chunk) == 1 else slice(None)
            logits = self.all_logits(hidden_states[chunk[padded]])
            _draw(logits, targets, i, {row: draw for row, draw in draws.items() if i <= row < i + len(chunk)})
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


def _draw(logits: Sequence[torch.Tensor], targets: torch.Tensor, first: int, draws: dict[int, Draw]) -> None:
    """Draw the targets of these rows from logits that begin with row ``first``."""
    for model, its_logits in enumerate(logits):
        its = {row: draw for row, draw in draws.items() if draw.model == model}
        if its:
            rows = torch.tensor(list(its), device=targets.device)
            targets[rows] = drawn(its_logits[rows - first], list(its.values()))


def _wanted(metadata: PoolingMetadata) -> tuple[torch.Tensor, torch.Tensor, list[int], dict[int, Draw]]:
    """Find the positions of this step to score: indices in the batch, next tokens, and how many of each request; and
    which of these rows' tokens are to be drawn."""
    cursor = metadata.get_pooling_cursor()
    indices, targets = [], []
    lengths: list[int] = []
    draws: dict[int, Draw] = {}
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
        to_draw = _draws(params, len(token_ids)) if seen >= len(token_ids) else []
        before = sum(lengths) + len(positions)
        draws |= {before + i: draw for i, draw in enumerate(to_draw)}
        drawing = torch.full((len(to_draw),), seen - 1)
        indices.append(torch.cat([positions, drawing]) - begin + offset)
        targets.append(torch.cat([token_ids[positions + 1].long(), torch.full((len(to_draw),), TO_DRAW)]))
        lengths.append(len(positions) + len(to_draw))
        offset += scheduled
    return torch.cat(indices), torch.cat(targets), lengths, draws


def _draws(params: PoolingParams, position: int) -> list[Draw]:
    how = generation(params)
    if how is None:
        return []
    return [Draw(model, position, how["temperature"], how["top_p"], how["seed"]) for model in how["models"]]


def _first_top(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Cut rows to their own k likeliest tokens; the batch was computed for its largest k."""
    width = (rows.shape[-1] - WIDTH) // 4
    if k == width:
        return rows
    return torch.cat([rows[..., :WIDTH], *(part[..., :k] for part in rows[..., WIDTH:].split(width, -1))], -1)
