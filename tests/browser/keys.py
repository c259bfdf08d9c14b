"""Drives the pages of a server that wants a key with Chromium; run by tests/page.rs. keys.py URL KEY"""

import sys

import browser


def home(page, key):
    """Refused without a key, answered once it is entered; the metrics follow."""
    page.get_by_label("Your question, in your own words").fill("remove one item from a list")
    page.get_by_role("button", name="Find it in the FAQ").click()
    browser.wait_for_text(page.locator("#question-answer .trouble"), "A key is wanted. Enter one")
    browser.wait_for_text(page.locator("#live-state"), "scope metrics")
    browser.accessible(page, "/ without its key")
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Find it in the FAQ").click()
    browser.wait_for_text(page.locator("#question-answer"), "How do I remove one particular item")
    browser.wait_for_text(page.locator("#live-state"), "The last two minutes")


def docs(page):
    """The key is that of the tab."""
    page.locator("#faq > summary").click()
    page.locator("#faq form").get_by_role("button", name="Send").click()
    browser.wait_for_text(page.locator("#spoken"), "Answered 200")
    browser.accessible(page, "/docs with its key")


def main():
    url, key = sys.argv[1:]
    with browser.chromium() as chromium:
        for width in (1280, 360):
            with browser.page(chromium, url, width=width) as page:
                home(page, key)
                page.goto(url + "/docs")
                docs(page)
            with browser.page(chromium, url + "/docs", width=width) as page:
                page.locator("#faq").wait_for()
                assert page.get_by_label("Key").is_hidden(), "a tab of its own knows no key"
                page.locator("#faq > summary").click()
                page.locator("#faq form").get_by_role("button", name="Send").click()
                browser.wait_for_text(page.locator("#spoken"), "Answered 401")
                assert page.get_by_label("Key").is_visible()
    print("keys: ok")


if __name__ == "__main__":
    main()
