"""An accelerator made of the CPU: tensors that say they lie on the device "emulated", with the rules of a real one.

Tensors of two devices do not meet, except that a number () of the host goes anywhere and the host's indices index; nothing is of
double precision, as on MPS; no generator of the host draws there. Numbers are the CPU's own, so a result equals the CPU's to rounding,
and each read that makes the host wait is counted. (PyTorch's fake tensors on "cuda" have no numbers to branch on, and their gradients
abort a process whose PyTorch was built without CUDA.) An error in a backward pass there ends the process: run with ``-p no:faulthandler``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "emulated"
WIDE = (torch.float64, torch.complex128)
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)


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
    found: list[Tensor] = []
    given, named = [_inner(v, found) for v in args], {key: _inner(v, found) for key, v in kwargs.items()}
    here = any(isinstance(v, Emulated) for v in found)
    lands = here if kwargs.get("device") is None else torch.device(kwargs["device"]).type == NAME
    if func in INDEXING:
        if not isinstance(args[0], Emulated):
            raise RuntimeError(f"{func}: indices on {NAME} do not index a tensor on the CPU")
    elif func in COPIES:
        if func is aten.copy_.default:
            lands = isinstance(args[0], Emulated)
        if isinstance(found[-1], Emulated) and not lands:
            Emulated.waits += 1
            if kwargs.get("dtype") in WIDE:
                raise TypeError(f"{NAME} has no {kwargs['dtype']}: bring it to the host first")
    elif here:
        if strangers := [tuple(v.shape) for v in found if v.ndim and not isinstance(v, Emulated)]:
            raise RuntimeError(f"{func}: expected all tensors on one device, found {NAME} and the CPU: {strangers}")
        Emulated.waits += func is aten._local_scalar_dense.default
    if lands and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: a generator of the CPU cannot draw on {NAME}")
    if "device" in named and lands:
        named["device"] = torch.device("cpu")
    named.pop("pin_memory", None)
    if func is aten._efficientzerotensor.default:  # zeros without memory, which forward derivatives make of any dtype
        return Emulated(torch.zeros(args[0], dtype=torch.float32 if kwargs["dtype"] in WIDE else kwargs["dtype"]))
    out = func(*given, **named)
    if func._schema.is_mutable:
        return kwargs.get("out", args[0]) if func._schema.returns else None
    return _outer(out) if lands else out


def _inner(value: Any, found: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        found.append(value)
        return value.inner if isinstance(value, Emulated) else value
    return [_inner(v, found) for v in value] if isinstance(value, list | tuple) else value


def _outer(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Emulated(value)
    return type(value)(_outer(v) for v in value) if isinstance(value, list | tuple) else value


@contextmanager
def waiting() -> Iterator[type[Emulated]]:
    """Counts in ``.waits`` the reads that make the host wait."""
    Emulated.waits = 0
    yield Emulated


class Module(_DummyBackendModule):
    """The device's module. Code that looks for an accelerator by itself does not find it, so that other tests stay on the CPU."""

    def is_available(self) -> bool:
        return False

    def get_rng_state(self, device: Any) -> Tensor:
        return torch.empty(0)  # it draws by the host's generator

    def set_rng_state(self, state: Tensor, device: Any) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, backend_module=Module())
DEVICE = torch.device(NAME, 0)
_fallback = torch.library.Library("_", "IMPL")
_fallback.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
_library = torch.library.Library("aten", "IMPL", "PrivateUse1")
for _op in (
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.copy_.default,
):  # torch.tensor(…, device=) passes the fallback by
    _library.impl(_op._schema.name.removeprefix("aten::") + ("." + _op._schema.overload_name if _op._schema.overload_name else ""),
                  lambda *args, _op=_op, **kwargs: _run(_op, args, kwargs))  # fmt: skip
