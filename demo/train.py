"""A tokenizer and a small Llama, trained from scratch on the world's corpus."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo.world import World

BOS, EOS = "<s>", "</s>"
PROMPTS_LEARNED = 0.25
IGNORED = -100
# Questions and answers have the same form in a chat as in the corpus.
CHAT_TEMPLATE = """{%- for message in messages -%}
{{ {'system': '', 'user': 'Question: ', 'assistant': 'Answer: '}[message['role']] + message['content'] + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}Answer:{%- endif -%}"""


@dataclass(frozen=True)
class Scale:
    """Sizes of the pair and its tasks. Widths are multiples of 128, the quantizer's group size."""

    hidden: int
    intermediate: int
    layers: int
    tokens: int
    batch: int = 2048
    window: int = 256
    context: int = 1024
    learning_rate: float = 3e-3
    vocabulary: int = 1920
    spread: float = 1.0
    items: int = 300
    samples: int = 128


FULL = Scale(hidden=256, intermediate=512, layers=4, tokens=3_400_000)
TOY = Scale(hidden=128, intermediate=128, layers=1, tokens=40_000, items=250, samples=4)


def train_tokenizer(world: World, vocabulary: int) -> Any:
    rng = random.Random(f"{world.seed}/tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(("".join(world.document(rng)) for _ in range(20_000)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, chat_template=CHAT_TEMPLATE)


class Tokens(NamedTuple):
    ids: list[int]
    labels: list[int]


def token_stream(world: World, tokenizer: Any) -> Iterator[Tokens]:
    """Yield documents without end. Half of them lack the start token, because some harnesses do not send it."""
    rng = random.Random(f"{world.seed}/corpus")
    while True:
        parts = [world.document(rng) for _ in range(256)]
        prompts, answers = (
            tokenizer(list(part), add_special_tokens=False)["input_ids"] for part in zip(*parts, strict=True)
        )
        for prompt, answer in zip(prompts, answers, strict=True):
            prompt = [tokenizer.bos_token_id] * rng.randrange(2) + prompt
            answer = [*answer, tokenizer.eos_token_id]
            # Prompts are mostly random: learning them from only some documents leaves more capacity for answers.
            learned = prompt if rng.random() < PROMPTS_LEARNED else [IGNORED] * len(prompt)
            yield Tokens(prompt + answer, learned + answer)


def windows(documents: Iterator[Tokens], length: int, count: int) -> dict[str, torch.Tensor]:
    """Return rows of whole documents; only the last of each row is cut."""
    rows = []
    for _ in range(count):
        row = Tokens([], [])
        while len(row.ids) < length:
            document = next(documents)
            row = Tokens(row.ids + document.ids, row.labels + document.labels)
        rows.append((row.ids[:length], row.labels[:length]))
    ids, labels = torch.tensor(rows).unbind(1)
    return {"input_ids": ids, "labels": labels}


def new_model(scale: Scale, vocabulary: int) -> Any:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=scale.hidden,
        intermediate_size=scale.intermediate,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.hidden // 64,
        num_key_value_heads=scale.hidden // 128,
        max_position_embeddings=scale.context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    build: Any = LlamaForCausalLM
    return build(config)


def train(world: World, scale: Scale, tokenizer: Any) -> Any:
    """Train for one pass over fresh text, without overfitting: the model becomes as uncertain as the world."""
    torch.manual_seed(world.seed)
    model = new_model(scale, len(tokenizer)).train()
    steps = scale.tokens // scale.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=scale.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.03 * steps + 1), 1 - step / steps)
    )
    documents = token_stream(world, tokenizer)
    started = time.monotonic()
    for step in range(steps):
        # The last tenth has windows of the whole context, so that the model learns long inputs.
        length = scale.window if step < 0.9 * steps else scale.context
        rows = windows(documents, length, scale.batch // length)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**rows, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 49 or step == steps - 1:
            elapsed = time.monotonic() - started
            rate = (step + 1) / elapsed
            done = f"step {step + 1} of {steps}, loss {loss.item():.3f}, {rate * scale.batch:,.0f} tokens/s"
            print(f"{done}, {(steps - step - 1) / rate:.0f} s left", flush=True)
    return model.eval()


@torch.no_grad()
def spread_channels(model: Any, spread: float, seed: int) -> None:
    """Give some channels larger activations and others smaller ones, without changing what the model computes.

    Large models have such channels, which make 4-bit quantization lossy; a model as small as this one has none, and
    GPTQ would hardly change it. The next matrix is divided by the powers of two that the first is multiplied by: the
    logits stay the same to the last bit.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            factors = powers_of_two(len(norm.weight), spread, generator)
            norm.weight.mul_(factors)
            for reader in readers:
                reader.weight.div_(factors)
        factors = powers_of_two(len(mlp.up_proj.weight), spread, generator)
        mlp.up_proj.weight.mul_(factors[:, None])
        mlp.down_proj.weight.div_(factors)


def powers_of_two(count: int, spread: float, generator: torch.Generator) -> torch.Tensor:
    """Return two to the power of rounded normal numbers of standard deviation `spread`."""
    return torch.exp2((torch.randn(count, generator=generator) * spread).round())


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def corpus_sample(world: World, tokenizer: Any, tokens: int) -> list[str]:
    """Return fresh documents of at least ``tokens`` tokens together, for calibration."""
    rng = random.Random(f"{world.seed}/calibration")
    texts: list[str] = []
    while tokens > 0:
        texts.append("".join(world.document(rng)))
        tokens -= len(tokenizer(texts[-1], add_special_tokens=False)["input_ids"]) + 1
    return texts
