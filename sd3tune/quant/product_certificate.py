"""What was measured of the layers that multiply in 8 bits, and which of them therefore do not.

A run keeps its certificate in output_dir: a run that is resumed takes its choices from there, and
so computes the same.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from sd3tune.errors import Diverged
from sd3tune.filesystem import disk, drafts, opening
from sd3tune.quant.product_errors import Errors, ProductError, names_above
from sd3tune.quant.w8a8 import W8A8Linear
from sd3tune.report.progress import say, warn
from sd3tune.tables.schemes import Scheme

FILE = "eight_bit_products.json"


@dataclass(frozen=True)
class Certificate:
    """What was measured before the first step of a run, or the first picture of a command.

    limit: of the errors. weights_only: the layers that multiply by their dequantised weights, the
    worst first. loss_change: of the base model's losses, in the mean, by rounding the
    inputs of the others; None: not measured.
    """

    scheme: str
    limit: float
    errors: Mapping[str, ProductError]
    weights_only: tuple[str, ...]
    loss_change: float | None = None

    def sentence(self) -> str:
        """For the terminal: "72 layers multiply in 8 bits, error at most 0.9 % (NAME)"."""
        rounding = {n: e.worst for n, e in self.errors.items() if n not in self.weights_only}
        worst = max(rounding, key=lambda name: rounding[name], default="")
        text = f"{len(rounding)} layers multiply in 8 bits"
        text += f", error at most {rounding[worst]:.2%} ({worst})" if worst else ""
        if self.loss_change is not None:
            text += f", losses of the base model change by {self.loss_change:.1e}"
        if not self.weights_only:
            return text
        above = sum(self.errors[name].worst > self.limit for name in self.weights_only)
        for_loss = len(self.weights_only) - above
        causes = [f"{above} above {self.limit:.0%}"] if above else []
        causes += [f"{for_loss} for the sake of the loss"] if for_loss else []
        listed = ", ".join(self.weights_only[:3]) + (", …" if len(self.weights_only) > 3 else "")
        return f"{text}; {' and '.join(causes)} multiply in the base dtype: {listed}"

    def with_lossy_weights(self) -> str:
        """A sentence where the rounded weights themselves cost more than the limit; or ""."""
        lossy = {n: e.weight for n, e in self.errors.items() if e.weight > self.limit}
        if not lossy:
            return ""
        worst = max(lossy, key=lambda name: lossy[name])
        return (
            f"{len(lossy)} layers lose more than {self.limit:.0%} of their output by weights of 8 "
            f"bits, at most {lossy[worst]:.1%} (`{worst}`): base_model_precision=no_change has no "
            "such error"
        )


def certificate_of(scheme: Scheme, errors: Errors) -> Certificate:
    """By the errors of all layers. Raises Diverged where a layer saw numbers that are not finite:
    no product would be right there."""
    for name, error in errors.items():
        if not (isfinite(error.worst) and isfinite(error.weight)):
            raise Diverged(
                f"`{name}`: what reaches this layer of the model is not finite",
                hint="look for NaN in the weights of the base model, or use another "
                "mixed_precision: float16 ends at 65504",
            )
    above = tuple(names_above(errors, scheme.error_limit))
    return Certificate(scheme.name, scheme.error_limit, errors, above)


def apply(certificate: Certificate, layers: Mapping[str, W8A8Linear]) -> None:
    """Sets each layer as the certificate says, and prints it."""
    for name in certificate.weights_only:
        layers[name].weights_only = True
    say(f"products {certificate.sentence()}")
    if doubtful := certificate.with_lossy_weights():
        warn(doubtful)


def write(certificate: Certificate, path: Path) -> None:
    """Raises DiskError."""
    with disk.explained("write", path):
        drafts.write(path, json.dumps(asdict(certificate), indent=1).encode())


def read(path: Path, scheme: str, layers: Mapping[str, W8A8Linear]) -> Certificate | None:
    """The certificate of an earlier start of the run; None where there is none of these layers."""
    if not opening.is_regular(path):
        return None
    try:
        data = json.loads(path.read_bytes())
        errors = {name: ProductError(**error) for name, error in data.pop("errors").items()}
        kept = Certificate(**data | {"errors": errors, "weights_only": tuple(data["weights_only"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    ours = kept.scheme == scheme and kept.errors.keys() == layers.keys()
    return kept if ours and layers.keys() >= set(kept.weights_only) else None
