"""How training scales over processes on this machine: images a second of one, of two that share each batch, and of two that know nothing of
each other, which is what the machine could do.

    python bench/scale.py                               # about an hour; wants an idle machine with two cores
    python bench/scale.py --images 2048 --repeats 2     # a quarter of an hour

Strong scaling keeps the batch of the run, weak scaling that of each process. Every process has one thread. The pace is that of the log,
from first line to last, so that neither start nor drawing counts; the best of the repeats is taken. Efficiency is the pace of two that
share over that of the two single runs together, at the same batch a process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NETS = {
    "unet": ["--net", "unet", "--net.width", "32", "--net.multipliers", "1", "2", "--net.blocks", "2", "--net.attention", "2"],
    "dit": ["--net", "dit", "--net.patch", "4", "--net.width", "192", "--net.depth", "6", "--net.heads", "6"],
}  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "scale.json"


def begun(folder: Path, net: str, images: int, batch: int, processes: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "reverie", "train", "--data", "mnist5k", *NETS[net], "--out", str(folder)]
    never = [
        "--train.validate-every",
        "1000000000",
        "--train.sample-every",
        "1000000000",
        "--train.save-every",
        "1000000000",
    ]
    size = [
        "--train.images",
        str(images),
        "--train.batch",
        str(batch),
        "--train.log-every",
        str(max(batch, images // 8)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(processes)}  # which are dealt out
    words = [*command, *never, *size, "--train.processes", str(processes), "--sample.steps", "1"]
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def pace(folder: Path, process: "subprocess.Popen[bytes]") -> float:
    """Images a second."""
    _, err = process.communicate()
    if process.returncode:
        raise SystemExit(err.decode())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    first, *_, last = [line for line in lines if "loss" in line]
    return (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])


def together(net: str, runs: list[tuple[int, int, int]]) -> list[float]:
    """The paces of runs (images, batch, processes) at the same time."""
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / str(i) for i in range(len(runs))]
        processes = [begun(folder, net, *run) for folder, run in zip(folders, runs, strict=True)]
        return [pace(folder, process) for folder, process in zip(folders, processes, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8192, help="of one process")
    parser.add_argument("--batch", type=int, default=64, help="of one process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    given = parser.parse_args()
    rows = []
    print(
        f"{'':6s} {'scaling':8s} {'one':>8s} {'two single':>11s} {'two share':>10s} {'efficiency':>11s}   images a second"
    )
    for net in given.nets:
        for scaling, each in (("weak", given.batch), ("strong", given.batch // 2)):
            one = max(together(net, [(given.images, given.batch, 1)])[0] for _ in range(given.repeats))
            single = max(sum(together(net, 2 * [(given.images, each, 1)])) for _ in range(given.repeats))
            share = max(together(net, [(2 * given.images, 2 * each, 2)])[0] for _ in range(given.repeats))
            rows.append({"net": net, "scaling": scaling, "batch": 2 * each, "one": one, "two_single": single,
                         "two_share": share, "efficiency": share / single})  # fmt: skip
            print(f"{net:6s} {scaling:8s} {one:8.1f} {single:11.1f} {share:10.1f} {share / single:11.3f}", flush=True)
    RESULTS.write_text(json.dumps({"images": given.images, "repeats": given.repeats, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
