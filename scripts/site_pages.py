"""A hook of mkdocs: the documentation links to files of the repository, and the site has them.

A link such as `../../examples/cluster/skypilot.yaml` works where the repository is read. The site
is made from docs/ alone, so each file that a page links to becomes a page below `repository/`:
Markdown as it is, anything else as a code block, a folder as a list. Links of those pages are
followed too.

Pages that the navigation of mkdocs.yml does not name come at the end of the section of their
folder.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#])")
SECTIONS = {"start": "Start", "guides": "Guides", "concepts": "Concepts", "reference": "Reference",
            "adr": "Decisions"}  # fmt: skip
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
LANGUAGES = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "bash", ".py": "python"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds to the navigation the pages that it does not name."""
    named = set(entries(config.nav))
    sections = {title: pages for item in config.nav or [] if isinstance(item, dict)
                for title, pages in item.items()}  # fmt: skip
    for page in sorted(Path(config.docs_dir).rglob("*.md")):
        uri = page.relative_to(config.docs_dir).as_posix()
        if uri not in named:
            sections[SECTIONS.get(uri.partition("/")[0], "Start")].append(uri)
    return config


def entries(nav: Any) -> Iterator[str]:
    """The pages of a navigation, in its order."""
    if isinstance(nav, str):
        yield nav
    for item in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from entries(item)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each file of the repository that a page links to, directly or not."""
    pending = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    while pending:
        for path in sorted(set(linked_paths(pending.pop()))):
            uri = site_uri(path)
            if uri.endswith(".md") and uri not in files.src_uris:
                page = File.generated(config, uri, content=content_of(path))
                page.inclusion = InclusionLevel.NOT_IN_NAV
                files.append(page)
                pending.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links that lead to pages of the site, and Markdown inside of `<details>`."""
    here = page.file.src_uri
    path = repository_path(here)
    text = markdown.replace("<details>", '<details markdown="1">')
    return rewritten(
        text,
        path,
        lambda linked: posixpath.relpath(site_uri(linked), posixpath.dirname(here) or "."),
    )


def rewritten(text: str, path: str, new_target: Callable[[str], str]) -> str:
    """The text of the file `path` of the repository, with new targets of links to other files."""

    def replace(match: re.Match[str]) -> str:
        linked = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        return new_target(linked) if (ROOT / linked).exists() else match[1]

    return LINK.sub(replace, text)


def linked_paths(path: str) -> list[str]:
    """Files and folders of the repository that a Markdown file or a listed folder links to."""
    if (ROOT / path).is_dir():
        return [f"{path}/{name}" for name in names_in(path)]
    if not path.endswith(".md"):
        return []
    targets = LINK.findall((ROOT / path).read_text())
    paths = [posixpath.normpath(posixpath.join(posixpath.dirname(path), t)) for t in targets]
    return [linked for linked in paths if (ROOT / linked).exists()]


def site_uri(path: str) -> str:
    """Where the site has a file of the repository: docs/ at its top, the rest below repository/."""
    if path.startswith("docs/") and (ROOT / path).is_file():
        return path.removeprefix("docs/")
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def repository_path(uri: str) -> str:
    """The opposite of site_uri for Markdown files; for others a path in the same folder."""
    return uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"


def content_of(path: str) -> str:
    """The Markdown of a page that shows a file or a folder of the repository."""
    file = ROOT / path
    if file.is_dir():
        base = posixpath.basename(path)
        return f"{UNSEARCHED}# {path}\n\n" + "".join(
            f"* [{name}]({base}/{name})\n" for name in names_in(path)
        )
    text = file.read_text()
    if path.endswith(".md"):
        return text
    return f"{UNSEARCHED}# {path}\n\n````{LANGUAGES.get(file.suffix, 'text')}\n{text}\n````\n"


def names_in(path: str) -> list[str]:
    """Names in a folder, without hidden ones and what Python compiles."""
    names = [file.name for file in (ROOT / path).iterdir()]
    return sorted(name for name in names if not name.startswith((".", "__pycache__")))
