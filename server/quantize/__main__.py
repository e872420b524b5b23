"""``python -m server.quantize``: make a model's GPTQ twin."""

from qconf.extras import run_command

PACKAGES = {"gptqmodel", "huggingface_hub", "numpy", "safetensors", "torch", "transformers", "typer"}


def main() -> None:
    """Run the command."""
    run_command("server.quantize.command", "qconf-quantize", "quantize", PACKAGES)


if __name__ == "__main__":
    main()
