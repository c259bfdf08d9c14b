"""Drives the page at /docs with Chromium; run by tests/page.rs. docs.py URL [FOLDER]: FOLDER gets screenshots."""

import sys

import requests

import browser


def tried(page):
    """A question sent from the page, then one that is refused."""
    page.locator("#faq > summary").click()
    form = page.locator("#faq form")
    form.get_by_role("button", name="Send").click()
    answer = form.get_by_role("region", name="The answer")
    browser.wait_for_text(answer, "How do I remove one particular item from a JavaScript array")
    browser.wait_for_text(answer, "server-timing")
    browser.wait_for_text(page.locator("#spoken"), "Answered 200")
    form.get_by_label("Body").fill('{"question": 7}')
    form.get_by_role("button", name="Send").click()
    browser.wait_for_text(answer, "invalid_request")

    page.locator("#v2_model > summary").press("Enter")
    page.locator("#v2_model").get_by_label("model (path)").fill("nothing")
    page.locator("#v2_model").get_by_role("button", name="Send").press("Enter")
    browser.wait_for_text(page.locator("#v2_model"), "unknown model `nothing`")

    page.locator("#faq").get_by_role("link", name="Matches").first.click()
    browser.wait_for_text(page.locator("#schema-Matches[open]"), "scope")


def main():
    url, *shots = sys.argv[1:]
    document = requests.get(url + "/openapi.json").json()
    count = sum(len(item) for item in document["paths"].values())
    with browser.chromium() as chromium:
        for scheme in ("light", "dark"):
            for width in (1280, 360):
                with browser.page(chromium, url + "/docs", scheme=scheme, width=width) as page:
                    page.locator("#faq").wait_for()
                    assert page.locator("details form").count() == count
                    assert page.locator("details[id^=schema-]").count() == len(document["components"]["schemas"])
                    tried(page)
                    browser.accessible(page, f"/docs {scheme} {width}")
                    if shots:
                        page.screenshot(path=f"{shots[0]}/docs-{scheme}-{width}.png", full_page=True)
    print("docs: ok")


if __name__ == "__main__":
    main()
