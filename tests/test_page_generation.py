"""Answers that the page generates, in a real browser on a real server."""

from typing import Any

from playwright.sync_api import Browser, Page, expect

from client import Client
from tests.browser import needs_chromium, watched

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


def opened(browser: Browser, url: str) -> tuple[Page, Any]:
    """Open a link; return the page, and the request that it sends."""
    other = browser.new_page()
    problems = watched(other)
    with other.expect_request("**/compare") as request:
        other.goto(url)
    expect(other.locator("#prompt-result")).to_be_visible()
    assert problems == []
    return other, request.value.post_data_json


def test_texts_that_end_answers(page: Page, browser: Browser) -> None:
    generate(page)
    whole = "".join(texts(page, 0))
    stops = ["\n\\", whole[-9:-4]]
    for number, text in enumerate(["\\n\\\\", stops[1]]):
        page.click("#add-stop")
        page.locator("#stops input").nth(number).fill(text)
    with page.expect_request("**/compare") as request:
        page.click("#compare")
    assert (request.value.post_data_json or {})["stop"] == stops
    expect(page.locator("#answers")).to_contain_text("tokens, ended, mean KL")
    assert len("".join(texts(page, 0))) < len(whole)
    other, sent = opened(browser, page.url)
    assert sent["stop"] == stops
    assert [each.input_value() for each in other.locator("#stops input").all()] == ["\\n\\\\", stops[1]]
    other.locator("#stops .remove").first.click()
    with other.expect_request("**/compare") as request:
        other.click("#compare")
    assert (request.value.post_data_json or {})["stop"] == stops[1:]
    other.close()


def test_an_answer_goes_on_after_the_end_of_text(page: Page, browser: Browser) -> None:
    page.fill("#prompt", PROMPT)
    page.select_option("#generate-from", "base")
    page.fill("#max-tokens", "120")
    page.click("#compare")
    expect(page.locator("#answers")).to_contain_text("tokens, ended, mean KL")
    ended = len(texts(page, 0))
    page.check("#ignore-eos")
    page.click("#compare")
    expect(page.locator("#answers")).to_contain_text("120 tokens, cut at its limit")
    assert ended < 120
    other, sent = opened(browser, page.url)
    assert sent["ignore_eos"] is True
    assert other.is_checked("#ignore-eos")
    assert texts(other, 0) == texts(page, 0)
    other.close()


def test_an_answer_goes_on_with_the_last_message(page: Page, browser: Browser) -> None:
    page.check("[value=chat]", force=True)
    page.click("#add-message")
    page.locator("#messages select").nth(1).select_option("assistant")
    for number, text in enumerate(("What is a cup made of?", "It is made of")):
        page.locator("#messages textarea").nth(number).fill(text)
    page.check("#continue-final")
    page.select_option("#generate-from", "base")
    page.fill("#max-tokens", "4")
    page.click("#compare")
    expect(page.locator("#prompt-result")).to_be_visible()
    prompt = page.locator("#prompt-tokens .token").evaluate_all("all => all.map((each) => each.textContent).join('')")
    assert prompt.endswith("It is made of")
    other, sent = opened(browser, page.url)
    assert sent["continue_final_message"] is True
    assert other.is_checked("#continue-final")
    assert texts(other, 0) == texts(page, 0)
    other.check("[value=text]", force=True)
    other.fill("#prompt", PROMPT)
    with other.expect_request("**/compare") as request:
        other.click("#compare")
    assert "continue_final_message" not in (request.value.post_data_json or {})
    other.close()
