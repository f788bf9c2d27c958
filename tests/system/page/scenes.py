"""What a person does with the page, and what they must see. Each scene has a server of its own over a fake base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgelora.server.http.options import ServerOptions
from edgelora.store.keys.store import KeyStore
from tests.support.server import TEST_OPTIONS, RunningServer, serving
from tests.support.service import FakeService, Turnstile
from tests.system.page.stage import NARROW, Stage

ADAPTERS = {
    "medical-faq": "Hypertension is blood pressure that stays too high. <b>This is no medical advice.</b>",
    "pirate": "Arr, that be blood pressin' too hard, matey!",
    "sql": "SELECT meaning FROM words WHERE word = 'hypertension';",
}
QUESTION = "What is hypertension?"


@contextmanager
def server(folder: Path, options: ServerOptions = TEST_OPTIONS) -> Iterator[tuple[FakeService, RunningServer]]:
    folder.mkdir()
    with FakeService(folder, adapters=ADAPTERS) as service, serving(service, options) as running:
        yield service, running


def ask(page: Any, text: str = QUESTION) -> None:
    """As soon as there is somebody to ask."""
    page.locator(".column").first.wait_for()
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def answered(page: Any, count: int = 1) -> None:
    """Until so many answers are complete."""
    for number in range(count):
        page.locator(".message:not(.user) .facts").nth(number).wait_for()
    page.locator(".busy").first.wait_for(state="detached")


def check(page: Any, selector: str, text: str) -> None:
    page.locator(selector).filter(has_text=text).first.wait_for()


def chat(stage: Stage, folder: Path) -> None:
    """An adapter is chosen, asked twice, answers as it streams, and what it said is text, never markup."""
    with server(folder) as (service, running), stage.page(running) as page:
        page.select_option(".column select", "medical-faq")
        ask(page)
        answered(page)
        check(page, ".message .text", ADAPTERS["medical-faq"])
        assert page.locator(".message b").count() == 0
        check(page, ".facts", "tokens")
        check(page, "#resident li", "medical-faq")
        page.click("summary")
        page.fill("#system", "Be brief.")
        ask(page, "And then?")
        answered(page, 2)
        assert len(service.prompts[1]) > len(service.prompts[0]) + len("Be brief.")
        assert page.locator("#prompt").input_value() == ""
        stage.shoot(page, "chat-light")


def side_by_side(stage: Stage, folder: Path) -> None:
    """The same prompt goes to three models at once, each answers in its column, and each can be removed."""
    with server(folder) as (service, running), stage.page(running, dark=True) as page:
        for _ in range(2):
            page.click("#add")
        assert page.locator("#add").is_disabled() and page.locator(".column").count() == 3
        service.pin("sql")
        ask(page)
        answered(page, 3)
        for number, answer in enumerate(ADAPTERS.values()):
            assert answer in page.locator(".column").nth(number).inner_text()
        check(page, "#resident li", "pinned")
        stage.shoot(page, "side-by-side-dark")
        page.locator(".remove").first.click()
        assert page.locator(".column").count() == 2 and page.locator("#add").is_enabled()


def stop(stage: Stage, folder: Path) -> None:
    """Escape ends the answers that run, what came of them stays, and the server stops computing."""
    with server(folder) as (service, running), stage.page(running, failures=("ERR_",)) as page:
        gate = service.backend.step_gate = Turnstile(permits=6)
        try:
            ask(page)
            page.locator(".busy .facts").wait_for()
            stage.shoot(page, "streaming-light")
            page.keyboard.press("Escape")
            check(page, ".facts", "stopped")
            assert service.engine.cancelled.wait(20)
        finally:
            gate.open()
        assert page.locator("#send").is_enabled() and page.locator("#stop").is_disabled()
        ask(page, "Again?")
        answered(page, 2)


def keyboard(stage: Stage, folder: Path) -> None:
    """Everything is reached with Tab in an order that makes sense; Shift+Enter starts a line and does not send."""
    with server(folder) as (service, running), stage.page(running) as page:
        page.locator(".column").wait_for()
        seen = []
        for _ in range(8):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            seen.append(focused.get_attribute("id") or focused.get_attribute("class") or focused.get_attribute("href"))
        assert seen[:6] == ["skip", "add", "clear", None, "log", "prompt"], seen
        assert "send" in seen
        page.focus("#prompt")
        page.keyboard.type("one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        assert page.locator("#prompt").input_value() == "one\ntwo" and not service.prompts
        named = page.get_by_role("textbox", name="Your message")
        assert named.count() == 1 and page.get_by_role("combobox", name="Answered by").count() == 1
        assert page.get_by_role("log", name="Conversation with medical-faq").count() == 1


def small_screen(stage: Stage, folder: Path) -> None:
    """On a telephone nothing is wider than the screen, and the columns stand below each other."""
    with server(folder) as (_, running), stage.page(running, size=NARROW) as page:
        page.click("#add")
        ask(page)
        answered(page, 2)
        boxes = [page.locator(".column").nth(number).bounding_box() for number in range(2)]
        assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"] - 1
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= NARROW[0] for box in boxes)
        assert page.locator("body").bounding_box()["width"] <= NARROW[0]
        stage.shoot(page, "narrow-light", whole=True)


def key(stage: Stage, folder: Path) -> None:
    """A server with a key asks for it, a wrong one is told so, and a reload of the tab still has the right one."""
    options = replace(TEST_OPTIONS, api_key="s3cret")
    with server(folder, options) as (_, running), stage.page(running, failures=("401",)) as page:
        page.locator("#ask-key").wait_for()
        stage.shoot(page, "key-light")
        page.fill("#secret", "wrong")
        page.keyboard.press("Enter")
        check(page, "#ask-key", "does not take that key")
        page.fill("#secret", "s3cret")
        page.keyboard.press("Enter")
        page.locator(".column").wait_for()
        ask(page)
        answered(page)
        page.reload()
        page.locator(".column").wait_for()
        assert not page.locator("#ask-key").is_visible() and not page.locator("#alert").is_visible()


def key_for_some(stage: Stage, folder: Path) -> None:
    """With a key to some adapters those are there and can be asked; what tells of all says that it is not for it."""
    secrets = folder.with_name(f"{folder.name}-secrets")
    _, secret = KeyStore(secrets).add("clinic", adapters=("medical-*",), base=False)
    options = replace(TEST_OPTIONS, secrets=secrets)
    with server(folder, options) as (_, running), stage.page(running, failures=("401", "403")) as page:
        page.fill("#secret", secret)
        page.keyboard.press("Enter")
        page.locator(".column").wait_for()
        assert page.locator(".column option").all_inner_texts() == ["medical-faq"]
        check(page, "#pool", "may use only some")
        ask(page)
        answered(page)
        assert not page.locator("#alert").is_visible()


def refusals(stage: Stage, folder: Path) -> None:
    """What the server refuses, or breaks off, is said in its words, and the next question works."""
    with server(folder) as (service, running), stage.page(running, failures=("400", "500")) as page:
        ask(page, "x" * 100_000)
        check(page, ".bad", "The prompt has")
        service.backend.fail_steps = {len(service.backend.history) + 4}
        ask(page)
        check(page, ".message:nth-child(4) .bad", "step")
        stage.shoot(page, "errors-light")
        ask(page)
        answered(page)


def gone(stage: Stage, folder: Path) -> None:
    """A server that was stopped is told as that, in the page and to the question."""
    with ExitStack() as lives, ExitStack() as shown:
        _, running = lives.enter_context(server(folder))
        page = shown.enter_context(stage.page(running, dark=True, failures=("ERR_",)))
        page.locator(".column").wait_for()
        lives.close()
        check(page, "#alert", "The server does not answer")
        ask(page)
        check(page, ".bad", "The server does not answer")
        stage.shoot(page, "gone-dark")


SCENES: tuple[Callable[[Stage, Path], None], ...] = (
    chat,
    side_by_side,
    stop,
    keyboard,
    small_screen,
    key,
    key_for_some,
    refusals,
    gone,
)
