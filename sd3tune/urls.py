"""URLs as they may be shown: without user info, query and fragment, which hold tokens."""

import re

# The authority ends at the first "/", "?" or "#"; its user info at the last "@" before that.
URL = re.compile(
    r"""(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?\#]*@)?
    (?P<rest>[^\s?\#`'"<>]*)(?:[?\#](?:[^\s`'"<>]|['"](?=[^\s`'"<>,;.)]))*)?""",
    re.VERBOSE,
)
PATH = re.compile(r"(\burl: ?/[^\s?]*)\?[^\s)]*")  # urllib3 names host and path apart


def redacted(text: str) -> str:
    """`text` with every URL in it cut to scheme, host, port and path.

    Used for everything that leaves through a terminal or a report, errors of libraries included.
    """
    if "://" in text:
        text = URL.sub(lambda m: m["scheme"] + m["rest"], text)
    return PATH.sub(r"\1", text) if "url: " in text else text
