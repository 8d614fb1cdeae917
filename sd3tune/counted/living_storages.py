"""Bytes of the tensors that are alive, followed operator by operator.

A dispatch mode that sees each operator's results. A storage counts from the operator that made it
until nothing refers to it any more, in blocks of 512 bytes, as CUDA's caching allocator does. It
works for fake tensors and for real ones.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

BLOCK_BYTES = 512  # kMinBlockSize of c10/cuda/CUDACachingAllocator.h
NOTED = 1.002  # growth of the peak at which its tensors are noted again: noting takes time

Group = tuple[str, str, tuple[int, ...]]  # operator, dtype, shape
# An operator with its arguments -> bytes that it needs while it runs, beside its results.
Inside = Callable[[tuple[Any, ...], Mapping[str, Any]], int]


class LivingStorages(TorchDispatchMode):
    """now, peak: bytes of living storages, and their largest sum since `begin`. at_peak: what they
    were made of. inside: bytes that operators of a name take while they run."""

    def __init__(self, inside: Mapping[str, Inside] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inside = inside or {}
        self.now = self.peak = 0
        self.at_peak: dict[Group, int] = {}
        self._noted = 0
        self._groups: Counter[Group] = Counter()
        self._known: dict[int, Any] = {}
        self._elsewhere: set[int] = set()

    def begin(self) -> None:
        """Forgets earlier peaks."""
        self.peak, self._noted, self.at_peak = self.now, 0, dict(self._groups)

    def elsewhere(self, tensor: Tensor) -> Tensor:
        """A copy of the tensor in another memory, which does not count."""
        with self.uncounted():
            return tensor.detach().clone()

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Storages that appear meanwhile are in another memory."""
        add, self.add = self.add, self._add_elsewhere  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.add = add  # type: ignore[method-assign]

    def add(self, tensor: Tensor, operator: str) -> None:
        """Counts the tensor's storage, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
        group = operator, str(tensor.dtype)[6:], tuple(tensor.shape)
        self._known[key] = end = weakref.finalize(storage, self._gone, key, size, group)
        end.atexit = False
        self.now += size
        self._groups[group] += size
        self._reach(self.now)

    def _add_elsewhere(self, tensor: Tensor, operator: str) -> None:
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self._known:
            self._known[key] = end = weakref.finalize(storage, self._known.pop, key, None)
            end.atexit = False

    def _reach(self, amount: int) -> None:
        if amount > self.peak:
            self.peak = amount
            if amount > self._noted * NOTED:
                self._noted, self.at_peak = amount, dict(self._groups)

    def _gone(self, key: int, size: int, group: Group) -> None:
        self._known.pop(key, None)
        self.now -= size
        self._groups[group] -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if any(is_traceable_wrapper_subclass(leaf) for leaf in tree_leaves((args, kwargs))):
            return NotImplemented  # its own operators on its parts come here again
        name = func.__name__
        out = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        for leaf in leaves:
            self.add(leaf, name)
        if (inside := self.inside.get(str(func._schema.name))) is not None:
            self._reach(self.now + inside(args, kwargs or {}))
        return out
