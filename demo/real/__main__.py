"""``python -m demo.real``: from packages to a verdict about a real model's quantized twin."""

from demo.real.command import app

if __name__ == "__main__":
    app(prog_name="python -m demo.real")
