"""The floor: the same job as a plain loop in one process, with no peers, no votes and no checks.

Plain torch, as somebody would write it who trusts everybody. Knows nothing of p2pfl; reads the members'
samples and prints one JSON line: seconds of each round, accuracy after it, and the peak of its memory.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

LEARNING_RATE = 0.1
MOMENTUM = 0.9
BATCH = 32

Samples = tuple[torch.Tensor, torch.Tensor]


def model_of(name: str) -> nn.Module:
    """The two models of the job, for 8 x 8 pictures of 10 classes, drawn as He et al. (2015) do."""
    model = _layers(name)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu")
        else:
            nn.init.zeros_(parameter)
    return model


def _layers(name: str) -> nn.Module:
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 1060), nn.ReLU(),
            nn.Linear(1060, 1060), nn.ReLU(), nn.Linear(1060, 10),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 28), nn.ReLU(), nn.Linear(28, 10),
    )  # fmt: skip


def train(model: nn.Module, samples: Samples) -> None:
    """One local epoch."""
    x, y = samples
    optimiser = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    loss_of = nn.CrossEntropyLoss()
    model.train()
    for picked in torch.randperm(len(x)).split(BATCH):
        optimiser.zero_grad()
        loss_of(model(x[picked]), y[picked]).backward()
        optimiser.step()


def one_round(common: nn.Module, parts: Sequence[Samples]) -> None:
    """Everybody trains from the common model; it becomes their mean, weighted by samples."""
    whole = sum(len(x) for x, _ in parts)
    mean: dict[str, torch.Tensor] = {}
    for samples in parts:
        local = copy.deepcopy(common)
        train(local, samples)
        for name, tensor in local.state_dict().items():
            share = tensor * (len(samples[0]) / whole)
            mean[name] = mean[name] + share if name in mean else share
    common.load_state_dict(mean)


def accuracy_of(model: nn.Module, samples: Samples) -> float:
    """The share of these samples that the model gets right."""
    x, y = samples
    model.eval()
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def read(path: Path) -> Samples:
    """Samples of a .npz file with the arrays x and y."""
    with np.load(path, allow_pickle=False) as file:
        return torch.from_numpy(file["x"]), torch.from_numpy(file["y"])


def main() -> None:
    """The command line: `python -m bench.floor --model cnn --rounds 10 --test FILE MEMBER_FILE ...`."""
    parser = argparse.ArgumentParser(prog="python -m bench.floor", description=__doc__)
    parser.add_argument("members", nargs="+", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--model", choices=("cnn", "mlp"), default="cnn")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    test, parts = read(arguments.test), [read(path) for path in arguments.members]
    model = model_of(arguments.model)
    seconds: list[float] = []
    accuracy: list[float] = []
    for _ in range(arguments.rounds):
        started = time.perf_counter()
        one_round(model, parts)
        accuracy.append(round(accuracy_of(model, test), 4))
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    told = {"round_seconds": seconds, "accuracy": accuracy, "peak_rss_mb": round(peak / 1e6, 1)}
    told["parameters"] = sum(tensor.numel() for tensor in model.parameters())
    print(json.dumps(told))


if __name__ == "__main__":
    main()
