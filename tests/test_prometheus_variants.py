"""Real Prometheus, with the shipped rules, watches a server of two variants beside servers of each of them alone.

Whatever rules, alerts and dashboard say of a variant of the first must be what they say of the second or third.
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.test_monitor import monitor
from tests.test_monitor_variants import ACCEPT_OPENMETRICS, VARIANTS, comparisons, recorded_with_w8, texts
from tests.test_prometheus_live import (
    Watched,
    chosen,
    expressions,
    rules,
    running_prometheus,
    truth,
    wait_until,
)

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus (Debian: prometheus) is not installed"
)

BOTH = "both"
SCRAPES = 30
"""After two, increase() is wrong by up to two thirds, by another share for each target."""
Samples = dict[frozenset[tuple[str, str]], float]
SOURCES = ("gateway", "batch")
RECORDED = [
    rule
    for rule in rules("record")
    if rule["group"] != "qconf-service" and (rule["group"] != "qconf-shadow" or "variant" in rule["expr"])
]
ALERTS = [rule for rule in rules("alert") if "$labels.variant" in rule["annotations"]["summary"]]
PANELS = [(title, expression) for title, expression in expressions() if "$variant" in expression]


@contextmanager
def serving(pages: dict[str, tuple[bytes, str]]) -> Iterator[str]:
    """Serve each page, which has a content type, under its name; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content, content_type = pages[self.path.removeprefix("/")]
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            with suppress(ConnectionError):  # a scrape of more than a second is given up, and repeated
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Watch three servers, which have answered the same comparisons since the first scrape."""
    folder = tmp_path_factory.mktemp("watched")
    reference, seen = recorded_with_w8(folder / "reference"), comparisons(folder)
    mirrored = {"gateway": texts(), "batch": texts()[:40]}
    both = monitor(reference, variants=VARIANTS, sources=SOURCES)
    alone = {
        "w4": monitor(variants=("w4",), sources=SOURCES),
        "w8": monitor(reference, variants=("w8",), sources=SOURCES),
    }
    monitors = {BOTH: both} | alone

    def pages() -> dict[str, tuple[bytes, str]]:
        return {name: each.exposition(ACCEPT_OPENMETRICS) for name, each in monitors.items()}

    with serving(served := pages()) as address:
        targets: list[dict[str, Any]] = [
            {"targets": [address], "labels": {"instance": name, "__metrics_path__": f"/{name}"}} for name in monitors
        ]
        with running_prometheus(folder, targets, alertmanager="http://127.0.0.1:9") as prometheus:
            found = Watched(address, prometheus, "", folder)
            wait_until(lambda: len(found.query("qconf_comparisons_total == 0")) == 4, "the first scrape")
            for comparison in seen:
                both.add(comparison)
                for variant, observation in zip(VARIANTS, comparison, strict=True):
                    alone[variant].add([observation])
            for source in SOURCES:
                for text in mirrored[source]:
                    both.add_mirrored(source, text)
                    for variant, observation in zip(VARIANTS, text, strict=True):
                        alone[variant].add_mirrored(source, [observation])
            served.update(pages())
            wait_until(lambda: len(found.query(f"qconf_comparisons_total == {len(seen)}")) == 4, "all is scraped")
            often = f"count_over_time(qconf_comparisons_total[1h]) >= {SCRAPES}"
            wait_until(lambda: len(found.query(often)) == 4, "increase() has little to extrapolate")
            yield found


def samples(watched: Watched, expression: str, variant: str | None = None) -> Samples:
    """Return the values of one variant, or of all series, by the labels that do not say whose they are."""
    series = [each for each in watched.query(expression) if variant in (None, each["metric"].get("variant"))]
    found = {
        frozenset(label for label in each["metric"].items() if label[0] not in ("instance", "variant")): each["value"]
        for each in series
    }
    assert len(found) == len(series), f"{expression}: these are told apart by nothing else: {series}"
    return {labels: float(value) for labels, (_, value) in found.items()}


def same(expected: Samples, expression: str) -> Any:
    """Match the values of an expression.

    increase() extrapolates to the ends of its range, by another few percent for each target; in quotients this cancels.
    """
    counts = "increase(" in expression and "/" not in expression
    return pytest.approx(expected, rel=0.2 if counts else 1e-6, abs=1e-9)


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule["record"])
def test_a_recorded_value_of_a_variant_is_that_of_a_server_with_it_alone(
    watched: Watched, rule: dict[str, str]
) -> None:
    name = rule["record"]
    variants = ("w8",) if rule["group"] == "qconf-drift" else VARIANTS  # only w8 has a reference
    servers = {BOTH, *variants}
    wait_until(lambda: {each["metric"]["instance"] for each in watched.query(name)} == servers, f"{name} has data")
    of_both = f'{name}{{instance="{BOTH}"}}'
    assert {each["metric"].get("variant") for each in watched.query(of_both)} == set(variants)
    for variant in variants:
        alone = samples(watched, f'{name}{{instance="{variant}"}}')
        assert samples(watched, of_both, variant) == same(alone, rule["expr"])


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_judges_a_variant_as_if_it_were_alone(watched: Watched, alert: dict[str, str]) -> None:
    judged = f"({truth(alert['expr'])}) and on (instance) up"
    of_both, *alone = (f'{judged}{{instance="{name}"}}' for name in (BOTH, *VARIANTS))
    assert watched.query(of_both)
    for variant, expression in zip(VARIANTS, alone, strict=True):
        assert samples(watched, of_both, variant) == samples(watched, expression)


@pytest.mark.parametrize("alert", ["QconfFlipRate", "QconfDivergence"])
def test_the_alert_of_a_variant_that_is_past_the_limit_names_it(watched: Watched, alert: str) -> None:
    firing = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    wait_until(lambda: len(watched.query(firing)) == 2, f"{alert} fires for two servers")
    labels = [each["metric"] for each in watched.query(firing)]
    assert {(each["instance"], each.get("variant")) for each in labels} == {(BOTH, "w4"), ("w4", None)}


@pytest.mark.parametrize(("title", "expression"), PANELS)
def test_a_panel_shows_of_a_chosen_variant_what_a_server_with_it_alone_has(
    watched: Watched, title: str, expression: str
) -> None:
    alone = [samples(watched, chosen(expression, instance=variant)) for variant in VARIANTS]
    assert any(alone), title
    for variant, expected in zip(VARIANTS, alone, strict=True):
        assert samples(watched, chosen(expression, instance=BOTH, variant=variant)) == same(expected, expression)


@pytest.mark.parametrize(("title", "expression"), PANELS)
def test_a_panel_of_all_variants_tells_them_apart_and_a_heatmap_adds_them_up(
    watched: Watched, title: str, expression: str
) -> None:
    everything = chosen(expression, instance=BOTH)
    w4, w8 = (samples(watched, chosen(expression, instance=variant)) for variant in VARIANTS)
    if "by (le) " in expression:
        assert samples(watched, everything) == same({each: w4[each] + w8[each] for each in w4}, expression), title
    else:
        assert samples(watched, everything, "w4") == same(w4, expression), title
        assert samples(watched, everything, "w8") == same(w8, expression), title


def test_prometheus_evaluates_every_expression_of_the_dashboard(watched: Watched) -> None:
    for _, expression in expressions():
        watched.query(chosen(expression))  # fails where a series matches several
