"""Drives the page at / with Chromium the way a person would; run by tests/page.rs.

home.py URL ONLY_FAQ SMALL [FOLDER] : URL serves photos and the FAQ with --admin, ONLY_FAQ the FAQ alone, SMALL has one seat
for photos. Exits 0 when all is seen that should be; FOLDER gets screenshots.
"""

import base64
import io
import pathlib
import socket
import sys
import tempfile
import time
import urllib.parse

import requests
from PIL import Image
from playwright.sync_api import expect

import browser

QUESTION = "remove one item from a list"
FOREIGN = "How long do I boil an egg?"


def photo(index):
    image = Image.new("RGB", (320, 240))
    image.putdata([((x * (index + 1)) % 256, (y * 3 + index * 40) % 256, (x * y) % 256) for y in range(240) for x in range(320)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def best(url, data):
    """What the server says of it without a browser: the best label's first name."""
    label = requests.post(url + "/classify", data=data).json()["predictions"][0]["label"]
    return label.split(" ", 1)[1].split(", ")[0]


def drop(page, path):
    """A drag from outside the browser, let go over the page."""
    page.locator("#drop").scroll_into_view_if_needed()
    box = page.locator("#drop").bounding_box()
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})
    session.detach()


PASTE = """async (base64) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  await navigator.clipboard.write([new ClipboardItem({"image/png": new Blob([bytes], {type: "image/png"})})]);
}"""


def photos(page, url, folder):
    for index, give in enumerate(("drop", "choose", "paste")):
        data = photo(index)
        path = folder / f"{give}.png"
        path.write_bytes(data)
        if give == "drop":
            drop(page, path)
        elif give == "choose":
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="Choose").click()
            chooser.value.set_files(path)
        else:
            page.evaluate(PASTE, base64.b64encode(data).decode())
            page.keyboard.press("Control+V")
        first = page.locator("#photo-answer li").first
        expected = best(url, data)
        browser.wait_for_text(first, expected)
        assert "%" in first.inner_text(), first.inner_text()
        assert page.locator("#preview").is_visible(), give
        browser.wait_for_text(page.locator("#spoken"), expected)
    assert page.locator("#photo-answer li").count() == 5
    timing = page.locator("#photo-answer .stages").inner_text()
    assert "Model" in timing and "Decoding" in timing and " ms" in timing, timing
    assert "random" in page.locator("#notice").inner_text()
    assert "random" in page.locator("#photo-answer .notice").inner_text()


def drawings(page):
    buttons = page.locator("#samples button")
    assert buttons.count() == 6
    for index in range(6):
        button = buttons.nth(index)
        button.focus()
        page.keyboard.press("Enter")
        browser.wait_for_text(page.locator("#drop-hint"), button.inner_text().strip() + ", a drawing")
        page.locator("#photo-answer[aria-busy]").wait_for(state="detached")
        assert page.locator("#photo-answer li").count() == 5


def questions(page):
    box = page.get_by_label("Your question, in your own words")
    box.fill(QUESTION)
    box.press("Enter")
    first = page.locator("#question-answer li").first
    browser.wait_for_text(first, "How do I remove one particular item from a JavaScript array")
    assert "%" in first.inner_text() and first.locator("code").count() > 0, first.inner_text()
    box.fill(FOREIGN)
    page.get_by_role("button", name="Find it in the FAQ").click()
    browser.wait_for_text(page.locator("#question-answer"), "No match")
    browser.wait_for_text(page.locator("#spoken"), "No match")
    page.get_by_role("button", name=QUESTION).click()
    browser.wait_for_text(page.locator("#question-answer"), "How do I remove one particular item")


def live(page):
    """Figures come, pausing and hiding stop the asking."""
    figure = page.locator(".tile .now").nth(2)
    expect(figure).not_to_have_text("–", timeout=10_000)
    assert float(figure.inner_text()) >= 0
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/metrics") else None)
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hide % "true")
    page.wait_for_timeout(500)
    asked.clear()
    page.wait_for_timeout(4500)
    assert not asked, "a hidden page asks for metrics"
    page.evaluate(hide % "false")
    page.wait_for_timeout(4500)
    assert 1 <= len(asked) <= 4, asked
    page.get_by_role("button", name="Pause").click()
    page.wait_for_timeout(500)
    asked.clear()
    page.wait_for_timeout(3000)
    assert not asked, "a paused page asks for metrics"
    page.get_by_role("button", name="Pause").click()


def wait_for_taken_seat(url):
    """Until the one seat for photos is taken."""
    deadline = time.monotonic() + browser.PATIENCE / 1000
    while 'convoy_queue_depth{queue="classify"} 1\n' not in requests.get(url + "/metrics").text:
        assert time.monotonic() < deadline, "nobody has taken the seat"
        time.sleep(0.02)


def errors(page, url, only_faq, small, folder):
    broken = folder / "notes.txt"
    broken.write_text("not a picture at all")
    answer = page.locator("#photo-answer")
    drop(page, broken)
    browser.wait_for_text(answer, "Not a format this server reads")
    browser.wait_for_text(page.locator("#spoken"), "Not a format this server reads")

    index = url + "/v2/repository/models/faq/"
    requests.post(index + "unload").raise_for_status()
    page.get_by_role("button", name=QUESTION).click()
    browser.wait_for_text(page.locator("#question-answer"), "Taken away for now")
    requests.post(index + "load").raise_for_status()
    page.get_by_role("button", name=QUESTION).click()
    browser.wait_for_text(page.locator("#question-answer"), "How do I remove one particular item")

    page.goto(only_faq)
    browser.wait_for_text(page.locator("#state"), "Photos: none served")
    page.locator("#samples button").first.click()
    browser.wait_for_text(answer, "Not served here")

    page.goto(small)
    parsed = urllib.parse.urlsplit(small)
    with socket.create_connection((parsed.hostname, parsed.port)) as seat:
        seat.sendall(b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        wait_for_taken_seat(small)
        page.locator("#samples button").first.click()
        browser.wait_for_text(answer, "The server is busy")
        browser.wait_for_text(answer, "Try again in")


def looks(chromium, url, folder, shots):
    """Light and dark, wide and narrow: nothing serious for axe, nothing sideways out of view."""
    data = photo(7)
    path = folder / "looks.png"
    path.write_bytes(data)
    for scheme in ("light", "dark"):
        for width in (1280, 360):
            with browser.page(chromium, url, scheme=scheme, width=width) as page:
                page.locator("#file").set_input_files(path)
                page.get_by_role("button", name=QUESTION).click()
                browser.wait_for_text(page.locator("#question-answer"), "How do I remove")
                browser.wait_for_text(page.locator("#photo-answer"), "Where the time went")
                browser.accessible(page, f"/ {scheme} {width}")
                page.get_by_role("button", name=FOREIGN).click()
                browser.wait_for_text(page.locator("#question-answer"), "No match")
                path.with_suffix(".txt").write_text("no picture")
                page.locator("#file").set_input_files(path.with_suffix(".txt"))
                browser.wait_for_text(page.locator("#photo-answer"), "Not a format")
                browser.accessible(page, f"/ {scheme} {width}, with trouble")
                if shots:
                    page.screenshot(path=f"{shots}/home-{scheme}-{width}.png", full_page=True)


def main():
    url, only_faq, small, *shots = sys.argv[1:]
    with browser.chromium() as chromium, tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        with browser.page(chromium, url) as page:
            browser.wait_for_text(page.locator("#state"), "168 questions")
            photos(page, url, folder)
            drawings(page)
            questions(page)
            live(page)
            errors(page, url, only_faq, small, folder)
        looks(chromium, url, folder, shots[0] if shots else None)
    print("page: ok")


if __name__ == "__main__":
    main()
