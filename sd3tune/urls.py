"""URLs as they may be shown: without user info, query and fragment, which hold tokens."""

import re

# The authority ends at the first "/", "?" or "#"; its user info at the last "@" before that. What
# stands where a port would, and is no number, is a password that nobody quoted: it may hold those
# three, and ends at the last "@" of all.
UNQUOTED = r"[^\s/?\#@:\[]*:(?!\d*(?:[/?\#\s]|$))"
URL = re.compile(
    rf"""(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]{{0,30}}://)(?:[^\s/?\#]*@|{UNQUOTED}[^\s`'"<>]*@)?
    (?P<rest>[^\s?\#`'"<>]*)(?:[?\#](?:[^\s`'"<>]|['"](?=[^\s`'"<>,;.)]))*)?""",
    re.VERBOSE,
)
SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.\s-]*://")  # browsers skip blanks in it
START = re.compile(rf"{SCHEME.pattern}|//")
QUESTIONABLE = re.compile(r"[^/?#@:\[]*:(?!\d*(?:[/?#]|$))(?=.*@)", re.DOTALL)
# The path of these addresses is their key.
HOOK = re.compile(r"(/api/(?:v\d+/)?webhooks/|\bhooks\.slack\.com/)[^\s`'\"<>]+")
PATH = re.compile(r"(\burl: ?/[^\s?]*)\?[^\s)]*")  # urllib3 names host and path apart


def shown_url(name: str) -> str:
    """`name`, whole, cut in the same way if it is a URL: whatever characters it is made of."""
    match = START.match(name)
    if match is None:
        return name
    start, rest = name[: match.end()], name[match.end() :]
    if QUESTIONABLE.match(rest):
        rest = rest.rpartition("@")[2]
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return start + authority.rpartition("@")[2] + slash + path


def is_url(name: str) -> bool:
    """Whether `name`, whole, begins with a scheme and two slashes."""
    return SCHEME.match(name) is not None


def redacted(text: str) -> str:
    """`text` with every URL in it cut to scheme, host, port and path, and the address of a webhook
    cut before its key: for errors and messages, a library's own included."""
    if "://" in text:
        text = URL.sub(lambda m: m["scheme"] + m["rest"], text)
    text = HOOK.sub(r"\1…", text)
    return PATH.sub(r"\1", text) if "url: " in text else text
