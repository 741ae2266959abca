"""An accelerator made of the CPU: tensors that say they lie on the device "emulated", with the rules of a real one.

Tensors of two devices do not meet, except that a number () of the host goes anywhere and the host's indices index; nothing is of double
precision, as on MPS; no generator of the host draws there. Numbers are the CPU's own, so a result equals the CPU's, and each read that makes
the host wait is counted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "emulated"
WIDE = (torch.float64, torch.complex128)
aten = torch.ops.aten
CROSSING = (aten._to_copy.default, aten.copy_.default)
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)


class Module(_DummyBackendModule):
    """The device module; not there for code that looks for an accelerator by itself."""

    there = False

    def is_available(self) -> bool:
        return self.there


class Emulated(Tensor):
    """A tensor on the device; ``inner`` holds its numbers on the CPU."""

    inner: Tensor
    waits: int = 0
    """Reads since :func:`waiting` began that make the host wait."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Emulated":
        if inner.dtype in WIDE:
            raise TypeError(f"{NAME} has no {inner.dtype}: keep it on the host")
        out = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        out.inner = inner
        return out

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"Emulated({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation of which an argument, or the result, lies on the device."""
    leaves, spec = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    here = any(isinstance(t, Emulated) for t in tensors)
    asked = kwargs.get("device")
    if func not in CROSSING and func not in INDEXING:
        for t in tensors:
            if not isinstance(t, Emulated) and t.ndim and here:
                raise RuntimeError(
                    f"{func}: expected all tensors on one device, found {NAME} and {t.device}, {tuple(t.shape)}"
                )
    elif func in INDEXING and isinstance(args[0], Emulated) is False:
        raise RuntimeError(f"{func}: indices on {NAME} do not index a tensor on the CPU")
    lands = torch.device(asked).type == NAME if asked is not None else here
    if lands and isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError(f"{func}: a generator of the CPU cannot draw on {NAME}")
    if func is aten._local_scalar_dense.default or (func in CROSSING and _leaves(func, args, kwargs)):
        Emulated.waits += 1
        if kwargs.get("dtype") in WIDE:
            raise TypeError(f"{NAME} has no {kwargs['dtype']}: bring it to the host first")
    plain = [leaf.inner if isinstance(leaf, Emulated) else leaf for leaf in leaves]
    given, named = tree_unflatten(plain, spec)
    if asked is not None and torch.device(asked).type == NAME:
        named["device"] = torch.device("cpu")
    named.pop("pin_memory", None)
    out = func(*given, **named)
    if func is aten.copy_.default:
        return args[0]
    if not lands:
        return out
    wrapped = tree_map(lambda v: Emulated(v) if isinstance(v, Tensor) else v, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if here and asked is None else wrapped


def _leaves(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a copy goes from the device to the host without being allowed to go on by itself."""
    if func is aten.copy_.default:
        return isinstance(args[1], Emulated) and not isinstance(args[0], Emulated)
    asked = kwargs.get("device")
    return isinstance(args[0], Emulated) and asked is not None and torch.device(asked).type != NAME


@contextmanager
def waiting() -> Iterator[type[Emulated]]:
    """Counts in ``.waits`` the reads that make the host wait."""
    Emulated.waits = 0
    yield Emulated


_module = Module()
_setup_privateuseone_for_python_backend(NAME, backend_module=_module)
DEVICE = torch.device(NAME, 0)
_library = torch.library.Library("_", "IMPL")
_library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
