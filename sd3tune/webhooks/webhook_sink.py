"""The webhooks of a run as a sink of its stream."""

import time
from collections.abc import Sequence

from sd3tune.data.addresses import everything, not_link_local
from sd3tune.plan.watching import WebhookPlan
from sd3tune.report.events import Event
from sd3tune.report.progress import waiting
from sd3tune.webhooks.courier import Courier, closed
from sd3tune.webhooks.discord import DiscordReceiver
from sd3tune.webhooks.posting import Policy
from sd3tune.webhooks.raw import RawReceiver

CLOSE_SECONDS = 5.0  # at the end of a run, for everything that still waits
RECEIVERS = {"discord": DiscordReceiver, "raw": RawReceiver}


class WebhookSink:
    """A thread for each webhook, so that one that is down does not hold up another."""

    name = "webhook_config"

    def __init__(self, couriers: Sequence[Courier]) -> None:
        self._couriers = couriers
        for courier in couriers:
            courier.start()

    @classmethod
    def of(cls, plan: WebhookPlan) -> "WebhookSink":
        """The plan's webhooks."""
        couriers = []
        for webhook in plan.webhooks:
            check = everything if webhook.allow_link_local else not_link_local
            policy = Policy(check, verify=not webhook.ssl_no_verify)
            couriers.append(
                Courier(RECEIVERS[webhook.webhook_type](webhook, policy, plan.every_steps))
            )
        return cls(couriers)

    def receive(self, event: Event) -> None:
        """Queues the event; never waits."""
        for courier in self._couriers:
            courier.put(event)

    def close(self) -> None:
        """Sends what waits, for a few seconds at most."""
        with waiting("sending the last events to webhooks"):
            closed(self._couriers, CLOSE_SECONDS, time.monotonic)
