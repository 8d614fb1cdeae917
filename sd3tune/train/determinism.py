"""Explains torch's error where `deterministic` is set and an operation has no such kernel."""

from collections.abc import Iterator
from contextlib import contextmanager

from sd3tune.errors import PlanError

NO_KERNEL = "does not have a deterministic implementation"  # torch's words, in every version


@contextmanager
def explained() -> Iterator[None]:
    """Raises PlanError in the place of torch's RuntimeError."""
    try:
        yield
    except RuntimeError as e:
        operation, recognised, _ = str(e).partition(NO_KERNEL)
        if not recognised:
            raise
        raise PlanError(
            f"`deterministic=true`: `{operation.strip()}` has no deterministic kernel here",
            hint="leave deterministic out, or set attention_mechanism=native-math",
        ) from e
