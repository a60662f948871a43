"""One process that makes a first call, forward and backward, and prints how long each took: `python -m benchmarks.gpu.first_call flex`."""

from __future__ import annotations

import argparse
import json
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    began = time.perf_counter()
    import torch

    from benchmarks.gpu.contenders import CONTENDERS
    from benchmarks.gpu.problems import make
    from benchmarks.gpu.workloads import FIRST_CALLS

    device = torch.device(options.device)
    problem = make(FIRST_CALLS[0], device, grad=True)
    imported = _now(torch, device)
    out = CONTENDERS[options.contender].build(problem).call()
    forward = _now(torch, device)
    torch.autograd.grad(out, problem.leaves, problem.cotangent)
    backward = _now(torch, device)
    print(json.dumps({"import_s": imported - began, "forward_s": forward - imported, "backward_s": backward - forward}))


def _now(torch: object, device: object) -> float:
    if getattr(device, "type", "") == "cuda":
        torch.cuda.synchronize()  # type: ignore[attr-defined]
    return time.perf_counter()


if __name__ == "__main__":
    main()
