"""Previews: validation pictures while they are drawn."""

from sd3tune.config.fields import Count, Flag, Settings


class PreviewSettings(Settings):
    """Previews of validation pictures."""

    validation_preview: Flag = False
    """Show validation pictures while they are drawn, decoded by a tiny autoencoder: on the page of
    `sd3tune watch`, and in every webhook (docs/guides/webhooks.md)."""
    validation_preview_steps: Count = 1
    """Sampling steps between two previews: with 20 steps and 5, those after steps 5, 10, 15 and
    20."""
