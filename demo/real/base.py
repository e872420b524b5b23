"""``python -m demo.real.base GGUF OUT``: restore a model folder from a GGUF file, in bfloat16.

A process of its own, so that the memory is free before the server starts.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any


def restore(gguf: Path, out: Path) -> None:
    """Write the dequantized weights, the configuration and the tokenizer of a GGUF file to the folder ``out``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".restoring-") as folder:
        partial = Path(folder) / out.name
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        # safetensors' own mode shuts out a server of another user.
        shutil.copymode(partial / "config.json", partial / "model.safetensors")
        partial.rename(out)


if __name__ == "__main__":
    restore(*map(Path, sys.argv[1:]))
