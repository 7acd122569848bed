"""The built pages must not load anything from another host: python .ci/check_site.py SITE_FOLDER."""

import sys
from html.parser import HTMLParser
from pathlib import Path

# Tags and attributes that make a browser fetch; an <a href> waits for a click.
FETCHING = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("object", "data"),
}


class Fetches(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "link" and ("rel", "canonical") in attrs:
            return
        self.urls += [value or "" for attribute, value in attrs if (tag, attribute) in FETCHING]


def main(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert pages, f"no pages in {site}"
    for page in pages:
        fetches = Fetches()
        fetches.feed(page.read_text(encoding="utf-8"))
        outside = [url for url in fetches.urls if url.startswith(("http:", "https:", "//"))]
        assert not outside, f"{page.name} loads from another host: {outside}"
    print(f"{len(pages)} pages, nothing loaded from another host")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
