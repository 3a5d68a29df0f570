"""The values of two networks at one place, for all calibration images: in memory while they fit, else on disk.

The compensation walks both networks side by side, consumer by consumer; what crosses from one step to the next
is kept here per chunk of images, so that no layer is computed twice and memory does not grow with their number.
"""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

Env = dict[str, Tensor]


class Frontier:
    """Environments (value name → tensor) by key; at most `budget_bytes` of them are held in memory."""

    def __init__(self, budget_bytes: int) -> None:
        """Start with nothing."""
        self._budget = budget_bytes
        self._held: dict[tuple[int, str], Env] = {}
        self._bytes: dict[tuple[int, str], int] = {}
        self._spilled: dict[tuple[int, str], dict[str, tuple[Path, Tensor]]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        """Return the frontier itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget everything, on disk too."""
        self._held.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def put(self, chunk: int, side: str, env: Env) -> None:
        """Store an environment; tensors are held as they are or written to temporary files."""
        key = (chunk, side)
        size = sum(value.numel() * value.element_size() for value in env.values())
        if sum(self._bytes.values()) + size <= self._budget:
            self._held[key], self._bytes[key] = env, size
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="compress-")
        spilled = {}
        for i, (name, value) in enumerate(env.items()):
            path = Path(self._folder.name) / f"{chunk}-{side}-{i}.npy"
            np.save(path, value.cpu().numpy(), allow_pickle=False)
            # the layout in memory is kept, because torch's kernels differ by it in the last bits
            spilled[name] = path, torch.empty_like(value, device="meta")
        self._spilled[key] = spilled

    def take(self, chunk: int, side: str, device: torch.device | str) -> Env:
        """Return an environment and forget it here."""
        key = (chunk, side)
        if key in self._held:
            del self._bytes[key]
            return self._held.pop(key)
        env = {}
        for name, (path, layout) in self._spilled.pop(key).items():
            env[name] = torch.empty_like(layout, device=device)
            env[name].copy_(torch.from_numpy(np.load(path, allow_pickle=False)))
            path.unlink()
        return env
