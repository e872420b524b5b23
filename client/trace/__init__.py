"""The base model's own answers to prompts, as a corpus of token ids."""
