#!/usr/bin/env python3
"""Checks a built site: every link leads to a file and an anchor of the site, and no page loads
anything from another host (scripts, styles, fonts, pictures, frames). Prints what is wrong, and
exits with 1 then.

    python scripts/check_site.py SITE
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "manifest"}
IN_STYLE = re.compile(r"""(?:url\(|@import\s)\s*["']?(https?:)?//""")


class Page(HTMLParser):
    """One page. anchors: its ids. links: targets that a reader can click. loaded: what a browser
    fetches by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and LOADED_LINKS & set(values.get("rel", "").split()):
            self.loaded.append(values.get("href", ""))
        if tag in LOADING and LOADING[tag] in values:
            self.loaded.append(values[LOADING[tag]])


def problems(site: Path) -> Iterator[str]:
    """What is wrong with a site, one sentence each."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site} holds no page"
    for path, page in pages.items():
        name = path.relative_to(site)
        if name.name == "404.html":  # its links are absolute: a server shows it at any address
            continue
        yield from (f"{name} loads {url}" for url in page.loaded if elsewhere(url))
        for target in page.links + page.loaded:
            if not elsewhere(target) and (wrong := missing(path, target, pages)):
                yield f"{name} links to {target}, {wrong}"
    for style in sorted(site.rglob("*.css")):
        if IN_STYLE.search(style.read_text(encoding="utf-8")):
            yield f"{style.relative_to(site)} loads from another host"


def elsewhere(url: str) -> bool:
    """Whether it is not a file of the site."""
    return bool(urlsplit(url).scheme or urlsplit(url).netloc)


def missing(path: Path, target: str, pages: dict[Path, Page]) -> str | None:
    """What a link of a page lacks; None: nothing."""
    parts = urlsplit(target)
    linked = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
    linked = linked / "index.html" if linked.is_dir() else linked
    if not linked.exists():
        return "which does not exist"
    anchor = unquote(parts.fragment)
    if anchor and linked in pages and anchor not in pages[linked].anchors:
        return "whose page has no such anchor"
    return None


def main() -> None:
    site = Path(sys.argv[1]).resolve()
    wrong = list(problems(site))
    for line in wrong:
        print(line)
    print(f"{len(list(site.rglob('*.html')))} pages, {len(wrong)} problems")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
