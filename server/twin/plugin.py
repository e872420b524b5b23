"""Entry point in the group "vllm.general_plugins": every process of vLLM registers the pair's model for itself."""

ARCHITECTURE = "QconfTwinForCausalLM"


def register() -> None:
    """Make the pair known to vLLM, by name only: nothing heavy is imported until a pair is served."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "server.twin.model:Twin")
