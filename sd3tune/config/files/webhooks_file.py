"""The receivers that `webhook_config` names: an object, a list, JSON text, or a JSON file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sd3tune.config.files.placeholders import Allowed, fill_in
from sd3tune.config.files.reading import absolute_path, literal, read_json
from sd3tune.config.inert import is_off
from sd3tune.config.names import Unsupported
from sd3tune.config.problems import Location, Problems, known_settings, shown_file, validated
from sd3tune.config.rules.rule import Rule, violated
from sd3tune.config.settings.webhooks import Webhook
from sd3tune.errors import ConfigError, ErrorAndHint

SETTING = "webhook_config"
DISCORD = ("discord.com", "discordapp.com")
FORMS = (
    'write an object such as {"webhook_type": "raw", "callback_url": "https://…"}, a list of them, '
    "or the name of a JSON file"
)
OTHER_NAMES = {
    name: row
    for row in (
        Unsupported("is not a key of a webhook", "write webhook_type", "type kind"),
        Unsupported(
            "is not a key of a webhook",
            "write webhook_url for discord, callback_url for raw",
            "url address endpoint callback discord_url",
        ),
        Unsupported(
            "is not a key of a webhook",
            "write auth_token (X-API-Key), or bearer_token (Authorization: Bearer)",
            "token api_key authorization headers bearer",
        ),
        Unsupported("is not a key of a webhook", "write ssl_no_verify", "verify verify_ssl"),
    )
    for name in row.names.split()
}


def error(keys: str, when: Callable[[Webhook], object], sentence: str, hint: str) -> Rule[Webhook]:
    """keys: those it concerns, between blanks."""
    return Rule(tuple(keys.split()), "error", when, sentence, hint)


def of_type(kind: str, key: str, instead: str) -> Rule[Webhook]:
    """A key that only one type of webhook has."""
    return error(
        f"{key} webhook_type",
        lambda w: getattr(w, key) is not None and w.webhook_type != kind,
        f"`{key}` belongs to webhook_type={kind}, this is {{c.webhook_type}}",
        instead,
    )


RULES = (
    error(
        "webhook_url webhook_type",
        lambda w: w.webhook_type == "discord" and w.webhook_url is None and not w.callback_url,
        "`webhook_url` is missing",
        "copy it from the settings of the channel in Discord: Integrations, Webhooks",
    ),
    error(
        "callback_url webhook_type",
        lambda w: w.webhook_type == "raw" and w.callback_url is None and not w.webhook_url,
        "`callback_url` is missing",
        "write the address that gets the events",
    ),
    of_type("discord", "webhook_url", "write callback_url"),
    of_type("raw", "callback_url", "write webhook_url"),
    of_type("raw", "auth_token", "leave it out: the address of a Discord webhook is its key"),
    of_type("raw", "bearer_token", "leave it out: the address of a Discord webhook is its key"),
    error(
        "callback_url webhook_type",
        lambda w: w.webhook_type == "raw" and _is_discord(w.url),
        "`callback_url` is a webhook of Discord, which does not take raw events",
        "write webhook_type=discord and webhook_url",
    ),
    error(
        "ssl_no_verify webhook_type",
        lambda w: w.ssl_no_verify and w.url.startswith("http:"),
        "`ssl_no_verify` is set, and an http address has no certificate",
        "leave it out, or write https",
    ),
)


def read_webhooks(
    written: Any, location: Location, folder: Path, allowed: Allowed
) -> tuple[Webhook, ...]:
    """The webhooks of a setting as it was written. location: of the configuration. folder: where a
    relative path starts. allowed: variables of the environment inside the file.

    Raises ConfigError with all problems; none shows an address or a token.
    """
    if isinstance(written, str):
        written = literal(written)
    if is_off(written):
        return ()
    if not isinstance(written, str):
        return _each(written, location, f"`{SETTING}`: ")
    where = location.of(SETTING)
    if written.lstrip().startswith(("{", "[")):
        raise ConfigError(f"{where}: `{SETTING}` is not JSON", hint=FORMS)
    path = absolute_path(written, folder, where, SETTING)
    held = read_json(path, object, f"file of webhooks ({SETTING})")
    filled = fill_in({SETTING: held}, shown_file(str(path)), {}, allowed)[SETTING]
    return _each(filled, Location(str(path)), "")


def _each(held: Any, location: Location, before: str) -> tuple[Webhook, ...]:
    """before: of the name of each webhook, in problems."""
    where = location.of(SETTING)
    entries = held if isinstance(held, list) else [held]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigError(f"{where}: {before}a webhook must be an object", hint=FORMS)
    problems: list[ErrorAndHint] = []
    webhooks = []
    source = location.sources.get(SETTING)
    file = (source and source.file) or location.file
    for number, entry in enumerate(entries, 1):
        name = f"{before}webhook {number}" if len(entries) > 1 else before.removesuffix(": ")
        try:
            webhooks.append(_webhook(entry, Location(file, inside=name)))
        except ConfigError as e:
            problems += e.problems
    if problems:
        raise ConfigError.of(problems)
    return tuple(webhooks)


def _webhook(entry: Mapping[str, Any], location: Location) -> Webhook:
    problems = Problems()
    written = {key: value for key, value in entry.items() if value not in (None, "")}
    values, _ = known_settings(written, Webhook, location, problems, OTHER_NAMES)
    validated(values, Webhook, location, problems)
    if problems.settings or "webhook_type" not in values:
        raise ConfigError.of(problems.ordered(entry))
    webhook = Webhook.model_validate(values)
    for violation in violated(RULES, "error", webhook):
        problems.add(violation.at(location.of()))
    problems.raise_any()
    return webhook


def _is_discord(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host.endswith(DISCORD) and "/webhooks/" in url
