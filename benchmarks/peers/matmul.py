"""The machine's fp32 matrix-product rate at given shapes, in GFLOP/s.

    python matmul.py --threads 1 --shapes '[[1024, 128, 512, 3]]'

Each shape [N, in, out, products] stands for a layer: (N, in)·(in, out) forward and the one or two products of its
backward pass (a first layer's input needs no gradient), all of the same number of FLOPs. The answer is FLOPs over
seconds across all of them, the median of many rounds. `mkl` is what torch.mm calls; on processors that are not
Intel's, oneDNN, in the same wheels, may be faster, so that a limit has to look at both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch


def main() -> None:
    """Print the rate as a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", type=json.loads, required=True)
    parser.add_argument("--library", choices=("mkl", "onednn"), default="mkl")
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    products = []
    flops = 0
    for rows, fan_in, fan_out, count in given.shapes:
        x, w, g = torch.randn(rows, fan_in), torch.randn(fan_out, fan_in), torch.randn(rows, fan_out)
        products += [(x, w.t()), (g.t(), x), (g, w)][:count]
        flops += count * 2 * rows * fan_in * fan_out
    outs = [torch.mm(a, b) for a, b in products]
    weights = [b.t().contiguous() for _, b in products]
    lefts = [a.contiguous() for a, _ in products]
    rounds: list[float] = []
    end = time.perf_counter() + given.seconds
    while not rounds or time.perf_counter() < end:
        began = time.perf_counter()
        if given.library == "mkl":
            for (a, b), out in zip(products, outs, strict=True):
                torch.mm(a, b, out=out)
        else:
            for left, weight in zip(lefts, weights, strict=True):
                torch.ops.mkldnn._linear_pointwise(left, weight, None, "none", [], "")
        rounds.append(time.perf_counter() - began)
    print(json.dumps({"gflops": flops / statistics.median(rounds) / 1e9}))


if __name__ == "__main__":
    main()
