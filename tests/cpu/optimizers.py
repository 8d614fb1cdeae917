"""Optimizers written out in float64 from their papers, to hold the libraries' against.

A reference is a function (w, gradients, lr) -> w after all of them, with the arguments that
sd3tune's table gives the class. Nothing here calls torch.optim or any other optimizer.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Reference = Callable[[Tensor, Sequence[Tensor], float], Tensor]


def adam(  # arXiv:1412.6980, algorithm 1; decoupled: arXiv:1711.05101, algorithm 2
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    decay: float = 0.0,
    l2: float = 0.0,
    stable: bool = False,
) -> Reference:
    def run(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
        (b1, b2), m, v = betas, torch.zeros_like(w), torch.zeros_like(w)
        for t, g in enumerate(gradients, 1):
            g = g + l2 * w
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
            rate = lr
            if stable:  # arXiv:2304.13013, algorithm 2
                rms = (g * g / v_hat.clamp(min=eps**2)).mean().sqrt()
                rate = lr / max(1.0, rms.item())
            w = w * (1 - rate * decay) - rate * m_hat / (v_hat.sqrt() + eps)
        return w

    return run


def lion(betas: tuple[float, float] = (0.9, 0.99), decay: float = 0.01) -> Reference:
    """arXiv:2302.06675, algorithm 2."""

    def run(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
        (b1, b2), m = betas, torch.zeros_like(w)
        for g in gradients:
            w = w - lr * ((b1 * m + (1 - b1) * g).sign() + decay * w)
            m = b2 * m + (1 - b2) * g
        return w

    return run


def sgd(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    return w - lr * sum(gradients)


def radam(
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, lookahead: int = 0
) -> Reference:
    """arXiv:1908.03265, algorithm 2; lookahead: arXiv:1907.08610 with alpha 0.5."""

    def run(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
        (b1, b2), m, v, slow = betas, torch.zeros_like(w), torch.zeros_like(w), w
        longest = 2 / (1 - b2) - 1
        for t, g in enumerate(gradients, 1):
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            rho = longest - 2 * t * b2**t / (1 - b2**t)
            step = m / (1 - b1**t)
            if rho > 5:
                r = math.sqrt((rho - 4) * (rho - 2) * longest
                              / ((longest - 4) * (longest - 2) * rho))  # fmt: skip
                step = r * step / ((v / (1 - b2**t)).sqrt() + eps)
            w = w - lr * step
            if lookahead and t % lookahead == 0:
                w = slow = slow + 0.5 * (w - slow)
        return w

    return run


def nadam(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    """Dozat 2016, with the momentum schedule of its appendix."""
    (b1, b2), m, v, product = (0.9, 0.999), torch.zeros_like(w), torch.zeros_like(w), 1.0
    for t, g in enumerate(gradients, 1):
        now, then = (b1 * (1 - 0.5 * 0.96 ** (n * 0.004)) for n in (t, t + 1))
        product *= now
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        m_hat = then * m / (1 - product * then) + (1 - now) * g / (1 - product)
        w = w - lr * m_hat / ((v / (1 - b2**t)).sqrt() + 1e-8)
    return w


def rmsprop(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    v = torch.zeros_like(w)
    for g in gradients:
        v = 0.99 * v + 0.01 * g * g
        w = w - lr * g / (v.sqrt() + 1e-8)
    return w


def adagrad(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    total = torch.zeros_like(w)
    for g in gradients:
        total = total + g * g
        w = w - lr * g / (total.sqrt() + 1e-10)
    return w


def adadelta(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    """arXiv:1212.5701, algorithm 1."""
    v, u = torch.zeros_like(w), torch.zeros_like(w)
    for g in gradients:
        v = 0.9 * v + 0.1 * g * g
        delta = ((u + 1e-6) / (v + 1e-6)).sqrt() * g
        u = 0.9 * u + 0.1 * delta * delta
        w = w - lr * delta
    return w


def adafactor(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    """arXiv:1804.04235, algorithm 4, with lr as the limit of 1/sqrt(t)."""
    rows, columns = torch.zeros(len(w), 1), torch.zeros(1, w.shape[1])
    rows, columns = rows.double(), columns.double()
    tiny = torch.finfo(torch.float32).eps
    for t, g in enumerate(gradients, 1):
        alpha = max(1e-3, w.square().mean().sqrt().item()) * min(lr, 1 / math.sqrt(t))
        b2 = 1 - t**-0.8
        rows = b2 * rows + (1 - b2) * g.square().mean(1, keepdim=True)
        columns = b2 * columns + (1 - b2) * g.square().mean(0, keepdim=True)
        u = g / (rows * columns / rows.mean().clamp(min=tiny**2)).clamp(min=tiny**2).sqrt()
        w = w - alpha * u / max(1.0, u.square().mean().sqrt().item())
    return w


def adamax(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    """arXiv:1412.6980, algorithm 2."""
    m, u = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m, u = 0.9 * m + 0.1 * g, torch.maximum(0.999 * u, g.abs() + 1e-8)
        w = w - lr / (1 - 0.9**t) * m / u
    return w


def asgd(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    """Polyak and Juditsky 1992; before t0 = 1e6 steps the average is the weight itself."""
    eta = lr
    for t, g in enumerate(gradients, 1):
        w = w * (1 - 1e-4 * eta) - eta * g
        eta = lr / (1 + 1e-4 * lr * t) ** 0.75
    return w


def adan(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    """arXiv:2208.06677, algorithm 1, with the bias corrections of its authors' code."""
    b1, b2, b3 = 0.98, 0.92, 0.99
    m, d, n, before = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w), gradients[0]
    for t, g in enumerate(gradients, 1):
        m, d = b1 * m + (1 - b1) * g, b2 * d + (1 - b2) * (g - before)
        n = b3 * n + (1 - b3) * (g + b2 * (g - before)).square()
        before = g
        step = m / (1 - b1**t) + b2 * d / (1 - b2**t)
        w = (w - lr * step / ((n / (1 - b3**t)).sqrt() + 1e-6)) / (1 + lr * 0.02)
    return w


def ademamix(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    """arXiv:2409.03137, algorithm 1, without its schedulers."""
    (b1, b2, b3), alpha = (0.9, 0.999, 0.9999), 5.0
    fast, slow, v = (torch.zeros_like(w) for _ in range(3))
    for t, g in enumerate(gradients, 1):
        fast, slow = b1 * fast + (1 - b1) * g, b3 * slow + (1 - b3) * g
        v = b2 * v + (1 - b2) * g * g
        step = (fast / (1 - b1**t) + alpha * slow) / ((v / (1 - b2**t)).sqrt() + 1e-8)
        w = w - lr * (step + 0.01 * w)
    return w


def prodigy(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    """arXiv:2306.06101, algorithm 4: Adam with Prodigy's step size."""
    (b1, b2), d, start = (0.9, 0.999), 1e-6, w
    m, v, s, r = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w), 0.0
    for g in gradients:
        r = math.sqrt(b2) * r + lr * d * d * (g * (start - w)).sum().item()
        s = math.sqrt(b2) * s + lr * d * d * g
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * d * d * g * g
        found = max(d, r / s.abs().sum().item())
        # The step uses the d that its moments were made with; eps the new one.
        w, d = w - d * lr * m / (v.sqrt() + found * 1e-8), found
    return w


def schedule_free(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    """arXiv:2405.15682, algorithm 1: z moves, x is its average, gradients are taken at y."""
    (b1, b2), z, x, v = (0.9, 0.999), w, w, torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        v = b2 * v + (1 - b2) * g * g
        z = z - lr * g / ((v / (1 - b2**t)).sqrt() + 1e-8)
        x = (1 - 1 / t) * x + z / t
    return (1 - b1) * z + b1 * x


def soap(w: Tensor, gradients: Sequence[Tensor], lr: float) -> Tensor:
    """arXiv:2409.11321, algorithms 3 and 4, one-sided: Adam in the eigenbasis of the rows. The
    first gradient makes the basis and no step; each tenth turns it by one power iteration."""
    first, *rest = gradients
    (b1, b2), m, v, gg = (0.95, 0.95), torch.zeros_like(w), torch.zeros_like(w), first @ first.T
    gg = gg * 0.05
    basis = torch.linalg.eigh(gg)[1].flip(1)
    for t, g in enumerate(rest, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (basis.T @ g).square()
        step = basis @ ((basis.T @ m) / (v.sqrt() + 1e-8))
        w = (w - lr * math.sqrt(1 - b2**t) / (1 - b1**t) * step) * (1 - lr * 0.01)
        gg = b2 * gg + (1 - b2) * g @ g.T
        if t % 10 == 0:
            order = (basis * (gg @ basis)).sum(0).argsort(descending=True)
            v, basis = v[order], torch.linalg.qr((gg @ basis)[:, order])[0]
    return w


OPTIMI = {"betas": (0.9, 0.99), "eps": 1e-6}
# Name -> reference and the largest error of the update, relative to its norm, that its storage
# allows: rounding of float32, of bf16 weights, or of low-bit moments.
EXACT, BF16, BIT8, BIT4 = 2e-5, 0.3, 0.05, 0.4
REFERENCES: dict[str, tuple[Reference, float]] = {
    "adamw": (adam(decay=0.01), EXACT),
    "adamw_bf16": (adam(decay=0.01), BF16),
    "torch-adam": (adam(), EXACT),
    "torch-sgd": (sgd, EXACT),
    "torch-radam": (radam(), EXACT),
    "torch-nadam": (nadam, EXACT),
    "torch-rmsprop": (rmsprop, EXACT),
    "torch-adagrad": (adagrad, EXACT),
    "torch-adadelta": (adadelta, EXACT),
    "torch-adafactor": (adafactor, EXACT),
    "torch-adamax": (adamax, EXACT),
    "torch-asgd": (asgd, EXACT),
    "optimi-stableadamw": (adam(**OPTIMI, decay=0.01, stable=True), EXACT),  # type: ignore[arg-type]
    "optimi-adamw": (adam(**OPTIMI, decay=0.01), EXACT),  # type: ignore[arg-type]
    "optimi-lion": (lion(), EXACT),
    "optimi-radam": (radam(**OPTIMI), EXACT),  # type: ignore[arg-type]
    "optimi-ranger": (radam(**OPTIMI, lookahead=6), EXACT),  # type: ignore[arg-type]
    "optimi-adan": (adan, EXACT),
    "optimi-adam": (adam(**OPTIMI), EXACT),  # type: ignore[arg-type]
    "optimi-sgd": (sgd, EXACT),
    "prodigy": (prodigy, EXACT),
    "adamw_schedulefree": (schedule_free, EXACT),
    "soap": (soap, EXACT),
    "bnb-adagrad": (adagrad, EXACT),
    "bnb-adam": (adam(), EXACT),
    "bnb-adamw": (adam(decay=0.01), EXACT),
    "bnb-lion": (lion(), EXACT),
    "bnb-ademamix": (ademamix, EXACT),
    "bnb-adagrad8bit": (adagrad, BIT8),
    "bnb-adam8bit": (adam(), BIT8),
    "bnb-adamw8bit": (adam(decay=0.01), BIT8),
    "bnb-lion8bit": (lion(), 0.3),  # a sign turns where the rounded moment crosses zero
    "bnb-ademamix8bit": (ademamix, BIT8),
    "ao-adamw8bit": (adam(decay=0.01), BIT8),
    "ao-adamw4bit": (adam(decay=0.01), BIT4),
    "ao-adamfp8": (adam(), BIT8),
    "ao-adamwfp8": (adam(decay=0.01), BIT8),
}
REFERENCES |= {
    f"{name}-paged": row
    for name, row in REFERENCES.items()
    if name.startswith("bnb-") and "adagrad" not in name
}
RATE = {"prodigy": 1.0, "torch-adadelta": 1.0}
# Its first steps are a millionth: beside weights of 0.1 they are rounding.
FROM_ZERO = ("prodigy",)
SHAPE, STEPS = (16, 512), 12  # an adapter of rank 16, large enough to be kept in 8 bits


def gradients(seed: int, count: int = STEPS, shape: tuple[int, int] = SHAPE) -> list[Tensor]:
    """Noise around one direction, so that momentum matters."""
    dice = torch.Generator().manual_seed(seed)
    direction = torch.randn(shape, generator=dice)
    return [direction + 0.5 * torch.randn(shape, generator=dice) for _ in range(count)]


def weights(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * 0.1


def error(name: str) -> float:
    """|update - reference| / |reference| over STEPS steps of the optimizer sd3tune builds."""
    from sd3tune.train.optim import build

    dtype = torch.bfloat16 if name == "adamw_bf16" else torch.float32
    start, lr = weights(1).to(dtype), RATE.get(name, 1e-3)
    start *= name not in FROM_ZERO
    p = torch.nn.Parameter(start.clone())
    optimizer = build(name, [p], lr, {})
    given = [g.to(dtype) for g in gradients(2)]
    for g in given:
        p.grad = g.clone()
        optimizer.step()
    reference, _ = REFERENCES[name]
    want = reference(start.double(), [g.double() for g in given], lr) - start.double()
    return float((p.detach().double() - start.double() - want).norm() / want.norm())
