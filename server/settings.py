"""Settings of the server: command line first, then ``QCONF_*`` environment variables, then defaults."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, CliUnknownArgs, NoDecode, SettingsConfigDict

from qconf.demo import PAIR
from qconf.wire import VARIANT_NAME
from server.shadow.sampling import ROUTES
from server.shadow.sources import UNDECLARED, source_labels

NAMED = re.compile(rf"({VARIANT_NAME.pattern})=(.+)", re.DOTALL)
RATE = re.compile(r"0|1|0?\.\d+|[01]\.0*")
Several = Annotated[list[str], NoDecode]
"""Values of an option that may be repeated; in an environment variable, separated by commas."""


class Settings(BaseSettings):
    """Serve a full-precision model and one or more quantized variants of it on one vLLM engine.

    Any other argument is passed to the engine, for example --max-model-len 4096 or --tensor-parallel-size 2; see
    vLLM's engine arguments.
    """

    model_config = SettingsConfigDict(
        env_prefix="QCONF_",
        cli_prog_name="qconf-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_ignore_unknown_args=True,
    )

    model: str | None = Field(None, description="Full-precision model: a folder or a hub name.")
    quantized: Several = Field(
        [],
        description="Its quantized twin: a folder or a hub name. May be repeated, to compare several variants with the "
        "same model; NAME=MODEL names one.",
    )
    demo: bool = Field(False, description="Serve the bundled demo pair, as without --model and --quantized.")
    revision: str | None = Field(None, description="Hub revision of the full-precision model.")
    quantized_revision: Several = Field(
        [], description="Hub revision of the quantized model; repeated, one for each --quantized in their order."
    )
    allow_unquantized: bool = Field(
        False, description="Accept a twin that is not quantized, for example the model itself."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    operations_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port for /metrics, /docs and probes alone: no keys, and --port has neither metrics nor docs then.",
    )
    operations_host: str = Field("127.0.0.1", description="Address that --operations-port listens on.")
    api_key_file: Path | None = Field(
        None,
        description="File with lines NAME = KEY, and quotas behind the key: requests need one of the keys. It is read "
        "again when it changes.",
    )
    ssl_certfile: Path | None = Field(None, description="Certificate, to serve HTTPS.")
    ssl_keyfile: Path | None = Field(None, description="Its private key.")
    max_body_bytes: int = Field(8 * 2**20, ge=1024, description="Largest request body accepted.")
    max_requests: int = Field(1024, ge=1, description="Requests in flight beyond which others are refused (429).")
    max_sequences: int = Field(4096, ge=1, description="Sequences in flight beyond which requests are refused (429).")
    queue_seconds: float = Field(
        60,
        gt=0,
        description="Seconds of work in flight, at the measured rate, beyond which requests are refused.",
    )
    request_seconds: float = Field(600, gt=0, description="Time after which a request is given up (504).")
    stalled_seconds: float = Field(
        120,
        gt=0,
        description="Time without a finished step after which an engine that has work counts as hung: the server ends. "
        "It must be far longer than a step, compilation included.",
    )
    reference: Path | None = Field(None, description="Run folder that live traffic is compared with: drift metrics.")
    window_comparisons: int = Field(
        2000, ge=1, description="Comparisons in the sliding window of calibration and drift."
    )
    window_seconds: float = Field(6 * 3600, gt=0, description="Age at which comparisons leave that window.")
    shadow_rate: Several = Field(
        [],
        description="Share of keys whose mirrored calls are scored, from 0 to 1: of all routes, or ROUTE=SHARE of one "
        f"({', '.join(ROUTES)}); may be repeated. Without it, or with 0, the routes are off.",
    )
    shadow_queue: int = Field(1000, ge=1, description="Mirrored calls that wait at most; others are dropped.")
    shadow_salt: str = Field("", description="Another text makes other keys those whose mirrored calls are scored.")
    shadow_source: Several = Field(
        [],
        description="A source of mirrored calls that has metrics and a drift window of its own; may be repeated. Calls "
        "that name another one count as 'other'.",
    )
    shadow_record: Path | None = Field(
        None, description="Folder that gets a line for each mirrored call that was scored, in a file a day."
    )
    shadow_record_tokens: bool = Field(
        False, description="Record the token ids of mirrored calls, for replays, and not only what was measured."
    )
    shadow_record_days: int = Field(7, ge=1, description="Days after which recorded files are deleted.")
    state_dir: Path | None = Field(
        None, description="Folder that keeps the window over restarts, and rows that every start must repeat."
    )
    grace_seconds: int = Field(30, ge=0, description="Time that running requests get when the server is stopped.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "ERROR", description="Log level of vLLM and of requests, which have a line each from INFO on."
    )
    log_format: Literal["text", "json"] = Field("text", description="Format of log lines.")
    engine_args: CliUnknownArgs

    @field_validator("quantized", "quantized_revision", "shadow_rate", "shadow_source", mode="before")
    @classmethod
    def _separated(cls, given: object) -> object:
        return [each for each in given.split(",") if each] if isinstance(given, str) else given

    @property
    def shadow_on(self) -> bool:
        """Whether mirrored calls of any route are scored."""
        return any(shadow_rates(self.shadow_rate).values())

    @property
    def variants(self) -> dict[str, tuple[str, str | None]]:
        """Folder or hub name, and revision, of each quantized variant by name.

        A single one is called "quantized", others after the last part of theirs, where the user does not name them.
        """
        revisions: list[str | None] = [*self.quantized_revision] or [None] * len(self.quantized)
        pairs = [_named(each, alone=len(self.quantized) == 1) for each in self.quantized]
        return {name: (model, revision) for (name, model), revision in zip(pairs, revisions, strict=True)}

    @field_validator("shadow_rate")
    @classmethod
    def _are_rates(cls, given: list[str]) -> list[str]:
        shadow_rates(given)
        return given

    @field_validator("shadow_source")
    @classmethod
    def _are_sources(cls, given: list[str]) -> list[str]:
        for name in given:
            if not VARIANT_NAME.fullmatch(name):
                raise ValueError(f"expected a letter or digit, then letters, digits and _.-, at most 100, got {name!r}")
            if source_labels(given).count(name) > 1:
                raise ValueError(f"expected each name once, and none of {', '.join(UNDECLARED)}, got {name!r}")
        return given

    @model_validator(mode="after")
    def _scoring(self) -> Self:
        for option, given in (("record", self.shadow_record), ("source", self.shadow_source)):
            if given and not self.shadow_on:
                raise ValueError(f"--shadow-{option} needs --shadow-rate: without it no call is scored")
        return self

    @model_validator(mode="after")
    def _tls(self) -> Self:
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("expected both --ssl-certfile and --ssl-keyfile, or neither")
        for name in ("ssl_certfile", "ssl_keyfile"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"--{name.replace('_', '-')} is '{path}': expected a file")
        return self

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if self.demo and (self.model or self.quantized):
            raise ValueError("--demo takes the bundled pair: leave out --model and --quantized")
        if not (self.model or self.quantized):
            self.demo = True
            self.model, self.quantized = str(PAIR / "base"), [str(PAIR / "quantized")]
        for name in ("model", "quantized"):
            if not getattr(self, name):
                raise ValueError(
                    f"--{name} is missing: expected a folder or a hub name (without both, the bundled pair is served)"
                )
        if self.quantized_revision and len(self.quantized_revision) != len(self.quantized):
            raise ValueError(
                f"--quantized-revision is given {len(self.quantized_revision)} times, expected one for each of the "
                f"{len(self.quantized)} --quantized"
            )
        names = [_named(each, alone=len(self.quantized) == 1)[0] for each in self.quantized]
        for name in names:
            if why := _unfit(name, names):
                raise ValueError(f"--quantized: the name {name!r} {why}: expected NAME=MODEL with names of their own")
        return self


def shadow_rates(given: list[str]) -> dict[str, float]:
    """Return the share of keys by route. ValueError says what is wrong."""
    rates = dict.fromkeys(ROUTES, 0.0)
    # What is said of all routes comes first, wherever it stands.
    for each in sorted(given, key=lambda each: "=" in each):
        route, _, share = each.rpartition("=")
        if route and route not in rates:
            raise ValueError(f"expected a route that is one of {', '.join(ROUTES)}, got {route!r}")
        if not RATE.fullmatch(share):
            raise ValueError(f"expected a share from 0 to 1, or ROUTE=SHARE, got {each!r}")
        rates |= dict.fromkeys([route] if route else ROUTES, float(share))
    return rates


def _unfit(name: str, names: list[str]) -> str | None:
    """Why a variant cannot have the name: it is part of replies and of the paths of runs."""
    if not VARIANT_NAME.fullmatch(name):
        return "has other characters than letters, digits and _.-, or more than 100"
    if name == "base":
        return "is the full-precision model's"
    return "is taken twice" if names.count(name) > 1 else None


def _named(given: str, *, alone: bool) -> tuple[str, str]:
    """Return the name and the model of a ``--quantized``."""
    if found := NAMED.fullmatch(given):
        return found[1], found[2]
    return ("quantized" if alone else Path(given).name), given
