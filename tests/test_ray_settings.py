"""Which settings replicas on Ray Serve can have; no cluster runs here."""

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError

from deploy.ray.settings import replica_settings

CONFIG = Path(__file__).parent.parent / "deploy" / "ray" / "serve.yaml"


def test_the_example_has_a_path_and_a_pair_for_each_application() -> None:
    applications = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["applications"]
    assert len({each["route_prefix"] for each in applications}) == len(applications) > 1
    assert len({replica_settings(each["args"]).model for each in applications}) == len(applications)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"port": 9000}, "args.port is '9000', expected it to be left out: Serve's proxies listen"),
        ({"operations_port": 9000}, "args.operations_port is '9000', expected it to be left out: Serve's proxies"),
        ({"state_dir": "/state"}, "args.state_dir is '/state', expected it to be left out: each replica would write"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_a_setting_that_replicas_cannot_have_is_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replica_settings({"demo": True} | args)


def test_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="modle"):
        replica_settings({"modle": "a"})
