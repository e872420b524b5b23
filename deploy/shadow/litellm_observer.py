"""Send calls and their answers from LiteLLM's proxy to qconf, after the clients were answered; streams, too.

Put this file beside config.yaml of the proxy, with ``litellm_settings: {callbacks: litellm_observer.observer}`` in it.
"""

import os
from typing import Any

import httpx
from litellm.integrations.custom_logger import CustomLogger  # type: ignore[import-not-found]


class Observer(CustomLogger):  # type: ignore[misc]
    """Mirrors completions and chat completions. LiteLLM logs whatever is raised here, and goes on."""

    def __init__(self) -> None:
        super().__init__()
        # A qconf with --api-key-file wants headers={"Authorization": "Bearer KEY"}, too.
        self._http = httpx.AsyncClient(base_url=os.environ["QCONF_URL"], timeout=0.5)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: object, end_time: object
    ) -> None:
        """Send a call that was answered."""
        call = {name: kwargs["optional_params"].get(name) for name in ("user", "tools", "n", "echo")}
        match kwargs["call_type"]:
            case "acompletion":
                call["messages"] = kwargs["messages"]
            case "atext_completion":  # LiteLLM keeps prompts as messages
                call["prompt"] = [message["content"] for message in kwargs["messages"]]
            case _:
                return
        answer = response_obj.model_dump(mode="json")
        for choice in answer["choices"]:  # what OpenAI's answers do not have is kept aside, except for streams
            choice.setdefault("token_ids", (choice.get("provider_specific_fields") or {}).get("token_ids"))
        reply = await self._http.post("/observe", json={"request": call, "response": answer, "source": "litellm"})
        reply.raise_for_status()


observer = Observer()
