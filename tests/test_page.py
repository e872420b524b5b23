"""The page in a real browser, on a real server: what it draws is compared with the API's answers."""

import base64
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from client import Client, Comparison, TokenComparison
from eval.report.links import page_link
from tests.browser import PATIENCE_MS, needs_chromium, watched

pytestmark = needs_chromium

QUESTION = "Question: What is a cup made of?\nAnswer:"
CHOICES = [" clay", " wax", " glass"]
FLIPPING = (
    "Anna from Arnwick wanted to open a little shop. She practised hard every single day. On that morning she woke "
    "up too late. In the end she"
)
FLIPPED = [
    " closed the shop after a month and did not want to talk about it",
    " had many guests on the first day and told everybody about it",
]
BLUE, ORANGE, VIOLET = (0, 114, 178), (213, 94, 0), (120, 88, 190)
STRENGTH = 0.72
"""Opacity of the strongest colour of the light theme."""


@pytest.fixture
def qconf(server_url: str) -> Iterator[Client]:
    with Client(server_url) as client:
        yield client


def tokens(page: Page) -> Locator:
    return page.locator("#prompt-tokens .token")


def compare(page: Page, prompt: str, choices: list[str] | None = None) -> None:
    page.fill("#prompt", prompt)
    for number, text in enumerate(choices or []):
        page.click("#add-choice")
        page.locator("#choices [type=text]").nth(number).fill(text)
    page.keyboard.press("Control+Enter")
    expect(tokens(page).first).to_be_visible()


def written(value: float) -> str:
    """A probability as the page writes it."""
    return "<0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def change(scores: TokenComparison, column: str) -> list[float | None]:
    pairs = zip(getattr(scores.base, column), getattr(scores.quantized, column), strict=True)
    return [None if base is None else quantized - base for base, quantized in pairs]


def values(scores: TokenComparison, quantity: str) -> list[float | None]:
    if quantity in ("logprob", "confidence"):
        return change(scores, {"logprob": "logprobs"}.get(quantity, quantity))
    model, _, column = quantity.partition("_")
    found: list[float | None] = getattr(getattr(scores, model), column) if column else scores.kl
    return found


def colours(page: Page, selector: str) -> list[tuple[tuple[int, ...], float]]:
    """Red, green and blue, and opacity, of each element's background."""
    found = page.eval_on_selector_all(selector, "all => all.map((each) => getComputedStyle(each).backgroundColor)")
    parts = [[float(part) for part in re.findall(r"[\d.]+", each)] for each in found]
    return [(tuple(int(part) for part in each[:3]), each[3] if len(each) > 3 else 1.0) for each in parts]


def limit(page: Page) -> float:
    """The value at the end of the scale, as the axis names it."""
    (number,) = re.findall(r"≥ ([\d.]+)", page.locator("#axis span").last.inner_text())
    return float(number)


@pytest.mark.parametrize(
    ("quantity", "below", "above"),
    [
        ("kl", VIOLET, VIOLET),
        ("logprob", BLUE, ORANGE),
        ("confidence", BLUE, ORANGE),
        ("base_entropy", BLUE, BLUE),
        ("quantized_entropy", ORANGE, ORANGE),
    ],
)
def test_colours_are_the_apis_numbers(
    page: Page, qconf: Client, quantity: str, below: tuple[int, ...], above: tuple[int, ...]
) -> None:
    compare(page, FLIPPING)
    page.check(f"#quantity-{quantity}", force=True)
    scores = qconf.compare(prompt=FLIPPING).prompt
    assert scores is not None
    assert tokens(page).all_inner_texts()[1:] == scores.tokens[1:]
    end = limit(page)
    expected = values(scores, quantity)
    known = [abs(value) for value in expected if value is not None]
    assert sum(value <= end for value in known) >= 0.95 * len(known)
    root = not quantity.endswith("entropy")
    assert max(known) > end / 10
    for (colour, opacity), value in zip(colours(page, "#prompt-tokens .token"), expected, strict=True):
        share = min(1, abs(value or 0) / end)
        # The page keeps three digits of the level.
        assert opacity == pytest.approx(STRENGTH * (math.sqrt(share) if root else share), abs=0.006)
        if value and opacity:
            assert colour == (above if value > 0 else below)


def test_pointing_at_a_token_shows_what_both_models_say(page: Page, qconf: Client) -> None:
    compare(page, QUESTION)
    scores = qconf.compare(prompt=QUESTION, top_logprobs=10).prompt
    assert scores is not None
    place = scores.tokens.index(" cup")
    base, quantized = scores.base.logprobs[place], scores.quantized.logprobs[place]
    top, other = (model.top and model.top[place] for model in (scores.base, scores.quantized))
    assert base is not None
    assert quantized is not None
    assert top
    assert other
    tokens(page).nth(place).hover()
    inspector = page.locator("#inspector")
    expect(inspector.locator(".token-name")).to_have_text("·cup")
    cells = inspector.locator("tbody tr").first.locator("td").all_inner_texts()
    assert cells[:2] == [written(math.exp(base)), written(math.exp(quantized))]
    rows = inspector.locator(".alternatives button")
    ids = [int(each.get_attribute("data-id") or -1) for each in rows.all()]
    assert set(ids) == {*top.token_ids, *other.token_ids}
    for row, token in zip(rows.all(), ids, strict=True):
        for name, likeliest in (("base", top), ("quantized", other)):
            if token in likeliest.token_ids:
                probability = math.exp(likeliest.logprobs[likeliest.token_ids.index(token)])
                assert row.locator(f".number.{name}").inner_text() == written(probability)
                width = row.locator(f".bar.{name}").evaluate("(bar) => bar.style.width")
                assert float(width.rstrip("%")) == pytest.approx(100 * probability, abs=0.01)
    tokens(page).first.hover()
    expect(inspector).to_contain_text("Nothing predicts the first token")


def test_choices_are_paired_bars_and_a_flip_is_a_sentence(page: Page, qconf: Client) -> None:
    compare(page, FLIPPING, FLIPPED)
    reply = qconf.compare(prompt=FLIPPING, continuations=FLIPPED)
    assert reply.continuations
    assert reply.choice
    assert reply.choice.flip
    first, second = (text.strip() for text in FLIPPED)
    expect(page.locator("#flip")).to_have_text(
        f"The answer flips: the base chooses “{second}”, the quantized model “{first}”."
    )
    for row, choice in zip(page.locator("#choice-rows li").all(), reply.continuations, strict=True):
        for name, model in (("base", choice.base), ("quantized", choice.quantized)):
            assert row.locator(f".number.{name}").inner_text() == written(model.confidence)
            width = row.locator(f".bar.{name}").evaluate("(bar) => bar.style.width")
            assert float(width.rstrip("%")) == pytest.approx(100 * model.confidence, abs=0.01)
    marks = [row.locator(".mark").all_inner_texts() for row in page.locator("#choice-rows li").all()]
    assert marks == [["quantized"], ["base"]]


def test_what_models_and_users_say_stays_text(page: Page) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>é\n\n\ta   b"
    compare(page, hostile, [" <b>bold</b>", " <i>italic</i>"])
    texts = tokens(page).evaluate_all("all => all.slice(1).map((each) => each.textContent).join('')")
    assert texts == hostile.replace("é", "��")  # the demo's tokenizer has no token for é, but two bytes
    assert page.locator("main img, main b, main i, main script").count() == 0
    expect(page.locator("#flip")).to_contain_text("bold</b>")
    assert page.evaluate("document.title") == "qconf"


def test_bars_of_the_histogram_select_their_tokens(page: Page, qconf: Client) -> None:
    compare(page, FLIPPING)
    scores = qconf.compare(prompt=FLIPPING).prompt
    assert scores is not None
    counts = {}
    for bar in page.locator("#histogram button:enabled").all():
        bar.click()
        (counts[bar.get_attribute("data-bar")],) = re.findall(r"(\d+) tokens?$", bar.get_attribute("title") or "")
        expect(bar).to_have_attribute("aria-pressed", "true")
        expect(page.locator(".token.selected")).to_have_count(sum(map(int, counts.values())))
    assert sum(map(int, counts.values())) == len(scores.tokens) - 1
    strongest = max(range(1, len(scores.kl)), key=lambda index: scores.kl[index] or 0)
    for bar in page.locator("#histogram button:enabled").all()[:-1]:
        bar.click()
    expect(tokens(page).nth(strongest)).to_have_class(re.compile("selected"))
    expect(page.locator("#selection")).to_have_text(re.compile(r"\d+ tokens? selected"))


def test_the_keyboard_reaches_every_token(page: Page) -> None:
    compare(page, QUESTION)
    tokens(page).first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(tokens(page).nth(4)).to_be_focused()
    expect(page.locator(".token-name")).to_have_text("·is")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.index") == "12"  # the nearest of the second line
    expect(page.locator(".token-name")).to_have_text("·is")
    page.keyboard.press("Escape")
    page.keyboard.press("Home")
    expect(page.locator("#inspector")).to_contain_text("token 1 of 13")
    assert tokens(page).first.get_attribute("aria-label") == "<s>, KL \N{EN DASH} nats"


def test_a_link_shows_the_same_view(page: Page, browser: Browser) -> None:
    compare(page, FLIPPING, FLIPPED)
    page.check("#quantity-logprob", force=True)
    page.locator("#histogram button:enabled").first.click()
    tokens(page).nth(5).click()
    assert FLIPPED[0].strip() not in page.url
    # Which token has had the focus is not part of a view.
    look = "document.querySelector('#result').innerHTML.replaceAll(/ (tabindex|aria-label)=.[^\"]*./g, '')"
    shown = page.evaluate(look)
    with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
        context.set_default_timeout(PATIENCE_MS)
        other = context.new_page()
        requests: list[str] = []
        other.on("request", lambda request: requests.append(request.url))
        other.goto(page.url)
        expect(other.locator(".token.pinned")).to_have_count(1)
        assert other.evaluate(look) == shown
        assert other.locator("#inspector").inner_text() == page.locator("#inspector").inner_text()
        assert other.input_value("#prompt") == FLIPPING
        assert other.url == page.url
        assert not [url for url in requests if "#" in url]


def test_a_damaged_link_is_an_empty_page(page: Page, server_url: str) -> None:
    page.goto("about:blank")
    page.goto(f"{server_url}/#nothing")
    expect(page.get_by_role("button", name="A text")).to_be_visible()
    expect(page.locator("#result")).to_be_hidden()
    request = base64.urlsafe_b64encode(b'{"request": {"messages": [null]}}').decode().rstrip("=")
    page.goto(f"{server_url}/#{request}")
    expect(page.locator("#error")).to_have_text("The link does not hold a request of this page.")


def test_curl_and_python_ask_the_same(page: Page, qconf: Client) -> None:
    compare(page, "It's 5 o'clock: \"<tea>\" é\nAnswer:", CHOICES)
    page.click("#code summary")
    reply = qconf.compare(prompt="It's 5 o'clock: \"<tea>\" é\nAnswer:", continuations=CHOICES)
    done = subprocess.run(["bash", "-c", page.inner_text("#curl")], capture_output=True, check=True, timeout=60)
    assert Comparison.model_validate_json(done.stdout).summary == reply.summary
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("[data-copies=python]")
    expect(page.locator("[data-copies=python]")).to_have_text("Copied")
    program = [sys.executable, "-c", page.evaluate("navigator.clipboard.readText()")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(program, capture_output=True, check=True, timeout=60, env=environment)
    assert done.stdout.decode().strip() == str(reply.summary)


@pytest.mark.parametrize(
    ("field", "value", "message", "wrong"),
    [
        ("#temperature", "warm", "Temperature is “warm”, expected a number.", "#temperature"),
        ("#temperature", "-1", "'temperature': input should be greater than or equal to 0, got -1", "#temperature"),
        ("#max-tokens", "1.5", "'max_tokens': input should be a valid integer", "#max-tokens"),
        ("#prompt", "word " * 2000, "expected at most 1024 together", "#max-tokens"),
    ],
)
def test_errors_are_sentences_at_their_field(
    browser: Browser, server_url: str, field: str, value: str, message: str, wrong: str
) -> None:
    # The console reports every reply with an error's status.
    page = browser.new_page()
    page.goto(server_url)
    page.fill("#prompt", QUESTION)
    page.select_option("#generate-from", "both")
    page.fill(field, value)
    page.click("#compare")
    expect(page.locator("#error")).to_contain_text(message)
    assert page.inner_text("#error").endswith(".")
    expect(page.locator(wrong)).to_have_attribute("aria-invalid", "true")
    page.fill(wrong, "1")
    expect(page.locator("#error")).to_be_hidden()
    page.close()


def test_a_server_that_is_gone_is_a_sentence(browser: Browser, server_url: str) -> None:
    page = browser.new_page()
    page.goto(server_url)
    page.context.set_offline(True)
    page.fill("#prompt", QUESTION)
    page.click("#compare")
    expect(page.locator("#error")).to_have_text("The server cannot be reached. Is it still running?")
    page.close()


def test_a_chat_is_scored_as_its_template_writes_it(page: Page, qconf: Client) -> None:
    page.check("[value=chat]", force=True)
    page.locator("#messages textarea").fill("What is a cup made of?")
    page.click("#compare")
    scores = qconf.compare(messages=[{"role": "user", "content": "What is a cup made of?"}]).prompt
    assert scores is not None
    expect(tokens(page)).to_have_count(len(scores.tokens))
    assert tokens(page).evaluate_all("all => all.map((each) => each.textContent)") == scores.tokens


def test_the_strip_shows_the_last_minutes(page: Page, server_url: str) -> None:
    compare(page, QUESTION, CHOICES)
    expect(page.locator("#recent div").nth(3)).to_contain_text("%")
    recent = httpx.get(f"{server_url}/page/recent").json()
    kl = float(page.locator("#recent dd").nth(2).inner_text())
    assert kl == pytest.approx(recent["variants"]["quantized"]["mean_kl"], rel=0.01)
    assert recent["requests"] >= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1440])
def test_the_page_fits_its_window(browser: Browser, server_url: str, width: int, scheme: Any) -> None:
    with browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(server_url)
        page.get_by_role("button", name="A question with choices").click()
        tokens(page).nth(3).click()
        expect(page.locator("#inspector .alternatives")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ink, paper = (
            sum(map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.documentElement).{name}"))))
            for name in ("color", "backgroundColor")
        )
        assert (ink > paper) == (scheme == "dark")
        assert abs(ink - paper) > 500  # of 765


def test_only_the_pages_own_files_may_run(server_url: str) -> None:
    for path in ("/", "/page/main.js", "/page/page.css"):
        reply = httpx.get(server_url + path)
        assert reply.status_code == 200
        policy = dict(each.strip().split(" ", 1) for each in reply.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
        assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    for path in ("/page/routes.py", "/page/../routes.py", "/page/%2e%2e/routes.py", "/page/nothing.js"):
        assert httpx.get(server_url + path).status_code == 404


def test_a_link_of_a_report_opens_an_item_token_by_token(browser: Browser, server_url: str) -> None:
    request: Any = {"prompt": FLIPPING, "continuations": FLIPPED, "label": 0}
    with browser.new_context() as context:
        page = context.new_page()
        problems = watched(page)
        page.goto(page_link(server_url, request, "quantized"))
        expect(tokens(page).first).to_be_visible()
        expect(page.locator("#prompt")).to_have_value(FLIPPING)
        expect(page.locator("#flip")).to_contain_text("The answer flips")
        assert problems == []
