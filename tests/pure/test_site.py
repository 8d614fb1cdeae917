"""The documentation as a site: scripts/docs builds it from these files, without a network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "scripts" / "check_site.py"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TAGS = ("h1", "h2", "h3", "ul", "ol", "li", "table", "tr", "pre", "blockquote")


def check(site: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, str(CHECK), str(site)], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.slow
def test_the_site_builds_strictly_and_every_link_of_it_leads_somewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert check(tmp_path)[0] == 0
    for page in PAGES:
        assert (tmp_path / page.relative_to(ROOT / "docs").with_suffix(".html")).exists()
    skypilot = tmp_path / "repository" / "examples" / "cluster" / "skypilot.yaml.html"
    assert "num_nodes" in skypilot.read_text()  # a file outside docs/ that a guide links to


def test_a_site_with_dead_links_or_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="here">A</h1><a href="#here">1</a><a href="b.html#there">2</a>'
        '<a href="c.html">3</a><a href="https://example.com">4</a>'
        '<script src="https://example.com/x.js"></script>'
    )
    (tmp_path / "b.html").write_text('<a href="a.html#here">1</a>')
    (tmp_path / "x.css").write_text("@import url(https://example.com/font.css);")
    code, lines = check(tmp_path)
    assert code == 1
    assert lines == [
        "a.html loads https://example.com/x.js",
        "a.html links to b.html#there, whose page has no such anchor",
        "a.html links to c.html, which does not exist",
        "x.css loads from another host",
        "2 pages, 4 problems",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_page_has_the_same_parts_on_the_site_as_on_github(page: Path) -> None:
    """Python-Markdown, which the site uses, wants four spaces where CommonMark takes two."""
    import markdown
    from markdown_it import MarkdownIt

    text = page.read_text()
    extensions = ["tables", "toc", "md_in_html", "pymdownx.superfences"]
    site = markdown.markdown(text, extensions=extensions)
    github = MarkdownIt("commonmark").enable("table").render(text)
    for tag in TAGS:
        counts = [len(re.findall(rf"<{tag}[ >]", html)) for html in (site, github)]
        assert counts[0] == counts[1], f"{tag}: {counts[0]} on the site, {counts[1]} on GitHub"
