"""The demo pair and its tasks: the committed files, and the recipe that makes them, at toy size."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from benchmarks.random_pair import dequantize
from demo import words
from demo.items import CHOICES, GENERATING, PROMPTS, Item, make_items, make_prompts
from demo.train import FULL, TOY, new_model, spread_channels
from demo.world import World
from qconf.demo import PAIR, TASKS

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path) -> str:
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=cwd, env=offline)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def read_items(folder: Path, task: str) -> list[Any]:
    return [json.loads(line) for line in (folder / task / "items.jsonl").read_text(encoding="utf-8").splitlines()]


def test_recipe_at_toy_size(tmp_path: Path) -> None:
    printed = run("-m", "demo", tmp_path, "--scale", "toy", cwd=ROOT)
    assert "loss" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair", "tasks"]
    base, quantized = (tmp_path / "pair" / name for name in ("base", "quantized"))
    assert json.loads((base / "config.json").read_text())["dtype"] == "bfloat16"
    manifest = json.loads((quantized / "qconf.json").read_text())
    assert (manifest["settings"]["bits"], manifest["settings"]["group_size"]) == (4, 128)
    assert all(len(read_items(tmp_path / "tasks", task)) >= 250 for task in CHOICES)
    made = {path.name for path in (tmp_path / "tasks").iterdir()}
    assert made == {path.name for path in TASKS.iterdir() if path.name != "__pycache__"}


def test_committed_files_are_small() -> None:
    files = [path for folder in (PAIR, TASKS) for path in folder.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 12e6


def test_committed_quantized_has_the_settings_of_the_paper() -> None:
    manifest = json.loads((PAIR / "quantized" / "qconf.json").read_text())
    assert manifest["settings"] == {
        "method": "gptq",
        "bits": 4,
        "group_size": 128,
        "desc_act": False,
        "sym": True,
        "dtype": "bfloat16",
        "damp_percent": 0.01,
    }
    assert manifest["calibration"]["samples"] == 128


LOAD_TASKS = """
import json, sys
from lm_eval.tasks import TaskManager
tasks = TaskManager(include_path=sys.argv[1]).load(["demo"])["tasks"]
for task in tasks.values():
    task.build_all_requests(rank=0, world_size=1)
requests = {name: [i.args for i in task.instances if i.doc_id == 7] for name, task in tasks.items()}
print(json.dumps({name: [len(task.test_docs()), requests[name]] for name, task in tasks.items()}))
"""


def test_lm_eval_loads_the_tasks_from_anywhere(tmp_path: Path) -> None:
    made = json.loads(run("-c", LOAD_TASKS, TASKS, cwd=tmp_path).splitlines()[-1])
    assert set(made) == set(CHOICES)
    for task, (count, requests) in made.items():
        items = read_items(TASKS, task)
        assert count == len(items)
        assert requests == [[items[7]["prompt"], f" {choice}"] for choice in items[7]["choices"]]


@pytest.mark.parametrize("task", CHOICES)
class TestItems:
    @pytest.fixture
    def items(self, task: str) -> list[Item]:
        return read_items(TASKS, task)

    def test_committed_items_are_what_the_seed_makes(self, task: str, items: list[Item]) -> None:
        assert items == make_items(World(0), task, FULL.items)

    def test_enough_and_no_duplicates(self, items: list[Item]) -> None:
        assert len(items) >= 250
        assert len({(item["prompt"], *sorted(item["choices"])) for item in items}) == len(items)

    def test_well_formed(self, task: str, items: list[Item]) -> None:
        for item in items:
            assert len(set(item["choices"])) == CHOICES[task]
            assert math.isclose(sum(item["probabilities"]), 1, abs_tol=1e-5)
            assert not any(a != b and a.startswith(b) for a in item["choices"] for b in item["choices"])
            assert not item["prompt"].endswith(" ")

    def test_labels_are_balanced(self, task: str, items: list[Item]) -> None:
        share = 1 / CHOICES[task]
        labels = Counter(item["label"] for item in items)
        assert all(abs(labels[position] / len(items) - share) < 0.1 for position in range(CHOICES[task]))

    def test_neither_place_nor_length_gives_the_answer_away(self, task: str, items: list[Item]) -> None:
        lengths = [[len(choice) for choice in item["choices"]] for item in items]
        for guess in (max, min):
            right = sum(row.index(guess(row)) == item["label"] for row, item in zip(lengths, items, strict=True))
            assert right / len(items) < 1 / CHOICES[task] + 0.15
        # Nor does the position show which choice is likely.
        likely = Counter(item["probabilities"].index(max(item["probabilities"])) for item in items)
        assert max(likely.values()) / len(items) < 1 / CHOICES[task] + 0.1

    def test_labels_follow_the_probabilities(self, items: list[Item]) -> None:
        """The mean log-likelihood of the labels is the one that their probabilities promise, within four deviations."""
        surprise = [-math.log(item["probabilities"][item["label"]]) for item in items]
        entropy = [-sum(p * math.log(p) for p in item["probabilities"] if p > 0) for item in items]
        square = sum(
            sum(p * math.log(p) ** 2 for p in item["probabilities"] if p > 0) - mean**2
            for item, mean in zip(items, entropy, strict=True)
        )
        assert abs(sum(surprise) - sum(entropy)) < 4 * math.sqrt(square)


def test_committed_prompts_are_what_the_seed_makes() -> None:
    prompts = read_items(TASKS, GENERATING)
    assert prompts == make_prompts(World(0), PROMPTS)
    assert len({each["prompt"] for each in prompts}) == PROMPTS == len(prompts)
    usual = {tool for tools in words.GOALS.values() for tool in tools.split(", ")}
    assert {each["answer"] for each in prompts} <= usual


def test_the_seed_decides() -> None:
    assert make_items(World(1), "demo_piqa", 20) == make_items(World(1), "demo_piqa", 20)
    assert make_items(World(1), "demo_piqa", 20) != make_items(World(2), "demo_piqa", 20)


def test_usual_answers_are_the_likely_ones() -> None:
    world = World(0)
    for goal, tools in words.GOALS.items():
        usual = tools.split(", ")
        answers = world.choice_of(tools, [*usual, "a cloud", "a song"], "tool", goal)
        assert math.isclose(sum(answers.values()), 1)
        assert sum(answers[tool] for tool in usual) > 0.8


def test_spread_channels_leaves_the_model_as_it_is() -> None:
    torch.manual_seed(0)
    model = new_model(TOY, 64).eval()
    ids = torch.arange(40)[None]
    before = model(ids).logits.detach().clone(), model.model.layers[0].mlp.down_proj.weight.detach().clone()
    spread_channels(model, 2.0, seed=0)
    assert torch.equal(model(ids).logits, before[0])
    assert not torch.equal(model.model.layers[0].mlp.down_proj.weight, before[1])


class Scored(NamedTuple):
    """Every other item of a task, with the pair's confidences in its choices."""

    items: list[Item]
    base: list[list[float]]
    quantized: list[list[float]]

    def accuracy(self, confidences: list[list[float]]) -> float:
        right = [row.index(max(row)) == item["label"] for row, item in zip(confidences, self.items, strict=True)]
        return sum(right) / len(right)


@torch.no_grad()
def confidences(model: Any, tokenizer: Any, items: list[Item]) -> list[list[float]]:
    """Compute the softmax of the choices' summed log-likelihoods after the prompt, as lm-eval does."""
    prompts = [item["prompt"] for item in items for _ in item["choices"]]
    texts = [f"{item['prompt']} {choice}" for item in items for choice in item["choices"]]
    rows = [torch.tensor(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    starts = torch.tensor([len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    logprobs = model(padded.clamp(min=0)).logits[:, :-1].log_softmax(-1)
    targets = padded[:, 1:]
    of_choice = (torch.arange(1, padded.shape[1]) >= starts[:, None]) & (targets >= 0)
    sums = (logprobs.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * of_choice).sum(-1)
    shares: list[list[float]] = sums.view(len(items), -1).softmax(-1).tolist()
    return shares


@pytest.fixture(scope="module")
def single_thread() -> Iterator[None]:
    """Use one thread: while other tests run, several threads that wait for each other are slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scored(single_thread: None) -> dict[str, Scored]:
    base: Any = LlamaForCausalLM.from_pretrained(PAIR / "base", dtype=torch.float32)
    quantized: Any = LlamaForCausalLM.from_pretrained(PAIR / "base", dtype=torch.float32)
    tensors = load_file(PAIR / "quantized" / "model.safetensors")
    names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    assert len(names) == 7 * FULL.layers
    quantized.load_state_dict({f"{name}.weight": dequantize(tensors, name) for name in names}, strict=False)
    tokenizer = AutoTokenizer.from_pretrained(PAIR / "base")
    tasks = {}
    for task in CHOICES:
        items = read_items(TASKS, task)[::2]
        batches = [items[start : start + 25] for start in range(0, len(items), 25)]
        of_base, of_quantized = (
            [row for batch in batches for row in confidences(model, tokenizer, batch)] for model in (base, quantized)
        )
        tasks[task] = Scored(items, of_base, of_quantized)
    return tasks


def test_base_accuracy_is_neither_chance_nor_perfect(scored: dict[str, Scored]) -> None:
    for task in scored.values():
        assert 0.60 <= task.accuracy(task.base) <= 0.95


def test_base_confidence_is_near_the_true_probability(scored: dict[str, Scored]) -> None:
    """Kullback-Leibler divergence from the world's probabilities, in nats; guessing evenly would cost 0.27 to 0.84."""
    means = []
    for task in scored.values():
        divergence = [
            sum(p * math.log(p / q) for p, q in zip(item["probabilities"], row, strict=True) if p > 0)
            for item, row in zip(task.items, task.base, strict=True)
        ]
        means.append(sum(divergence) / len(divergence))
    assert max(means) < 0.2
    assert sum(means) / len(means) < 0.1


def test_base_is_calibrated(scored: dict[str, Scored]) -> None:
    """Expected calibration error over the 900 items, ten bins; a perfect model would show some 0.02 by chance."""
    bins: dict[int, list[float]] = {}
    for task in scored.values():
        for item, row in zip(task.items, task.base, strict=True):
            confidence = max(row)
            right = row.index(confidence) == item["label"]
            bins.setdefault(min(int(confidence * 10), 9), []).append(right - confidence)
    total = sum(map(len, bins.values()))
    assert sum(abs(sum(gaps)) for gaps in bins.values()) / total < 0.05


def test_quantization_is_felt(scored: dict[str, Scored]) -> None:
    flips = {
        name: sum(b.index(max(b)) != q.index(max(q)) for b, q in zip(task.base, task.quantized, strict=True))
        for name, task in scored.items()
    }
    assert sum(flips.values()) >= 9
    assert sum(count > 0 for count in flips.values()) >= 4
