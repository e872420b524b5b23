"""Answers that the page generates, in a real browser on a real server."""

from typing import Any

from playwright.sync_api import Page, expect

from client import Client
from tests.browser import needs_chromium

pytestmark = needs_chromium

PROMPT = "Passage:"


def texts(page: Page, answer: int) -> list[str]:
    """The tokens of an answer, as they are drawn."""
    found: list[str] = (
        page.locator("#answers section")
        .nth(answer)
        .locator(".token")
        .evaluate_all("all => all.map((each) => each.textContent)")
    )
    return found


def generate(page: Page, prompt: str = PROMPT) -> None:
    page.fill("#prompt", prompt)
    page.select_option("#generate-from", "both")
    for field, value in (("#max-tokens", "24"), ("#temperature", "0.8"), ("#seed", "1")):
        page.fill(field, value)
    page.click("#compare")
    expect(page.locator("#prompt-result")).to_be_visible()


def test_both_answers_are_side_by_side_with_their_fork(page: Page, server_url: str) -> None:
    generate(page)
    with Client(server_url) as qconf:
        answers = qconf.compare(prompt=PROMPT, max_tokens=24, temperature=0.8, seed=1).generation
    assert answers
    assert answers.base
    assert answers.quantized
    assert answers.fork
    for number, answer in enumerate((answers.base, answers.quantized)):
        assert answer.scores is not None
        assert texts(page, number) == answer.scores.tokens
        place = page.locator("#answers section").nth(number).locator(".token.fork").get_attribute("data-index")
        assert place == str(answers.fork.index)
    left, right = (page.locator("#answers section").nth(number).bounding_box() for number in (0, 1))
    assert left
    assert right
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]
    base = answers.fork.tokens.base.strip()
    expect(page.locator("#fork")).to_contain_text(f"After {answers.common_prefix} tokens alike the answers part")
    expect(page.locator("#fork")).to_contain_text(f"the base goes on with “{base}”")


def test_models_go_on_from_an_alternative(page: Page, server_url: str) -> None:
    generate(page)
    kept = texts(page, 0)[:3]
    page.locator("#answers section").first.locator(".token").nth(3).click()
    alternative = page.locator(".alternatives button:not(.actual)").first
    chosen = int(alternative.get_attribute("data-id") or -1)
    with page.expect_request("**/compare") as request:
        alternative.click()
    body: dict[str, Any] = request.value.post_data_json or {}
    with Client(server_url) as qconf:
        prompt = qconf.compare(prompt=PROMPT).prompt
        answers = qconf.compare(prompt=body["prompt"], max_tokens=24, temperature=0.8, seed=1).generation
    assert prompt
    assert answers
    assert answers.base
    assert answers.base.scores
    assert body["prompt"][: len(prompt.token_ids)] == prompt.token_ids
    assert len(body["prompt"]) == len(prompt.token_ids) + 4
    assert body["prompt"][-1] == chosen
    expect(page.locator("#prompt-tokens .token")).to_have_count(len(body["prompt"]))
    assert texts(page, 0) == answers.base.scores.tokens
    assert page.input_value("#prompt").startswith(PROMPT + "".join(kept))
    expect(page.locator("#as-ids")).to_have_text(f"Sent as {len(body['prompt'])} token ids until you edit the text.")
    page.fill("#prompt", "Another text")
    expect(page.locator("#as-ids")).to_be_hidden()
    with page.expect_request("**/compare") as request:
        page.click("#compare")
    assert (request.value.post_data_json or {})["prompt"] == "Another text"
    expect(page.locator("#status")).to_contain_text("generated in")


def test_answers_grow_token_by_token(page: Page) -> None:
    # The drawn tokens are noted as they come: the page draws all of them again at the end.
    page.evaluate("""() => {
        window.counts = [];
        const note = () => window.counts.push(document.querySelectorAll("#answers .token").length);
        new MutationObserver(note).observe(document.querySelector("#answers"), {childList: true, subtree: true});
    }""")
    generate(page)
    counts = page.evaluate("window.counts")
    assert len(set(counts)) > 3
    assert counts[0] < max(counts)


def test_an_answer_can_be_stopped(page: Page) -> None:
    page.fill("#prompt", PROMPT)
    page.select_option("#generate-from", "both")
    page.fill("#max-tokens", "900")
    page.fill("#temperature", "2")
    # An answer of the demo pair may be over before this process has seen its first token.
    page.evaluate("""() => {
        const stop = () => document.querySelector("#answers .token") && document.querySelector("#stop").click();
        new MutationObserver(stop).observe(document.querySelector("#answers"), {childList: true, subtree: true});
    }""")
    page.click("#compare")
    expect(page.locator("#status")).to_have_text("Stopped.")
    expect(page.locator("#stop")).to_be_hidden()
    assert page.locator("#answers .token").count() > 0
