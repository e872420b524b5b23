"""The demo's data: a small pair, tasks that it can do, and a gate. The folder demo/ of the repository makes them."""

from pathlib import Path

FOLDER = Path(__file__).parent
PAIR = FOLDER / "pair"
TASKS = FOLDER / "tasks"
GATE = FOLDER / "gate.toml"
