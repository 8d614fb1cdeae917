"""The forms of what identifies a person, a machine or a company: addresses, serial numbers, names
of rented machines, folders. private.py replaces what it finds by them.
"""

import re

HEX = "[0-9a-f]"
# Ends of names of computers.
DOMAINS = (
    "com|net|org|io|ai|cloud|dev|edu|gov|eu|de|fr|uk|nl|ch|at|jp|cn|internal|local|lan|corp|intra"
    "|intranet|localdomain|svc|home|arpa"
)
# Of a group `it`, that alone is replaced.
FORMS = {
    "secret": re.compile(
        r"\b(?:(?:hf|gh[opsu]|npm|r8)_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}"
        r"|(?:github_pat_|glpat-|sk-|xox[a-z]-|pypi-|eyJ)(?=[\w.-]*\d)[\w.-]{16,})"
    ),
    "uuid": re.compile(rf"{HEX}{{8}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{12}}", re.I),
    "card": re.compile(rf"\bGPU-(?P<it>{HEX}{{16}})\b", re.I),  # of AMD
    # A part of such a UUID, as variables take it.
    "part": re.compile(
        rf"\b(?:GPU|MIG)-(?P<it>(?!0{{8}})(?=[-a-f]*\d|{HEX}{{8}}){HEX}{{4,}}[-0-9a-f]*)\b", re.I
    ),
    "bus": re.compile(rf"\b{HEX}{{4,8}}:{HEX}{{2}}:{HEX}{{2}}\.{HEX}\b", re.I),
    "mac": re.compile(rf"\b(?:{HEX}{{2}}[:-]){{5}}{HEX}{{2}}\b", re.I),
    # What only looks like one (12:30:45) is told apart by ipaddress.
    "ip6": re.compile(
        rf"(?<![\w:])(?={HEX}*:)(?:[0-9a-f:]+::(?![\w:])|[0-9a-f:]*{HEX})(?!\w|:\w)(?:%\w+)?", re.I
    ),
    "ip4": re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\w)"),
    # jane@host, git@host:jane/repo.git; python@3.12 is a formula of Homebrew's.
    "address": re.compile(r"[\w.+-]+@(?!\d+(?:\.\d+)*\b)[\w.-]+(?::[^\s\"'`,;)]+)?"),
    # Vast's containers, Amazon's machines, Kubernetes' pods and nodes, and RunPod's pods: 14
    # letters and digits.
    "pod": re.compile(
        rf"\bC\.\d{{5,}}\b|\bi-(?:{HEX}{{17}}|{HEX}{{8}})\b|\b[a-z][a-z0-9-]*-{HEX}{{7,10}}-(?:[a-z0-9]{{4,5}}|vmss\w+)\b"
        r"|\b(?=(?:[a-z]*\d){3})(?=(?:\d*[a-z]){4})(?=[a-z0-9]*[g-z])[a-z0-9]{14}\b"
    ),
    # An address as a name, ip-10-0-3-4 and 129-213-7-8 (Lambda), with what follows.
    "dashed": re.compile(r"\b(?:ip-)?(?:\d{1,3}-){3}\d{1,3}\b(?:\.[\w-]+)*"),
    "host": re.compile(rf"(?<![\w.@/-])(?:[a-z0-9-]+\.)+(?:{DOMAINS})(?![\w-]|\.\w)", re.I),
    # `pod id: x7k2p9qwe4rt1y`, `node=gpu-17`: a word with a digit.
    "id": re.compile(
        r"\b(?:pod|instance|container|machine|node|host|cluster|job|worker|account|project)"
        r"(?:[ _-]?(?:id|name|label))?[\"']?(?:\s*[:=]\s*|\s+(?=[a-z]*\d\w*[a-z]\w*\d))[\"']?"
        r"(?P<it>(?=[\w.-]*\d)[a-z0-9][\w-]{3,}(?:\.[\w-]+)*)", re.I
    ),
    "serial": re.compile(
        r"serial(?:[ _-]?(?:number|no\.?))?(?: \(\w+\))?[\"']?"
        r"(?:\s*[:=]\s*[\"']?(?P<it>[^\s\"',;]+)|\s+(?P<bare>(?=[a-z]*\d)[a-z0-9]{8,}))", re.I
    ),
}  # fmt: skip
TAIL = r"[^\s\"'`,;:()\[\]]*"
# Folders that any system has. Others below /opt, /usr/local, /etc or /run are named by their owner.
SYSTEM = "|".join((
    r"(?:proc|sys|bin|sbin|lib|lib32|lib64|System|boot|snap)(?![\w-])",
    r"usr(?!/(?:local|src)/)(?![\w-])",
    r"usr/local/(?:bin|sbin|lib|lib64|share|include|etc|man|cuda[\w.-]*|nvidia|python[\w.-]*)(?![\w-])",
    r"opt/(?:rocm[\w.-]*|rh|conda|miniconda3?|anaconda3|homebrew|nvidia|amdgpu|intel|python)(?![\w-])",
    r"dev(?!/shm/\w)(?![\w-])",
    r"etc/(?:os-release|docker|nvidia[\w.-]*|cdi|ld\.so[\w.]*|apt|modprobe\.d|ssl|default)(?![\w-])",
    r"run/(?:\.containerenv|nvidia[\w.-]*|cdi|docker[\w.]*)(?![\w-])",
    r"(?:Library|Applications)/(?:Developer|Frameworks|Python|Xcode[\w.-]*|Apple)(?![\w-])",
    r"(?:opt|etc|run|Library|Applications)(?![/\w-])",
))  # fmt: skip
SYSTEM_PATH = re.compile(f"/(?:{SYSTEM})")
# At the root of rented machines and containers; another single name is its owner's.
ROOTS = "workspace|content|kaggle|root|home|data|mnt|media|tmp|var|srv|opt|app|scratch|storage|nix"
OURS = rf"(?!(?:{SYSTEM}))"
PATHS = (
    re.compile(rf"(?<=[\"'`])/{OURS}[^\"'`\n]*/[^\"'`\n]*(?=[\"'`])"),  # in quotes, with spaces
    re.compile(rf"/(?:Volumes|Users)/(?:[^/\n\"'`,;:()\[\]]+/)*{TAIL}"),
    re.compile(rf"(?<![\w.~<>/:])//[\w.-]+/{TAIL}"),
    re.compile(rf"(?<![\w.~<>/])/{OURS}[\w.~+-]+(?:/{TAIL})+"),
    re.compile(rf"(?<![\w.~<>/)])/{OURS}(?!(?:{ROOTS})(?![\w-]))[a-zA-Z][\w.~+-]*[\w](?![\w/])"),
    re.compile(r"(?<!\w)[A-Za-z]:\\[^\s\"'`,;]+|\\\\[\w.-]+\\[^\s\"'`,;]+"),  # Windows
)  # fmt: skip
# Of folders of this machine the name of the next one is as private as theirs.
BELOW = re.compile(rf"(~|<working directory>)/(?!\.cache\b){TAIL}")
URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>)]*[^\s\"'<>).,:;]", re.I)
LOGIN = re.compile(r"://(?:([^:/@\s]*)(?::([^/@\s]*))?@)?([\w-]+(?:\.[\w-]+)+)")
