"""``python -m demo.real.variants``: several quantized variants of the model of ``make real``, side by side."""

from demo.real.command import variants_app

if __name__ == "__main__":
    variants_app(prog_name="python -m demo.real.variants")
