"""Networks against diffusers: same architecture, same weights, same outputs, in one interleaved run.

    python bench/nets.py forward [--threads 1] [--compiled]   # time, ratio and efficiency of U-Net and DiT
    python bench/nets.py backward [--threads 1]               # forward + backward
    python bench/nets.py memory                               # peak memory of a training step, with and without checkpointing
    python bench/nets.py shares                               # where the time goes, against the measured ceiling
    python bench/nets.py convolution                          # Winograd's convolution against the ordinary one, by size

The U-Net is the 35.7 M net of DDPM for CIFAR-10 at batch 8, 32x32; the transformer DiT-S/2 on latents of 32x32x4 at batch 8.
"sampling" is the path of ``reverie sample``, with prepacked weights. Efficiency is the time of the convolutions, matrix products and
attention alone, replayed one by one on the tensors of the forward pass, over the time of the whole forward pass. A convolution is a
convolution whichever way it is computed, with what it does to its input and output inside; for Winograd's the share of its products alone
is given besides. On one thread times are processor times, so that a neighbour on the machine costs less.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reverie.core.memory import keep_freed_memory

HEAVY = {
    "convolution": ("aten.conv", "aten.mkldnn_convolution"),
    "matrix product": (
        "aten.matmul",
        "aten.addmm",
        "aten.mm",
        "aten.bmm",
        "aten.baddbmm",
        "aten.linear",
        "mkldnn._linear",
    ),
    "attention": ("aten.scaled_dot_product", "aten._scaled_dot_product"),
}
GROUPS = HEAVY | {
    "normalisation": ("aten.group_norm", "aten.layer_norm", "aten.native_group_norm", "aten.native_layer_norm"),
    "activation": ("aten.silu", "aten.gelu"),
    "copies and joins": (
        "aten.copy_",
        "aten._to_copy",
        "aten.clone",
        "aten.cat",
        "aten.constant_pad_nd",
        "aten._unsafe_view",
    ),
}

SIZES = (
    (32, 64, 64), (32, 64, 128), (32, 96, 96), (32, 128, 128), (32, 256, 128), (16, 128, 128), (16, 128, 256), (16, 256, 256),
    (16, 512, 256), (8, 256, 256), (8, 512, 256), (4, 256, 256), (4, 512, 256),
)  # fmt: skip
"""Side of the picture, channels in and out."""

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


def group(func: Any) -> str:
    if not isinstance(func, torch._ops.OpOverload):
        return "convolution"
    return next((group for group, starts in GROUPS.items() if str(func).startswith(starts)), "the rest")


class Recorder(TorchDispatchMode):
    """Keeps every call that computes something, with its tensors; ``whole`` takes Winograd's convolution as one call."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.inside, self.whole = False, whole

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Recorder:
        from reverie.nets.winograd import Conv3x3

        self.plain = plain = Conv3x3.forward

        def forward(layer: Conv3x3, x: torch.Tensor) -> torch.Tensor:
            packed = layer.packed

            def convolution(x: torch.Tensor) -> torch.Tensor:
                layer.packed = packed
                try:
                    return plain(layer, x)
                finally:
                    layer.packed = None

            self.inside = True
            try:
                return plain(layer, x)
            finally:
                self.inside = False
                self.calls.append((convolution, (x,), {}))

        if self.whole:
            Conv3x3.forward = forward
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        from reverie.nets.winograd import Conv3x3

        Conv3x3.forward = self.plain
        super().__exit__(*error)


def clock(threads: int) -> Callable[[], float]:
    return time.process_time if threads == 1 else time.perf_counter


def interleaved(runs: dict[str, Callable[[], Any]], threads: int, rounds: int) -> dict[str, float]:
    """Median seconds of each, measured in turns."""
    now, times = clock(threads), {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = now()
            run()
            times[name].append(now() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def models(which: str) -> tuple[torch.nn.Module, Any, dict[str, Any], tuple[int, ...]]:
    """Theirs, ours with the same random weights, what theirs is told besides, and the shape of the input."""
    import diffusers

    from reverie.bridge import architecture, weights

    torch.manual_seed(0)
    if which == "unet":
        kind, told, shape = "UNet2DModel", {}, (3, 32, 32)
        theirs = diffusers.UNet2DModel(
            sample_size=32, block_out_channels=(128, 256, 256, 256), attention_head_dim=None, norm_eps=1e-6,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"), downsample_padding=0,
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), freq_shift=1, flip_sin_to_cos=False,
        )  # fmt: skip
    else:
        kind, shape = "DiTTransformer2DModel", (4, 32, 32)
        theirs = diffusers.DiTTransformer2DModel(
            num_attention_heads=6, attention_head_dim=64, num_layers=12, out_channels=4
        )
        for block in theirs.transformer_blocks[1:]:
            block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
        told = {"class_labels": torch.arange(8)}
    ours = architecture.network(kind, dict(theirs.config))
    assert ours is not None
    ours.load_state_dict(weights.to_ours(ours, theirs.config, theirs.state_dict()))
    return theirs, ours, told, shape


def calls_of(which: str, batch: int = 8) -> tuple[Any, Any, dict[str, Callable[[], torch.Tensor]]]:
    from reverie.core.condition import Cond

    theirs, ours, told, shape = models(which)
    x, t = torch.randn(batch, *shape), torch.full((batch,), 300.0)
    told = {name: value[:1].expand(batch) for name, value in told.items()}
    cond = Cond(label=told["class_labels"]) if told else None
    return theirs, ours, {"diffusers": lambda: theirs(x, t, **told).sample, "reverie": lambda: ours(x, t / 1000, cond)}


def sampling(net: torch.nn.Module, run: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    """The same as ``reverie sample`` runs it: with prepacked weights."""
    from reverie.nets import prepacked

    copy = dict(prepacked.prepack(net).named_modules())
    layers = [
        (layer, copy[path].packed) for path, layer in net.named_modules() if isinstance(layer, prepacked.Prepackable)
    ]

    def call() -> Any:
        for layer, form in layers:
            layer.packed = form
        out = run()
        for layer, _ in layers:
            layer.packed = None
        return out

    return {"sampling": call}


def alone(run: Callable[[], Any], threads: int, rounds: int, whole: bool = True) -> tuple[float, dict[str, float]]:
    """Median seconds of the heavy operations of a forward pass, replayed, and of every group of operations."""
    with Recorder(whole) as recorder:
        run()
    now, totals = clock(threads), []
    for _ in range(rounds + 1):
        each: dict[str, float] = {}
        for func, args, kwargs in recorder.calls:
            name = group(func)
            if name == "the rest" or getattr(func, "is_view", False):
                continue
            start = now()
            func(*args, **kwargs)
            each[name] = each.get(name, 0.0) + now() - start
        totals.append(each)
    middle = {name: statistics.median(total[name] for total in totals[1:]) for name in totals[0]}
    return sum(middle.get(name, 0.0) for name in HEAVY), middle


def ceiling(threads: int) -> float:
    """GFLOP/s of a matrix product of 1536: what the machine gives."""
    a = torch.randn(1536, 1536)
    return 2 * 1536**3 / interleaved({"": lambda: a @ a}, threads, 7)[""] / 1e9


def work(run: Callable[[], Any]) -> float:
    """GFLOP of a forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def forward(threads: int, compiled: bool, rounds: int) -> None:
    for which in ("unet", "dit"):
        theirs, ours, runs = calls_of(which)
        theirs.eval(), ours.eval()
        with torch.inference_mode():
            difference = (runs["diffusers"]() - runs["reverie"]()).abs().max()
            eager = runs | sampling(ours, runs["reverie"])
            runs = dict(eager)
            if compiled:
                runs |= {f"{name} compiled": torch.compile(runs[name]) for name in ("diffusers", "reverie")}
            times = interleaved(runs, threads, rounds)
            print(f"{which}, {threads} threads, outputs differ by {difference:.1e}")
            for name, run in eager.items():
                heavy, _ = alone(run, threads, rounds)
                inside, _ = alone(run, threads, rounds, whole=False)
                print(f"  efficiency of {name}: {heavy / times[name]:.2f} (products alone {inside / times[name]:.2f})")
        for name, seconds in times.items():
            print(f"  {name:20s} {1e3 * seconds:8.0f} ms   diffusers / this = {times['diffusers'] / seconds:.2f}")


def backward(threads: int, rounds: int) -> None:
    for which in ("unet", "dit"):
        *_, runs = calls_of(which)
        steps = {name: (lambda run=run: run().square().mean().backward()) for name, run in runs.items()}
        times = interleaved(steps, threads, rounds)
        print(f"{which}, forward and backward, {threads} threads")
        for name, seconds in times.items():
            print(f"  {name:20s} {1e3 * seconds:8.0f} ms   diffusers / this = {times['diffusers'] / seconds:.2f}")


def step(which: str, name: str, batch: int) -> None:
    """One training step in a process of its own: prints the peak of its memory above what the imports took, in MiB."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    theirs, ours, runs = calls_of(which, batch)
    kept = theirs if name == "diffusers" else ours
    parameters = sum(p.numel() for p in kept.parameters()) * 4 / 2**10
    built = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name == "reverie checkpointed":
        ours.checkpointing = True
    runs[name.split()[0]]().square().mean().backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((peak - built + parameters) / 2**10, (built - before) / 2**10)


def memory(batch: int) -> None:
    """Freed blocks go back to the system at once, so that the peak is what was alive and not how the heap of ``malloc`` came to lie."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    for which in ("unet", "dit"):
        peaks = {}
        for name in ("diffusers", "reverie", "reverie checkpointed"):
            out = subprocess.run(
                [sys.executable, __file__, "step", which, name, str(batch)],
                capture_output=True,
                check=True,
                text=True,
                env=environment,
            )
            peaks[name] = float(out.stdout.split()[0])
        print(f"{which}, batch {batch}: weights, gradients and what is kept for them, at the peak")
        for name, peak in peaks.items():
            print(f"  {name:20s} {peak:8.0f} MiB   {peak / peaks['diffusers']:.2f}")


def shares(threads: int, rounds: int) -> None:
    top = ceiling(threads)
    print(f"ceiling: {top:.0f} GFLOP/s on {threads} threads")
    for which in ("unet", "dit"):
        theirs, ours, runs = calls_of(which)
        theirs.eval(), ours.eval()
        with torch.inference_mode():
            flops = work(runs["diffusers"])
            runs = runs | sampling(ours, runs["reverie"])
            whole = interleaved(runs, threads, rounds)
            for name, run in runs.items():
                _, each = alone(run, threads, rounds)
                each["the rest"] = max(0.0, whole[name] - sum(each.values()))
                rate = flops / whole[name]
                print(
                    f"{which} {name}: {1e3 * whole[name]:.0f} ms, {rate:.0f} GFLOP/s ({rate / top:.2f} of the ceiling)"
                )
                print("  " + ", ".join(f"{key} {100 * value / whole[name]:.0f} %" for key, value in each.items()))


def convolution(threads: int, rounds: int) -> None:
    """Milliseconds of the ordinary convolution, of making the filters, and of Winograd's convolution with them."""
    from torch.nn import functional as F

    from reverie.nets.winograd import convolve, filters

    print(f"{threads} threads\nbatch size  in out  ordinary  filters  winograd")
    for batch in (1, 8, 16):
        for size, inputs, outputs in SIZES:
            x = torch.randn(batch, inputs, size, size).to(memory_format=torch.channels_last)
            weight = torch.randn(outputs, inputs, 3, 3).to(memory_format=torch.channels_last)
            bias, kept = torch.randn(outputs), filters(weight)
            runs = {
                "ordinary": lambda x=x, w=weight, b=bias: F.conv2d(x, w, b, padding=1),
                "filters": lambda w=weight: filters(w),
                "winograd": lambda x=x, k=kept, b=bias: convolve(x, k, b),
            }
            with torch.inference_mode():
                times = interleaved(runs, threads, rounds)
            row = "".join(f"{1e3 * seconds:10.2f}" for seconds in times.values())
            print(f"{batch:5d} {size:4d} {inputs:3d} {outputs:3d}{row}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["step"]:
        return step(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["forward", "backward", "memory", "shares", "convolution"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--compiled", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    match given.what:
        case "forward":
            forward(given.threads, given.compiled, given.rounds)
        case "backward":
            backward(given.threads, given.rounds)
        case "memory":
            memory(given.batch)
        case "shares":
            shares(given.threads, given.rounds)
        case "convolution":
            convolution(given.threads, given.rounds)


if __name__ == "__main__":
    main()
