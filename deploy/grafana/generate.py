"""The dashboard: ``python -m deploy.grafana.generate`` writes dashboards/qconf.json, which is checked in.

Expressions name the server's own metrics, not recording rules: the dashboard needs no rules in Prometheus.
"""

import json
import string
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

with warnings.catch_warnings():
    # The SDK warns on import that this schema is deprecated, but Grafana 11 and 12 load only this one from files.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import common as common_models
    from grafana_foundation_sdk.models import dashboard as model
    from grafana_foundation_sdk.models import heatmap as heatmap_models
    from grafana_foundation_sdk.models import prometheus as prometheus_models

OUT = Path(__file__).parent / "dashboards" / "qconf.json"
SCHEMA = 39
"""Grafana 11's; later versions migrate it on load."""
COLUMNS = 24
HEIGHT = 8
SOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")

SCOPE = 'job="$job",instance=~"$instance"'
ALL = f"{{{SCOPE}}}"
# For metrics that are about one quantized variant; the label is absent where the server has only one.
VARIANT = f'{{{SCOPE},variant=~"$variant"}}'
MODEL = f'{{{SCOPE},variant=~"$variant",model=~"$model"}}'
CORRECT = f'{{{SCOPE},variant=~"$variant",model=~"$model",correct="true"}}'
# Scrapes, probes and mirrored calls always succeed and are fast: they would hide what happens to comparisons.
ASKED = f'{{{SCOPE},route!~"/metrics|/health|/ready|/observe|/mirror/.*"}}'
FAILED = f'{{{SCOPE},route!~"/metrics|/health|/ready|/observe|/mirror/.*",status=~"5.."}}'
ALERTS = 'ALERTS{alertstate="firing",alertname=~"Qconf.*",instance=~"$instance"}'
NOW = "$__rate_interval"

Limits = dict[float | None, str]


@dataclass(frozen=True)
class Panel:
    """One panel; queries are expressions by legend, or by column in a table."""

    kind: Literal["lines", "heatmap", "stat", "table"]
    width: int
    title: str
    description: str
    queries: dict[str, str]
    unit: str = "short"
    limits: Limits = field(default_factory=dict)
    """Colours from these values on; the first value is None, below all others."""
    logarithmic: bool = False


def share(part: str, whole: str) -> str:
    """Return a quotient: 0 where nothing was counted in ``part`` yet, absent where ``whole`` is 0."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def mean(histogram: str, window: str, labels: str = MODEL, by: str = "model, variant") -> str:
    """Return the mean of a histogram's observations."""
    total, count = (f"sum by ({by}) (increase({histogram}_{part}{labels}[{window}]))" for part in ("sum", "count"))
    return f"{total} / ({count} > 0)"


def quantile(q: float, histogram: str, window: str, labels: str, by: str) -> str:
    """Return a quantile of a histogram's observations, absent where there are none."""
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({histogram}_bucket{labels}[{window}]))) >= 0"


def spread(histogram: str, labels: str = VARIANT) -> dict[str, str]:
    """Return the query of a heatmap, which cannot tell variants apart: it shows their sum."""
    return {"{{le}}": f"sum by (le) (increase({histogram}_bucket{labels}[{NOW}]))"}


def binned(what: str) -> str:
    """Return the sums of six hours by bin of confidence."""
    return f"sum by (model, variant, bin) (increase(qconf_calibration_{what}_total{MODEL}[6h]))"


def drift(metric: str, by: str = "unit, quantity, variant") -> dict[str, str]:
    """Return a drift statistic as a multiple of its threshold."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return {legend: f"max by ({by}) ({metric}{VARIANT} / {metric}_threshold{VARIANT})"}


def drift_table() -> dict[str, str]:
    """Return the columns of all drift statistics and their thresholds."""
    names = [f"{name}{end}" for name in ("psi", "js", "ks") for end in ("", "_threshold")]
    labels = "instance, variant, unit, quantity"
    return {name.replace("_", " "): f"max by ({labels}) (qconf_drift_{name}{VARIANT})" for name in names}


REQUESTS = f"rate(qconf_requests_total{ASKED}[{NOW}])"
ANSWERS = f"sum by (model, variant) (increase(qconf_answers_total{MODEL}[6h]))"
HITS = f"({binned('hits')} or 0 * {binned('items')})"
DURATION, QUEUE, ENGINE = (f"qconf_request_{part}_seconds" for part in ("duration", "queue", "engine"))

DRIFT = "A multiple of the value exceeded by chance once in a thousand windows; above 1, traffic or pair have changed."

ROWS: dict[str, list[Panel]] = {
    "Health": [
        Panel("stat", 4, "Engine",
            "State of the engine; down also where the server cannot be scraped.",
            {"{{instance}}": f"min by (instance) (qconf_engine_up{ALL}) or 0 * min by (instance) (up{ALL})"},
            limits={None: "red", 1: "green"}),
        Panel("lines", 7, "Requests answered with an error",
            "Share of requests, probes left out, with status 5xx; anything but 0 deserves a look at the server's log.",
            {"share": share(f"sum(rate(qconf_requests_total{FAILED}[{NOW}]))", f"sum({REQUESTS})")},
            "percentunit", {None: "green", 0.01: "orange", 0.05: "red"}),
        Panel("lines", 6, "Requests in flight",
            "Requests that wait for their answer; worry when it grows while throughput does not.",
            {"{{instance}}": f"sum by (instance) (qconf_requests_in_flight{ALL})"}),
        Panel("lines", 7, "Sequences in flight, share of the limit",
            "Load of the server; at 100 % it refuses requests with status 429.",
            {"{{instance}}": f"max by (instance) (qconf_sequences_in_flight{ALL} / qconf_sequences_limit{ALL})"},
            "percentunit", {None: "green", 0.8: "orange", 0.95: "red"}),
        Panel("table", 16, "Models and builds",
            "Models and the builds that serve them; worry when instances that should be the same differ.",
            {"": "max by (instance, model, root, revision, quantization, dtype, version, vllm, device) ("
                 f"qconf_model_info{ALL} * on (job, instance) group_left (version, vllm, device) "
                 f"qconf_build_info{ALL})"}),
        Panel("table", 8, "Firing alerts",
            "Alerts of this server that fire now; empty is good, if Prometheus has the rules.",
            {"": f"max by (alertname, severity, instance, variant) ({ALERTS})"}),
    ],
    "Latency": [
        Panel("lines", 12, "Time to answer by route",
            "From arrival to the end of the answer; worry when p99 leaves p50 behind, or nears the clients' timeout.",
            {f"p{q * 100:.0f} {{{{route}}}}": quantile(q, DURATION, NOW, ASKED, "route") for q in (0.5, 0.9, 0.99)},
            "s"),
        Panel("heatmap", 12, "Time to answer, requests by duration",
            "All requests but probes; a second band far above the first is a group of requests that waits.",
            spread(DURATION, ASKED), "s"),
        Panel("lines", 12, "Wait in the engine, p99",
            "Time until a comparison's first sequence runs; when it grows, the device is overloaded.",
            {"{{route}}": quantile(0.99, QUEUE, NOW, ALL, "route")}, "s"),
        Panel("lines", 12, "Time in the engine, p99",
            "Time from then to the scores; when it grows, requests became longer or the device slower.",
            {"{{route}}": quantile(0.99, ENGINE, NOW, ALL, "route")}, "s"),
    ],
    "Throughput": [
        Panel("lines", 8, "Requests per second by route and status",
            "Probes left out; worry about 5xx, and about 429 that clients do not try again.",
            {"{{route}} {{status}}": f"sum by (route, status) ({REQUESTS})"}, "reqps"),
        Panel("lines", 8, "Tokens per second by kind",
            "Scored, computed by both models, and taken from the prefix cache; worry when computed falls under load.",
            {"{{kind}}": f"sum by (kind) (rate(qconf_tokens_total{ALL}[{NOW}]))"}),
        Panel("lines", 8, "Prefix cache, share of tokens found",
            "Choices of one item share their prompt; where it drops with the same traffic, the cache is too small.",
            {"share": share(f"sum(rate(vllm:prefix_cache_hits_total{ALL}[{NOW}]))",
                            f"sum(rate(vllm:prefix_cache_queries_total{ALL}[{NOW}]))")},
            "percentunit"),
        Panel("lines", 6, "Refused requests per second by reason",
            "Overloaded calls for more servers or fewer clients; not_finite and internal_error for a look at the log.",
            {"{{reason}}": f"sum by (reason) (rate(qconf_rejections_total{ALL}[{NOW}]))"}, "reqps"),
        Panel("lines", 6, "Requests left by their client, per second",
            "The client closed the connection before its answer; many mean that its timeout is too short.",
            {"{{instance}}": f"sum by (instance) (rate(qconf_aborted_requests_total{ALL}[{NOW}]))"}, "reqps"),
        Panel("lines", 6, "Sequences in vLLM",
            "Running and waiting sequences of the engine; worry when many wait all the time.",
            {what: f"sum(vllm:num_requests_{what}{ALL})" for what in ("running", "waiting")}),
        Panel("lines", 6, "KV cache in use",
            "Share of the cache's blocks; near 100 % the engine interrupts sequences and computes them again.",
            {"{{instance}}": f"max by (instance) (vllm:kv_cache_usage_perc{ALL})"},
            "percentunit", {None: "green", 0.9: "orange"}),
    ],
    "Confidence": [
        Panel("lines", 8, "Mean confidence of tokens by model (1 h)",
            "Largest next-token probability; worry when the models move apart, not when they move together.",
            {"{{model}} {{variant}}": mean("qconf_token_confidence", "1h")}, "percentunit"),
        Panel("lines", 8, "Mean confidence in the choice by model (1 h)",
            "Of comparisons with choices; a quantized model below its base is the usual sign of damage.",
            {"{{model}} {{variant}}": mean("qconf_choice_confidence", "1h")}, "percentunit"),
        Panel("lines", 8, "Mean entropy by model (nats, 1 h)",
            "Of the next-token distribution; worry when the quantized model's leaves the base model's.",
            {"{{model}} {{variant}}": mean("qconf_token_entropy_nats", "1h")}),
        Panel("heatmap", 12, "Change of confidence per token, quantized minus base",
            "Tokens of all chosen variants by signed difference; worry when the band leaves 0 or becomes wider.",
            spread("qconf_token_confidence_delta")),
        Panel("heatmap", 12, "Change of confidence in the choice, quantized minus base",
            "Comparisons of all chosen variants by signed difference; worry when the band leaves 0 or becomes wider.",
            spread("qconf_choice_confidence_delta")),
    ],
    "Divergence": [
        Panel("lines", 12, "KL(base ‖ quantized) per token (nats, 1 h)",
            "Distance of the twin from its base, on a logarithmic axis; worry when it rises with the same traffic.",
            {"mean {{variant}}": mean("qconf_token_kl_nats", "1h", VARIANT, "variant")}
            | {f"p{q * 100:.0f} {{{{variant}}}}": quantile(q, "qconf_token_kl_nats", "1h", VARIANT, "variant")
               for q in (0.5, 0.99)},
            logarithmic=True),
        Panel("lines", 12, "Tokens whose likeliest token differs (1 h)",
            "Share of positions where greedy decoding would take another path; worry when it rises.",
            {"share {{variant}}": share(
                f"sum by (variant) (increase(qconf_top_token_disagreements_total{VARIANT}[1h]))",
                f"sum by (variant) (increase(qconf_compared_tokens_total{VARIANT}[1h]))")},
            "percentunit"),
        Panel("heatmap", 12, "KL(base ‖ quantized) per token (nats)",
            "Tokens of all chosen variants by divergence; worry when a second band forms above the first.",
            spread("qconf_token_kl_nats")),
        Panel("heatmap", 12, "Jensen-Shannon divergence per token (nats)",
            "The same in a measure bounded by log 2; worry when a second band forms above the first.",
            spread("qconf_token_js_nats")),
    ],
    "Flips": [
        Panel("lines", 8, "Flips (1 h)",
            "Share of comparisons with choices whose answer the quantized model changes; worry when it rises.",
            {"share {{variant}}": share(
                f"sum by (variant) (increase(qconf_flips_total{VARIANT}[1h]))",
                f"sum by (variant) (increase(qconf_items_total{VARIANT}[1h]))")},
            "percentunit"),
        Panel("lines", 8, "Flips by kind (1 h)",
            "Number of changed answers; worry when right_to_wrong outweighs wrong_to_right.",
            {"{{kind}} {{variant}}": f"sum by (kind, variant) (increase(qconf_flips_total{VARIANT}[1h]))"}),
        Panel("lines", 8, "Comparisons with choices (1 h)",
            "Number behind the shares of this row, which are imprecise below a few hundred.",
            {"labelled: {{labelled}} {{variant}}":
                 f"sum by (labelled, variant) (increase(qconf_items_total{VARIANT}[1h]))"}),
    ],
    "Calibration": [
        Panel("lines", 8, "Accuracy by model (6 h)",
            "Share of labelled comparisons that are right; worry when the quantized model falls behind its base.",
            {"{{model}} {{variant}}": share(ANSWERS.replace(MODEL, CORRECT), ANSWERS)}, "percentunit"),
        Panel("lines", 8, "Expected calibration error by model (6 h)",
            "Mean gap between confidence and accuracy over 15 bins; small numbers of items alone raise it.",
            {"{{model}} {{variant}}":
                 f"sum by (model, variant) (abs({HITS} - {binned('confidence')})) / "
                 f"(sum by (model, variant) (increase(qconf_calibration_items_total{MODEL}[6h])) > 0)"}),
        Panel("lines", 8, "Calibration error and Brier score of the server's own window",
            "Over the latest labelled comparisons, as the server keeps them; worry when the models move apart.",
            {f"{name} {{{{model}}}} {{{{variant}}}} {{{{instance}}}}":
                 f"max by (model, variant, instance) (qconf_window_{metric}{MODEL})"
             for name, metric in (("ECE", "ece"), ("Brier", "brier_score"))}),
        Panel("table", 24, "Reliability by bin of confidence (6 h)",
            "A calibrated model is as often right as it is confident; a negative gap is overconfidence.",
            {"items": binned("items"),
             "mean confidence": f"{binned('confidence')} / ({binned('items')} > 0)",
             "accuracy": f"{HITS} / ({binned('items')} > 0)",
             "gap": f"({HITS} - {binned('confidence')}) / ({binned('items')} > 0)"}),
    ],
    "Drift against the reference run (only where the server has one)": [
        *(Panel("lines", 8, f"{name} / threshold", DRIFT, drift(f"qconf_drift_{name.lower()}"),
                limits={None: "green", 1: "red"})
          for name in ("PSI", "JS", "KS")),
        Panel("table", 12, "Statistics and thresholds",
            "The numbers behind the charts; where a row is missing, the window has fewer than 30 comparisons.",
            drift_table()),
        Panel("lines", 6, "Samples",
            "Sizes of the reference and the sliding window; a small window finds only large changes.",
            {"{{unit}} {{side}} {{variant}}": f"max by (unit, side, variant) (qconf_drift_samples{VARIANT})"}),
        Panel("table", 6, "Reference",
            "The reference run and the variant compared with it; where same_pair is false, the models differ and drift "
            "is expected.",
            {"": f"max by (instance, variant, run, same_pair) (qconf_reference_info{VARIANT})"}),
    ],
    "Mirrored calls (only where the server takes any)": [
        Panel("lines", 8, "Mirrored calls per second by source",
            "Where calls come from; worry when a source stops.",
            {"{{source}}": f"sum by (source) (rate(qconf_shadow_calls_total{ALL}[{NOW}]))"}, "reqps"),
        Panel("lines", 8, "Mirrored calls per second by outcome",
            "What becomes of calls as they come; worry about any other than queued and not_sampled.",
            {"{{outcome}}": f"sum by (outcome) (rate(qconf_shadow_calls_total{ALL}[{NOW}]))"}, "reqps"),
        Panel("lines", 8, "Mirrored calls that could not be scored, per second by source and reason",
            "Their error types; invalid_request_error is mostly a primary with another model or a longer context.",
            {"{{source}} {{reason}}":
                 f"sum by (source, reason) (rate(qconf_shadow_failed_total{ALL}[{NOW}])) > 0"}, "reqps"),
        Panel("lines", 8, "Mirrored calls waiting, share of the queue",
            "Calls that wait for a pause of the engine; at 100 % others are dropped.",
            {"{{instance}}": f"max by (instance) (qconf_shadow_queue{ALL} / qconf_shadow_queue_limit{ALL})"},
            "percentunit", {None: "green", 0.8: "orange"}),
        Panel("lines", 8, "KL(base ‖ quantized) per token of mirrored calls (nats, 1 h)",
            "Distance of the models on the primary's traffic, on a logarithmic axis; worry when it rises.",
            {"mean {{source}} {{variant}}":
                 mean("qconf_shadow_token_kl_nats", "1h", VARIANT, "source, variant")}, logarithmic=True),
        Panel("lines", 8, "Mean confidence of tokens of mirrored calls by model (1 h)",
            "Largest next-token probability; worry when the models move apart, not when they move together.",
            {"{{model}} {{source}} {{variant}}":
                 mean("qconf_shadow_token_confidence", "1h", by="source, model, variant")}, "percentunit"),
        Panel("lines", 12, "Mirrored calls: likeliest token differs (1 h)",
            "Share of positions where greedy decoding would take another path; worry when it rises.",
            {"share {{source}} {{variant}}": share(
                f"sum by (source, variant) (increase(qconf_shadow_top_token_disagreements_total{VARIANT}[1h]))",
                f"sum by (source, variant) (increase(qconf_shadow_compared_tokens_total{VARIANT}[1h]))")},
            "percentunit"),
        Panel("lines", 12, "Mirrored calls against the reference run: PSI / threshold", DRIFT,
            drift("qconf_shadow_drift_psi", "source, unit, quantity, variant"), limits={None: "green", 1: "red"}),
    ],
}  # fmt: skip


def targets(panel: Panel) -> Iterator[prometheus_models.Dataquery]:
    """Yield the panel's queries in Grafana's form."""
    shape = {"heatmap": prometheus_models.PromQueryFormat.HEATMAP, "table": prometheus_models.PromQueryFormat.TABLE}
    for letter, (legend, expression) in zip(string.ascii_uppercase, panel.queries.items(), strict=False):
        query = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(expression).legend_format(legend)
        query.format(shape.get(panel.kind, prometheus_models.PromQueryFormat.TIME_SERIES))
        yield (query.instant() if panel.kind in ("stat", "table") else query.range()).build()


def lines(panel: Panel) -> model.Panel:
    """Return a chart over time."""
    chart = (
        timeseries.Panel()
        .legend(common.VizLegendOptions().show_legend(True).placement(common_models.LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .fill_opacity(5)
    )
    if panel.limits:
        style = common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        chart.thresholds_style(style).axis_soft_max(max(value for value in panel.limits if value is not None))
    if panel.logarithmic:
        chart.scale_distribution(common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LOG).log(10))
    return chart.build()


def cells(panel: Panel) -> model.Panel:
    """Return a histogram over time."""
    color = heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Oranges")
    color.scale(heatmap_models.HeatmapColorScale.EXPONENTIAL).exponent(0.5).steps(64)
    return heatmap.Panel().color(color).y_axis(heatmap.YAxisConfig().unit(panel.unit)).build()


def state(panel: Panel) -> model.Panel:
    """Return a panel of the last value, 0 or 1."""
    texts = {"0": model.ValueMappingResult(text="down"), "1": model.ValueMappingResult(text="up")}
    out = stat.Panel().mappings([model.ValueMap(options=texts)])
    out.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    out.color_mode(common_models.BigValueColorMode.BACKGROUND).graph_mode(common_models.BigValueGraphMode.NONE)
    return out.build()


def rows(panel: Panel) -> model.Panel:
    """Return a table of the present labels and values; rows of the queries that share all labels become one."""
    names = {f"Value #{letter}": name for letter, name in zip(string.ascii_uppercase, panel.queries, strict=False)}
    hidden = {"Time": True, "Value": "" in panel.queries}
    columns = {"excludeByName": hidden, "renameByName": names, "indexByName": {}}
    steps = [("merge", {}), ("organize", columns)]
    transformations = [model.DataTransformerConfig(id_val=name, options=options) for name, options in steps]
    return table.Panel().no_value("none").transformations(transformations).build()


KINDS = {"lines": lines, "heatmap": cells, "stat": state, "table": rows}


def built(panel: Panel, number: int, x: int, y: int) -> model.Panel:
    """Return the panel in Grafana's form."""
    out = KINDS[panel.kind](panel)
    out.id_val, out.title, out.description, out.datasource = number, panel.title, panel.description, SOURCE
    out.grid_pos = model.GridPos(h=HEIGHT, w=panel.width, x=x, y=y)
    out.targets = list(targets(panel))
    assert out.field_config is not None
    out.field_config.defaults.unit = panel.unit
    if panel.limits:
        steps = [model.Threshold(value=value, color=color) for value, color in panel.limits.items()]
        out.field_config.defaults.thresholds = model.ThresholdsConfig(steps=steps)
    return out


def laid_out() -> Iterator[model.Panel | model.RowPanel]:
    """Yield all rows and their panels, from left to right, each line as high as its panels."""
    number = y = 0
    for title, panels in ROWS.items():
        number += 1
        yield model.RowPanel(title=title, id_val=number, grid_pos=model.GridPos(h=1, w=COLUMNS, x=0, y=y))
        y, x = y + 1, 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                y, x = y + HEIGHT, 0
            number += 1
            yield built(panel, number, x, y)
            x += panel.width
        y += HEIGHT


def variable(name: str, metric: str, *, many: bool = True) -> model.VariableModel:
    """Return a variable with the values of the label of its name; hidden unless it may have ``many`` at a time."""
    every = model.VariableOption(text=["All"], value=["$__all"])
    return model.VariableModel(
        type_val=model.VariableType.QUERY,
        name=name,
        hide=model.VariableHide.DONT_HIDE if many else model.VariableHide.HIDE_VARIABLE,
        query={"query": f"label_values({metric}, {name})", "refId": name},
        datasource=SOURCE,
        refresh=model.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=model.VariableSort.ALPHABETICAL_ASC,
        multi=many,
        include_all=many,
        # Alerts on absent metrics have no instance, and metrics of a single variant no variant: this finds them too.
        all_value=".*" if many else None,
        current=every if many else model.VariableOption(text="qconf", value="qconf"),
    )


def variables() -> list[model.VariableModel]:
    """Return the variables at the top; a job other than qconf is chosen in the address, by ?var-job=."""
    source = model.VariableModel(
        type_val=model.VariableType.DATASOURCE,
        name="datasource",
        label="data source",
        query="prometheus",
        current=model.VariableOption(text="Prometheus", value="prometheus"),
    )
    return [
        source,
        variable("job", "qconf_build_info", many=False),
        variable("instance", 'qconf_build_info{job="$job"}'),
        variable("variant", f"qconf_comparisons_total{ALL}"),
        variable("model", f"qconf_token_confidence_count{ALL}"),
    ]


def dashboard_json() -> str:
    """Return the dashboard as Grafana reads it."""
    alerts = model.AnnotationQuery(
        name="alerts", datasource=SOURCE, icon_color="red", expr=ALERTS,
        title_format="{{alertname}}", text_format="{{instance}} {{variant}}", tag_keys="severity",
    )  # fmt: skip
    out = model.Dashboard(
        uid="qconf",
        title="qconf",
        description="A language model and its quantized variants: the service, their confidence, and how it changes.",
        tags=["qconf"],
        time=model.DashboardDashboardTime(from_val="now-6h", to="now"),
        refresh="30s",
        graph_tooltip=model.DashboardCursorSync.CROSSHAIR,
        schema_version=SCHEMA,
        panels=list(laid_out()),
        templating=model.DashboardDashboardTemplating(list_val=variables()),
        annotations=model.AnnotationContainer(list_val=[alerts]),
    )
    return json.dumps(out, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OUT.write_text(dashboard_json(), encoding="utf-8")
