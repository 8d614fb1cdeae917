"""Removes secrets from what leaves the process: settings, messages, reasons.

A secret is the value of a setting or of an environment variable whose name says so (`auth_token`,
HF_TOKEN), a token of a known form, and whatever of a URL may hold one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sd3tune.config.files.placeholders import looks_secret
from sd3tune.urls import redacted

HIDDEN = "…"
SHORTEST = 8  # characters of a secret that is looked for in texts; "1" and "true" are everywhere
# Hugging Face, GitHub, OpenAI and other sk- keys, AWS ids, bearer headers, webhooks of Discord and
# Slack (their path is the secret).
TOKENS = re.compile(
    r"\b(?:hf_|ghp_|github_pat_|sk-)[\w-]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|(?<=[Bb]earer )[\w.~+/=-]{8,}"
    r"|(?<=/api/webhooks/)[\w/-]+|(?<=hooks\.slack\.com/)[\w/-]+"
)


@dataclass(frozen=True)
class SecretValues:
    """The secrets of a process, the longest first."""

    values: tuple[str, ...]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "SecretValues":
        """Those of environment variables."""
        found = {v for n, v in environ.items() if looks_secret(n) and len(v) >= SHORTEST}
        return cls(tuple(sorted(found, key=len, reverse=True)))

    def text(self, words: str) -> str:
        """The words without secrets."""
        words = TOKENS.sub(HIDDEN, words)
        for value in self.values:
            words = words.replace(value, HIDDEN)
        return redacted(words)

    def data(self, value: Any, hides: Callable[[str], bool] = lambda name: False) -> Any:
        """JSON-ready data without secrets; every text in it is looked through. hides: says of a key
        that its value is hidden whole."""
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {
                    key: HIDDEN if hides(key) and _may_be_secret(each) else self.data(each, hides)
                    for key, each in value.items()
                }
            case list() | tuple():
                return [self.data(each, hides) for each in value]
        return value

    def settings(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """Settings by name; values whose name looks secret are hidden, at any depth."""
        hidden: dict[str, Any] = self.data(named, looks_secret)
        return hidden


def _may_be_secret(value: Any) -> bool:
    return bool(value) and not isinstance(value, bool | int | float)
