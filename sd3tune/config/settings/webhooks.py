"""Webhooks: where the events of a run are sent over http."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_serializer

from sd3tune.config import values
from sd3tune.config.fields import Count, Flag, Settings

LogLevel = Literal["critical", "error", "warning", "info", "debug"]
Address = Annotated[SecretStr, BeforeValidator(values.webhook_address)]
Token = Annotated[SecretStr, BeforeValidator(values.header_token)]


class Webhook(Settings):
    """One receiver. Addresses and tokens are secrets: no print, plan or checkpoint shows them."""

    webhook_type: Literal["discord", "raw"]
    """`discord`: messages in a channel of Discord. `raw`: JSON for a program of your own."""
    webhook_url: Address | None = None
    """discord: the webhook's address, from the settings of the channel. Whoever has it can write
    there: it is never shown."""
    callback_url: Address | None = None
    """raw: the address that gets each event as a POST request."""
    auth_token: Token | None = None
    """raw: sent as the header `X-API-Key`."""
    bearer_token: Token | None = None
    """raw: sent as the header `Authorization: Bearer …`."""
    ssl_no_verify: Flag = False
    """Take every certificate: for a receiver of your own with a self-signed one."""
    allow_link_local: Flag = False
    """Allow link-local addresses and metadata servers of clouds, which give out credentials."""
    message_prefix: str = Field("", max_length=100)
    """Text in front of every message, such as the name of the machine."""
    log_level: LogLevel = "info"
    """The least severe events that are sent. `critical`: a run that failed; `error` and `warning`:
    messages of that kind too; `info`: pictures, checkpoints, scores and progress too; `debug`: on
    Discord the progress too."""

    @property
    def url(self) -> str:
        """The address of this kind of webhook."""
        address = self.webhook_url if self.webhook_type == "discord" else self.callback_url
        return "" if address is None else address.get_secret_value()

    @property
    def origin(self) -> str:
        """Scheme, host and port: what may be shown of the address."""
        return origin(self.url)

    @property
    def takes_progress(self) -> bool:
        """Whether it gets each report of progress."""
        levels = ("debug",) if self.webhook_type == "discord" else ("info", "debug")
        return self.log_level in levels

    @field_serializer("webhook_url", "callback_url")
    def without_secrets(self, address: SecretStr | None) -> str | None:
        """As JSON of plans and checkpoints holds it."""
        return None if address is None else f"{origin(address.get_secret_value())}/…"


def origin(url: str) -> str:
    """https://host:port of an address, without what may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, Mapping | Webhook) else value


class WebhookSettings(Settings):
    """Webhooks."""

    webhook_config: Annotated[tuple[Webhook, ...], BeforeValidator(_listed)] = ()
    """Receivers of what happens in the run: an object, a list of them, the same as JSON text, or a
    JSON file (docs/guides/webhooks.md)."""
    webhook_reporting_interval: Count = 1
    """Steps between two reports of progress."""
