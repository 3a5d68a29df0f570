"""What each of several processes does in tests/test_processes.py: a few steps of training, whose end one writes."""

import sys

import numpy as np
import torch
from training_nets import BATCH, loss, residual, samples, whole

from compress.training.batch_norm import estimate
from compress.training.optimiser import Optimiser
from compress.training.processes import start


def main(path: str) -> None:
    torch.set_num_threads(1)
    processes, network = start("cpu"), whole(residual())
    optimiser = Optimiser(network.leaves, 1e-3)
    found = {}
    for number in range(3):
        own = processes.own(np.arange(BATCH))
        outputs = network.run({"x": torch.from_numpy(samples(BATCH, number)[own])}, training=True)
        optimiser.backward(loss(outputs))
        processes.sum(optimiser.gradients())
        found |= {
            f"gradient {number} {name}": leaf.grad.clone()
            for name, leaf in network.leaves.items()
            if leaf.grad is not None
        }
        optimiser.step(1e-3)  # longer ones blow rounding errors up
        y = torch.zeros(BATCH, 5)
        y[own] = outputs["y"].detach()
        processes.sum([y])
        found[f"outputs {number}"] = y
    found |= {f"trained {name}": array for name, array in network.state().items()}
    estimate(network, [{"x": torch.from_numpy(samples(BATCH, number)[own])} for number in range(2)])
    found |= {f"estimated {name}": array for name, array in network.state().items()}
    mine = {"rank": np.array([processes.rank, 7]), "none": np.zeros((0, 3)), "mask": np.array([processes.first])}
    found |= {f"same {name}": array for name, array in processes.same(mine).items()}
    processes.wait()
    np.savez(f"{path}/{processes.rank}.npz", **{name: np.asarray(value) for name, value in found.items()})


if __name__ == "__main__":
    main(sys.argv[1])
