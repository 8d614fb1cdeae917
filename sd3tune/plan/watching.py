"""How a run can be watched: the webhooks that get its events, and previews of its pictures."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from sd3tune.config.config import Config
from sd3tune.config.rules.idle import no_pictures
from sd3tune.config.settings.webhooks import Webhook
from sd3tune.data.addresses import not_link_local, numeric
from sd3tune.decision import Decision, following
from sd3tune.errors import ConfigError
from sd3tune.sd3.models import TAESD3, TINY_VAE
from sd3tune.sd3.variants import Model


@dataclass(frozen=True)
class WebhookPlan:
    """Where events are sent."""

    webhooks: tuple[Webhook, ...]
    every_steps: int  # between reports of progress
    receivers: Decision[str]  # as the user may read them


@dataclass(frozen=True)
class PreviewPlan:
    """Whether pictures are shown while they are drawn."""

    drawn: Decision[bool]
    every_steps: int  # sampling steps
    autoencoder: str  # folder or repository of an AutoencoderTiny; "" where there is none


def webhook_plan(config: Config) -> WebhookPlan:
    """Raises ConfigError for an address in digits that is refused; names are resolved when events
    are sent."""
    for webhook in config.webhook_config:
        _refuse_link_local(webhook)
    names = ", ".join(f"{w.webhook_type} {w.origin}" for w in config.webhook_config)
    why = "events of the run are sent there, off the thread that trains"
    none = "events go to files, trackers and the terminal only"
    return WebhookPlan(
        webhooks=config.webhook_config,
        every_steps=config.webhook_reporting_interval,
        receivers=Decision(
            names or "none", config.source("webhook_config"), why if names else none
        ),
    )


def preview_plan(config: Config, model: Model) -> PreviewPlan:
    """Previews need validation pictures and a tiny autoencoder of the model's latents."""
    source, every = config.source("validation_preview"), config.validation_preview_steps
    autoencoder = model.tiny_vae or ""
    if not config.validation_preview:
        return PreviewPlan(
            Decision(False, source, "pictures are shown when they are finished"), every, autoencoder
        )
    why_not = _without_previews(config, model)
    if why_not is not None:
        return PreviewPlan(Decision(False, following(source), why_not), every, autoencoder)
    where = f"`{autoencoder}` of the hub" if autoencoder == TAESD3 else f"{TINY_VAE} of the model"
    steps = "sampling step" if every == 1 else f"{every} sampling steps"
    webhooks = len(config.webhook_config)
    sent = f", and in {webhooks} webhook{'s' * (webhooks != 1)}" if webhooks else ""
    why = f"each {steps}, decoded by {where}; shown by `sd3tune watch`{sent}"
    return PreviewPlan(Decision(True, source, why), every, autoencoder)


def _without_previews(config: Config, model: Model) -> str | None:
    if (why := no_pictures(config)) is not None:
        return why[0]
    if model.tiny_vae is None:
        return (
            f"no tiny autoencoder is known for {model.name}: a folder `{TINY_VAE}` in the model, "
            "saved by diffusers' AutoencoderTiny, would be used"
        )
    return None


def _refuse_link_local(webhook: Webhook) -> None:
    host = urlsplit(webhook.url).hostname or ""
    for address in () if webhook.allow_link_local else numeric(host):
        if (why := not_link_local(address)) is not None:
            sentence, _, hint = why.partition("; ")
            raise ConfigError(f"`webhook_config`: {webhook.origin} {sentence}", hint=hint)
