"""URLs as they may be shown: without user info, query and fragment, which hold tokens."""

import re

# The authority ends at the first "/", "?" or "#"; its user info at the last "@" before that.
URL = re.compile(
    r"""(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?\#]*@)?
    (?P<rest>[^\s?\#`'"<>]*)(?:[?\#](?:[^\s`'"<>]|['"](?=[^\s`'"<>,;.)]))*)?""",
    re.VERBOSE,
)
PATH = re.compile(r"(\burl: ?/[^\s?]*)\?[^\s)]*")  # urllib3 names host and path apart


def shown_url(name: str) -> str:
    """`name`, whole, cut in the same way if it is a URL: whatever characters it is made of."""
    scheme, colon, rest = name.partition("://")
    if not colon or not scheme.isalnum():
        return name
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return scheme + colon + authority.rpartition("@")[2] + slash + path


def redacted(text: str) -> str:
    """`text` with every URL in it cut to scheme, host, port and path: for errors and messages, a
    library's own included."""
    if "://" in text:
        text = URL.sub(lambda m: m["scheme"] + m["rest"], text)
    return PATH.sub(r"\1", text) if "url: " in text else text
