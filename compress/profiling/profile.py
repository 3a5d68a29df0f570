"""What was measured of a model on a machine: written there as JSON, read where the model is pruned."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import OptionError
from compress.profiling.multiples import liked
from compress.profiling.on_device import VERSION
from graph.channels import Channels


@dataclass(frozen=True)
class KernelTime:
    """One kernel of a network as ONNX Runtime ran it: its name and operator, microseconds, and its shapes."""

    name: str
    op_type: str
    us: float
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Measured:
    """One network: its widths by group, its time as a share of the original's, and its kernels where they are told."""

    widths: Mapping[str, int]
    ratio: float
    kernels: tuple[KernelTime, ...] | None


@dataclass(frozen=True)
class Profile:
    """A machine, the time of the original on it, the networks measured, and chains' times by width.

    The first network is the whole, the second the narrowest (where there is more than one). `groups` are the widths
    that the model's groups have, `model` what it calls itself.
    """

    machine: Mapping[str, Any]
    model: str
    groups: Mapping[str, int]
    original_ms: float
    networks: tuple[Measured, ...]
    chains: Mapping[int, float]

    @property
    def multiple(self) -> int | None:
        """The multiple to round widths to; None where no chains were timed."""
        return liked(self.chains) if self.chains else None

    @property
    def where(self) -> str:
        """The machine in words."""
        about = self.machine
        return f"{about['cpu']}, ONNX Runtime {about['onnxruntime']}, {about['provider']}, threads: {about['threads']}"

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Profile":
        """Take what `on_device.measure` returned. Raises KeyError, TypeError or ValueError for anything else."""
        if found["version"] != VERSION:
            raise ValueError(f"it is of version {found['version']}, this program reads {VERSION}")
        return cls(
            machine=found["machine"],
            model=str(found["about"]["model"]),
            groups={str(name): int(width) for name, width in found["about"]["groups"].items()},
            original_ms=float(found["original_ms"]),
            networks=tuple(_measured(each) for each in found["networks"]),
            chains={int(width): float(ms) for width, ms in found["chains"].items()},
        )


def load(path: str | Path, channels: Channels) -> Profile:
    """Read a profile of the model with these channels. Raises OptionError where it is none, or of another."""
    try:
        profile = Profile.of(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise OptionError(f"the profile {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{path} is no profile that compress profile wrote ({type(error).__name__}: {error})"
        ) from error
    groups = {group.name: len(group.channels) for group in channels.groups}
    if dict(profile.groups) != groups:
        strange = sorted(set(profile.groups.items()) ^ set(groups.items()))
        raise OptionError(
            f"the profile is of another model, {profile.model!r}, or was taken with other options: it has "
            f"{len(profile.groups)} groups of channels, this model {len(groups)}; the first that differs is "
            f"{strange[0][0]}: take one with compress profile"
        )
    return profile


def _measured(found: Mapping[str, Any]) -> Measured:
    kernels = found["kernels"]
    return Measured(
        widths={str(name): int(width) for name, width in found["widths"].items()},
        ratio=float(found["ratio"]),
        kernels=None if kernels is None else tuple(_kernel(each) for each in kernels),
    )


def _kernel(found: Mapping[str, Any]) -> KernelTime:
    shapes = (tuple(tuple(int(n) for n in shape) for shape in found[key]) for key in ("inputs", "outputs"))
    return KernelTime(str(found["name"]), str(found["op_type"]), float(found["us"]), *shapes)
