"""The tables of a noise floor, of all items and of each corpus."""

from eval.analysis.floor import Floor, ItemFloor
from eval.analysis.token_floor import TokenFloor
from eval.report.format import bracket, fine, signed
from eval.report.grid import Grid

# Statistic, heading, and whether it is a share, shown in percent.
FLOOR_HEAD = ("base twice", "quantized twice", "base to quantized, over the floor")
ITEM_FLOOR = (
    ("flips", "flips", True),
    ("confidence_shift", "confidence in the true choice, |Δ|", True),
    ("kl", "KL of choices, nats", False),
    ("js", "JS of choices, nats", False),
    ("accuracy", "accuracy, Δ", True),
    ("true_confidence", "in the true choice, Δ", True),
    ("confidence", "confidence, Δ", True),
)
TOKEN_FLOOR = (
    ("top_changed", "other likeliest token", True),
    ("abs_delta_p", "Δp of the token, |Δ|", True),
    ("abs_delta_logprob", "its log-probability, |Δ|", False),
    ("token_kl", "KL of its coming next, nats", False),
    ("kl", "KL, nats: at most", False),
)


def floor_tables(floor: Floor) -> list[Grid]:
    """Return the floor of all items, and the floor of each corpus."""
    head = ["", *FLOOR_HEAD]
    tables = (
        [Grid("Noise floor of the items, shares in percent.", head, floor_rows(floor.overall))] if floor.overall else []
    )
    return tables + [
        Grid(f"Noise floor of {name}, {each.tokens} tokens at their places, shares in percent.", head, floor_rows(each))
        for name, each in floor.corpora.items()
    ]


def floor_rows(floor: ItemFloor | TokenFloor) -> list[list[str]]:
    """Return for each statistic the floor of either model and the excess, each with its interval, below FLOOR_HEAD."""
    rows = []
    for name, heading, share in ITEM_FLOOR if isinstance(floor, ItemFloor) else TOKEN_FLOOR:
        show = fine if name in floor.excess else signed
        row = [heading]
        for part in (floor.base, floor.quantized, floor.excess):
            row.append(f"{show(part[name].point, share)} {bracket(part[name], share, show)}" if name in part else "-")
        rows.append(row)
    if isinstance(floor, TokenFloor):
        change = f"{fine(floor.kl_change.point, False)} {bracket(floor.kl_change, False, fine)}"
        rows.append(["KL(base ‖ quantized), |change|", change, "", "-"])
    return rows
