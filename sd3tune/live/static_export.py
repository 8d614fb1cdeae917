"""The page as files that need no server: one HTML file with scripts and data inside, and pictures
beside it. It opens from a disk (`file://`), where browsers load no modules.

The modules stay as they are: each becomes a function of its imports that returns its exports, and
the page's policy names the one script by its digest.
"""

import base64
import hashlib
import json
import re
from datetime import datetime
from pathlib import Path

from sd3tune.errors import DiskError
from sd3tune.filesystem import disk, drafts
from sd3tune.live.gallery import media_type
from sd3tune.live.page_server import ASSETS, MAX_IMAGE_BYTES, Sent
from sd3tune.live.run_list import RunList
from sd3tune.live.run_reader import RunReader

PAGE = "index.html"
PLAIN = (
    "theme.js",
    "uPlot.iife.min.js",
    "img-comparison-slider.js",
)  # scripts that are not modules
FIRST = "main.js"
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+\.js)";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:function|const|let|class) (\w+))", re.MULTILINE)
IN_SCRIPTS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # in JSON inside HTML
POLICY = (
    "default-src 'none'; script-src {digests}; style-src {style}; img-src 'self' file: data:; "
    "base-uri 'none'; form-action 'none'"
)


def write(runs: RunList, folder: Path) -> Path:
    """Writes the page into `folder`, which is made; returns the file to open. Raises DiskError,
    also where the folder holds something else."""
    with disk.explained("write the page in", folder):
        if folder.exists() and any(folder.iterdir()) and not (folder / PAGE).is_file():
            raise DiskError(
                f"`{folder}` is not empty, and holds no page that was exported before",
                hint="name a folder that is new or empty",
            )
        folder.mkdir(parents=True, exist_ok=True)
        for key, run in runs.items():
            run.refresh()
            _copy_pictures(run, folder / "files" / key)
        drafts.write(folder / PAGE, page(runs).encode())
        drafts.write(folder / "LICENSES.txt", (ASSETS / "LICENSES.txt").read_bytes())
    return folder / PAGE


def page(runs: RunList) -> str:
    """The HTML file, for runs that were refreshed."""
    scripts = [*((ASSETS / name).read_text() for name in PLAIN), bundle()]
    styles = [(ASSETS / name).read_text() for name in ("uPlot.min.css", "page.css")]
    icon = base64.b64encode((ASSETS / "icon.svg").read_bytes()).decode()
    policy = POLICY.format(digests=_digests(scripts), style=_digests(styles))
    head = [
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f'<link rel="icon" href="data:image/svg+xml;base64,{icon}">',
        *(f"<style>{style}</style>" for style in styles),
    ]
    body = [
        f'<script type="application/json" id="exported">{data(runs)}</script>',
        *(f"<script>{script}</script>" for script in scripts),
    ]
    shell = re.sub(r"<(?:link|script)\b[^\n]*\n", "", (ASSETS / PAGE).read_text())
    shell = shell.replace("</title>\n", "</title>\n" + "\n".join(head) + "\n")
    return shell.replace("</body>", "\n".join(body) + "\n</body>")


def data(runs: RunList) -> str:
    """The messages that a viewer would get, as JSON that can stand inside HTML."""
    sections: list[str] = []
    curves: list[str] = []
    for key, run in runs.items():
        for name, text in Sent().news(key, run):
            (sections if name == "section" else curves).append(text)
    written = datetime.now().astimezone().isoformat(" ", "minutes")
    whole = (
        f'{{"written": {json.dumps(written)}, "sections": [{", ".join(sections)}], '
        f'"curves": [{", ".join(curves)}]}}'
    )
    return re.sub("[<>&]", lambda found: IN_SCRIPTS[found[0]], whole)


def bundle() -> str:
    """All modules of the page as one script, each after those that it imports."""
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        source = (ASSETS / name).read_text()
        for _, imported in IMPORT.findall(source):
            if imported not in parts:
                add(imported)
        exports = ", ".join(each for _, each in EXPORT.findall(source))
        source = EXPORT.sub(r"\1", source)
        source = IMPORT.sub(lambda m: f"const {{{m[1]}}} = {_variable(m[2])};", source)
        parts[name] = (
            f"const {_variable(name)} = (() => {{\n{source}\nreturn {{ {exports} }};\n}})();"
        )

    add(FIRST)
    return '"use strict";\n' + "\n".join(parts.values())


def _variable(name: str) -> str:
    return "module_" + name.removesuffix(".js")


def _digests(texts: list[str]) -> str:
    """As a policy names what stands between the tags."""
    made = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in made)


def _copy_pictures(run: RunReader, target: Path) -> None:
    """Pictures, sheets and previews of the run, under their own paths."""
    names = ("pictures", "sheets", "previews")
    for path in (each["path"] for name in names for each in run.sections[name]):
        if media_type(path) is None:
            continue
        try:
            content = run.folder.read(path, MAX_IMAGE_BYTES)
        except (OSError, ValueError):  # it is gone, or not a file of the run
            continue
        drafts.write(target / path, content)
