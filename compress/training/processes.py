"""Several processes that train together, as torch's own launcher starts them: torchrun … compress train …

Each works on its part of every batch; gradients and sums are added up. What is random is a function of the seed, so
that all of them draw alike. One process alone is the same with nothing to add.
"""

import atexit
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from compress.errors import OptionError

PATIENCE = timedelta(hours=12)  # that processes wait for one another: the first alone measures and writes
_GIVEN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # what torchrun sets in each process


@dataclass(frozen=True)
class Processes:
    """The processes of a training as one of them sees it: the one of number `rank` (from 0) of `size`."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def own(self, indices: np.ndarray) -> np.ndarray:
        """Return this process's part of a batch; the parts are alike in length but for one."""
        return np.array_split(indices, self.size)[self.rank]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up, in place, the tensors of all processes: as many, in the same order and of the same shapes in each.

        They are sent together, in the widest of their types.
        """
        if self.size == 1 or not tensors:
            return
        together = torch.cat([tensor.detach().reshape(-1).to(self.device) for tensor in tensors])
        dist.all_reduce(together)
        with torch.no_grad():
            for tensor, part in zip(tensors, torch.split(together, [each.numel() for each in tensors]), strict=True):
                tensor.copy_(part.reshape(tensor.shape))

    def same(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the first process's arrays, by name; all have the same names, shapes and types."""
        if self.size == 1:
            return dict(arrays)
        found = {}
        for name, array in arrays.items():
            tensor = torch.from_numpy(np.array(array)).to(self.device)
            if array.size:
                dist.broadcast(tensor, 0)
            found[name] = tensor.cpu().numpy()
        return found

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


def start(device: str) -> Processes:
    """Join the processes that torchrun started, on the CPU or each on a GPU of its own, until the program ends.

    Without torchrun it is one process. Raises OptionError where what torchrun sets is not there as a whole, where there
    are fewer GPUs than processes, and where the processes do not find one another.
    """
    given = [os.environ.get(name) for name in _GIVEN]
    if given[1] in (None, "1"):
        return Processes(device=device)
    try:
        rank, size, local = (int(str(text)) for text in given)
    except ValueError as error:
        stated = ", ".join(f"{name}={text}" for name, text in zip(_GIVEN, given, strict=True))
        raise OptionError(f"{stated}: torchrun sets three numbers; start compress by it, or unset them") from error
    backend = "gloo"
    if device.startswith("cuda"):
        if local >= torch.cuda.device_count():
            raise OptionError(f"process {local} of this machine finds {torch.cuda.device_count()} GPUs: start fewer")
        backend, device = "nccl", f"cuda:{local}"
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        try:
            dist.init_process_group(backend, rank=rank, world_size=size, timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise OptionError(f"process {rank} of {size} does not find the others: {line}") from error
        atexit.register(dist.destroy_process_group)
    return Processes(rank, size, device)
