"""The certificate of a run that multiplies in 8 bits, and the check of one layer every few steps.

Before the first step, the base model sees fixed images, noise and levels, and the error of every
layer is measured there, forward and backward. A layer above the scheme's limit multiplies by its
dequantised weight from then on, which needs no second copy; so do as many of the others as the loss
asks for (train/product_choice.py). The certificate lists all figures; a
run that is resumed takes its choices from it, and so computes the same.

In training, one layer at a time is measured again, with the inputs and the gradient of the step
that was just taken. An error above the limit is a warning: the layers that round are not changed on
the way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sd3tune.data.seeds import seed_of
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import World
from sd3tune.quant import product_certificate, product_errors
from sd3tune.quant.product_errors import Errors, ProductError
from sd3tune.quant.w8a8 import W8A8Linear
from sd3tune.report.progress import waiting, warn
from sd3tune.sd3 import flow
from sd3tune.sd3.condition import autocast, denoiser
from sd3tune.tables.schemes import SCHEMES
from sd3tune.train.evaluation import DRAW, FixedImages
from sd3tune.train.loop import Chore, every
from sd3tune.train.noise import draw
from sd3tune.train.product_choice import LEVELS, base_losses, chosen, uncompiled
from sd3tune.train.recipe import Recipe
from sd3tune.train.state import TrainState


def certified(
    state: TrainState, images: FixedImages, plan: Plan, world: World, recipe: Recipe
) -> list[Chore]:
    """Measures or reads the certificate and sets each layer by it; returns the chore that checks.
    Empty for schemes that do not multiply in 8 bits. Every process must call this."""
    scheme = SCHEMES[plan.precision.transformer.value]
    layers = product_errors.layers(state.model) if scheme.multiplies else {}
    if not layers:
        return []
    compiled = plan.hardware.compiler.value is not None
    path = plan.output_dir / product_certificate.FILE
    certificate = product_certificate.read(path, scheme.name, layers) if state.step else None
    if certificate is None:
        with waiting("measuring the products in 8 bits"):
            own = base_errors(state, images, recipe, compiled=compiled)
            errors = worst(world.gathered(tuple(own.items())))
            certificate = product_certificate.certificate_of(scheme, errors)
            losses_of = base_losses(state, layers, images, recipe, world, compiled=compiled)
            names, change = chosen(errors, certificate.weights_only, losses_of)
        certificate = replace(certificate, weights_only=names, loss_change=change)
        if world.main:
            product_certificate.write(certificate, path)
    product_certificate.apply(certificate, layers)
    check = ProductCheck(state, recipe, scheme.error_limit, compiled)
    interval = plan.precision.check_interval
    return [Chore(every(interval), check.run)] if interval else []


def base_errors(
    state: TrainState, images: FixedImages, recipe: Recipe, *, compiled: bool
) -> Errors:
    """Of every layer of the base model without its adapter, on the first of the fixed images."""
    batch = images.batches[0]
    device, model = batch.latents.device, denoiser(state.model)
    which = product_errors.layers(state.model)
    with state.trained.off(), product_errors.measured(which) as errors, uncompiled(compiled):
        for number, level in enumerate(LEVELS):
            eps = draw(recipe.seed, DRAW + number, batch).eps
            x0, s = batch.latents.clone().requires_grad_(), torch.full((1,), level, device=device)
            with autocast(device, recipe.autocast):
                loss = flow.loss(model, x0, (batch.prompt_embeds, batch.pooled), eps, s)
            torch.autograd.grad(loss.sum(), x0)  # through every layer, and to no weight
    return errors


def worst(errors: Iterable[tuple[str, ProductError]]) -> Errors:
    """The largest figures of each layer over all processes, so that all set their layers alike."""
    found: Errors = {}
    for name, error in errors:
        found[name] = found.get(name, error).and_also(error)
    return found


@dataclass
class ProductCheck:
    """Measures one layer with what the last step put through it, by a forward and a backward pass
    of its own that change nothing. It holds the inputs of one forward pass until the next one."""

    state: TrainState
    recipe: Recipe
    limit: float
    compiled: bool
    warned: set[str] = field(default_factory=set)
    last: tuple[dict[str, Any], Tensor] | None = None  # inputs, and the gradient of the prediction
    checking: bool = False

    def __post_init__(self) -> None:
        self.state.model.register_forward_hook(self._seen, with_kwargs=True)

    def _seen(self, model: Any, args: Any, inputs: dict[str, Any], output: Any) -> None:
        if self.checking or not (model.training and output[0].requires_grad):
            return
        held = {k: v.detach() if isinstance(v, Tensor) else v for k, v in inputs.items()}

        def keep(gradient: Tensor) -> None:
            self.last = held, gradient

        output[0].register_hook(keep)

    def run(self) -> None:
        """Measures the layer whose turn it is, and warns where its error is above the limit."""
        if self.last is None:
            return
        layers = product_errors.layers(self.state.model)
        rounding = sorted(name for name, layer in layers.items() if not layer.weights_only)
        if not rounding:
            return
        turn = seed_of(self.recipe.seed, self.state.step, "products") % len(rounding)
        name = rounding[turn]
        error = self.measure({name: layers[name]}).get(name, ProductError())
        if error.worst > self.limit and name not in self.warned:
            self.warned.add(name)
            warn(
                f"step {self.state.step}: `{name}` multiplies in 8 bits with an error of "
                f"{error.forward:.1%} forward and {error.gradient:.1%} backward, more than the "
                f"{self.limit:.0%} of its certificate; base_model_precision=no_change has no such "
                "error"
            )

    def measure(self, which: Mapping[str, W8A8Linear]) -> Errors:
        """Errors of some layers, with the inputs and the gradient of the last step."""
        assert self.last is not None
        (inputs, gradient), self.last, self.checking = self.last, None, True
        z = inputs["hidden_states"].clone().requires_grad_()
        try:
            with product_errors.measured(which) as errors, uncompiled(self.compiled):
                with autocast(z.device, self.recipe.autocast):
                    v = self.state.model(**inputs | {"hidden_states": z})[0]
                torch.autograd.grad(v, z, gradient)
        finally:
            self.checking = False
        return errors
