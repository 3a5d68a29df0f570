"""What a choice of widths for the whole network does to its outputs, in a second or two.

All groups are cut at once. Each consumer is refitted in closed form, first from the statistics of the original network
(CaP's symmetric compensation, METHOD §2), so that any width of any group is one small solve, remembered by

    weight, widths of the groups that it reads  →  the changed weight

then, on a few images of the fit, from what reaches it through the consumers before it (see `compress.small_fit`). The
network runs at its full size with the removed channels' weights at 0, which by the law is the same as without them.
A choice that equals the one before it up to some node starts there.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calibrate.consumer import Consumer
from calibrate.eliminate import Curve
from calibrate.forward import Env, drop, feed, last_uses
from calibrate.moments import Moments
from calibrate.source import Source, chunked
from compress.divergence import divergence, energies
from compress.sensitivity import join, weights_without
from compress.small_fit import find_aims, refitted
from compress.widths import plan_of
from graph.bridge import Portable, TorchModel
from graph.channels import Channels, Site

CACHE_BYTES = 512 << 20  # of refitted weights that are remembered
_GIVEN = (
    "_portable",
    "_channels",
    "_curves",
    "_consumers",
    "_moments",
    "_shapes",
    "_fits",
    "_starts",
)


class Trials:
    """Maps the widths of all groups to the divergence of the outputs on images kept apart from the fit.

    Pickled, it carries what it was given; what follows from that is made again on the other side.
    """

    def __init__(
        self,
        portable: Portable,
        channels: Channels,
        curves: Mapping[str, Curve],
        consumers: Mapping[str, Consumer],
        moments: Mapping[str, Moments],
        source: Source,
        indices: np.ndarray,
        *,
        fit: np.ndarray,
        shapes: Mapping[str, tuple[int, ...]],
        chunk: int,
    ) -> None:
        """Feed the images `fit` and `indices`, and remember what the original network makes of them.

        Networks are fitted on `fit` (none: symmetric compensation alone) and judged on `indices`; `chunk` images run at
        a time; `shapes` are those of the values.
        """
        self._portable = portable
        self._channels, self._curves, self._consumers, self._moments = channels, curves, consumers, moments
        fitted, judged = chunked(fit, chunk), chunked(indices, chunk)
        self._shapes, self._fits = dict(shapes), len(fitted)
        self._starts = [feed(portable.model, source, part) for part in (*fitted, *judged)]
        self._prepare()

    def _prepare(self) -> None:
        """Make what follows from the network and the images."""
        self._model = model = self._portable.model
        self._steps = model.steps
        self._needed = [needed | set(model.outputs) for needed in last_uses(model.steps)]
        self._sites = _sites_by_weight(self._channels, model)
        group_of = {label: group.name for group in self._channels.groups for label in group.channels}
        self._groups = {
            weight: tuple(sorted({group_of[i] for s in sites for i in self._ids(s) if i in group_of}))
            for weight, sites in self._sites.items()
        }
        self._readers: dict[str, int] = {}  # the first step that reads a parameter
        for position, step in reversed(list(enumerate(model.steps))):
            self._readers |= dict.fromkeys(step.inputs, position)
        largest = max((model.parameters[weight].nbytes for weight in self._sites), default=1)
        self._refit = lru_cache(max(CACHE_BYTES // largest, 2 * len(self._sites)))(self._refit_anew)
        self._known: dict[tuple[int, ...], float] = {}
        self._changed: dict[str, Tensor] = {}
        self._position, self._envs = 0, self._starts
        with torch.inference_mode():
            self._aims = find_aims(
                self._portable.original, model, self._channels, self._shapes, self._starts[: self._fits]
            )
            self._references = self._outputs({}, np.zeros(0, int))
        self._energy = energies([join(parts) for parts in zip(*self._references, strict=True)])

    def _ids(self, site: Site) -> list[int]:
        ids: list[int] = self._channels.labels[site.axis].tolist()
        return ids

    def __getstate__(self) -> dict[str, Any]:
        """Return what a process of its own needs to make the same trials; raises ModelError for a giant model."""
        return {name: getattr(self, name) for name in _GIVEN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Prepare again."""
        self.__dict__.update(state)
        self._prepare()

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return how far the outputs are from the original's with these widths (absent groups stay whole)."""
        key = tuple(widths.get(group.name, -1) for group in self._channels.groups)
        if key not in self._known:
            self._known[key] = self._try(widths)
        return self._known[key]

    def _try(self, widths: Mapping[str, int]) -> float:
        gone = plan_of(dict(widths), self._channels.groups, self._curves).removed(self._channels)
        with torch.inference_mode():
            changed: dict[str, Tensor] = {}
            for weight, groups in self._groups.items():
                changed |= self._refit(weight, tuple(widths.get(name, -1) for name in groups))
            return self._apart(self._outputs(changed, np.array(sorted(gone), int)))

    def _refit_anew(self, weight: str, widths: tuple[int, ...]) -> dict[str, Tensor]:
        known = {name: width for name, width in zip(self._groups[weight], widths, strict=True) if width >= 0}
        gone = plan_of(known, self._channels.groups, self._curves).removed(self._channels)
        return weights_without(self._sites[weight], gone, self._channels, self._consumers, self._moments, self._model)

    def _outputs(self, changed: dict[str, Tensor], gone: np.ndarray) -> list[list[Tensor]]:
        """Return the outputs, by chunk of images, with changed parameters; the labels `gone` are without weights.

        The images are kept where they were at the first step that differs from the last trial.
        """
        names = changed.keys() | self._changed.keys()
        differing = [name for name in names if changed.get(name) is not self._changed.get(name)]
        first = self._first(differing)
        if first < self._position:
            self._position, self._envs = 0, self._starts
        cut = self._first(changed)
        if first > self._position:
            moved = self._run([{**env, **changed} for env in self._envs], self._position, first, cut, gone)
            # the next trial brings its own weights, or none where it cuts nothing
            parameters = self._model.parameters
            self._envs = [{name: env[name] for name in env if name not in parameters} for env in moved]
            self._position = first
        self._changed = changed
        envs = self._run([{**env, **changed} for env in self._envs], self._position, len(self._steps), cut, gone)
        parameters = self._model.parameters  # an output may be one
        ends = [{**parameters, **env} for env in envs[self._fits :]]
        return [[env[name] for name in self._model.outputs] for env in ends]

    def _first(self, names: Iterable[str]) -> int:
        """Return the first step that reads any of the parameters."""
        return min((self._readers[name] for name in names if name in self._readers), default=len(self._steps))

    def _run(self, envs: list[Env], start: int, end: int, cut: int, gone: np.ndarray) -> list[Env]:
        """Run steps on all images; from step `cut` on consumers are fitted to what reaches them."""
        for i in range(start, end):
            if self._fits and i >= cut and i in self._aims:
                fitted = refitted(self._aims[i], envs[: self._fits], gone, self._model)
                envs = [{**env, **fitted} for env in envs]
            for env in envs:
                self._model.run(env, [self._steps[i]])
                drop(env, self._needed[i + 1])
        return envs

    def _apart(self, outputs: Sequence[list[Tensor]]) -> float:
        """Return the mean divergence over images, infinite where an output is no number."""
        pairs = zip(self._references, outputs, strict=True)
        mean = float(torch.cat([divergence(a, b, self._energy) for a, b in pairs]).mean())
        return mean if np.isfinite(mean) else float("inf")


def _sites_by_weight(channels: Channels, model: TorchModel) -> dict[str, tuple[Site, ...]]:
    """Return every use of a weight that loses input channels, in the order of the network."""
    position = {step.node: i for i, step in enumerate(model.steps)}
    sites = {site for group in channels.groups for site in group.consumers if site.node in position}
    found: dict[str, tuple[Site, ...]] = {}
    for site in sorted(sites, key=lambda site: (position[site.node], site)):
        found[site.axis.weight] = (*found.get(site.axis.weight, ()), site)
    return found
