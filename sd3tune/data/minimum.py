"""How many images a dataset must have: enough for an optimizer step and for a batch of the VAE."""

from dataclasses import replace
from typing import TYPE_CHECKING

from sd3tune.data.discover import Discovery
from sd3tune.errors import DataError

if TYPE_CHECKING:
    from sd3tune.config.datasets.image_dataset import ImageDataset


def check_minimum(
    found: Discovery,
    dataset: "ImageDataset",
    *,
    train_batch_size: int,
    gradient_accumulation_steps: int,
    processes: int = 1,
    oversubscribe: bool = False,
) -> Discovery:
    """A dataset must fill one optimizer step, and one batch of the VAE when that was asked for.
    Thin buckets are completed by the loader, so the rule is per dataset. With `oversubscribe`
    (allow_dataset_oversubscription) what is too small is repeated.

    Raises DataError with the numbers and the ways out.
    """
    images = len(found.samples)
    have = images * (dataset.repeats + 1)
    batch = dataset.train_batch_size or train_batch_size
    need = batch * gradient_accumulation_steps * processes
    repeats = -(-need // images) - 1
    if have < need and oversubscribe:
        return replace(found, samples=tuple(replace(s, repeats=repeats) for s in found.samples))
    if have < need:
        raise DataError(
            f"dataset `{dataset.id}` has {images} images x (repeats={dataset.repeats} "
            f"+ 1) = {have}, one optimizer step takes train_batch_size={batch} x "
            f"gradient_accumulation_steps={gradient_accumulation_steps}"
            + (f" x {processes} processes = {need}" if processes > 1 else f" = {need}"),
            hint=f"set repeats={repeats} in the dataset, or "
            + _smaller_step(have, batch, gradient_accumulation_steps, processes)
            + "allow_dataset_oversubscription=true",
        )
    return found


def _smaller_step(have: int, batch: int, accumulated: int, processes: int) -> str:
    """The largest step that `have` images fill, as settings: "train_batch_size=2, or "; empty when
    each process cannot have one."""
    at_once = have // (accumulated * processes)
    if at_once:
        return f"train_batch_size={at_once}, or "
    if have < processes:
        return ""
    steps = have // processes
    smaller = "train_batch_size=1 and " if batch > 1 else ""
    return f"{smaller}gradient_accumulation_steps={steps}, or "


def check_vae_batch(found: Discovery, dataset: "ImageDataset", asked: bool) -> None:
    """Raises DataError when more images are to be encoded at a time than there are."""
    images, size = len(found.samples), dataset.vae_batch_size
    if asked and images < size:
        raise DataError(
            f"dataset `{dataset.id}` has {images} images, vae_batch_size={size} encodes more at a "
            "time",
            hint=f"set vae_batch_size to {images} or less, or add images",
        )
