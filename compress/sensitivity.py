"""What a group's loss means at the network's outputs: measured, without labels (METHOD §4).

Each group alone is cut to a few widths, its consumers are compensated from the statistics of the original
network, and the divergence of the outputs is measured on images kept apart from the fit; a group that may go
altogether is cut to nothing as well. Between the measured widths the group's own curve tells the shape:

    loss(n) = exp( interpolation of log divergence over log error(n) )
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from calibrate import gram
from calibrate.consumer import Consumer
from calibrate.eliminate import Curve
from calibrate.forward import Env, drop, feed, last_uses
from calibrate.least_squares import Factor, SingularSystem
from calibrate.moments import Moments
from calibrate.source import Source, chunked
from compress.divergence import divergence, energies
from graph.bridge import TorchModel
from graph.channels import Axis, ChannelGroup, Channels, Site

CUTS = (0.75, 0.5, 0.25, 0.1)  # the shares of the channels that are left
RIDGE = 1e-3


def compensated(w: Tensor, xx: Tensor, gone: Tensor) -> Tensor:
    """Return weights w (G, D, K) with the columns `gone` at 0 and the others refitted to the consumer's own output.

    With symmetric statistics xy = xx·w, so the refit is  w[K] + (xx[K,K] + λ)⁻¹ · xx[K,R] · w[R].
    `xx` is the matrix (G, D, D) or the rows (G, n, D) that make it.
    """
    kept = torch.ones(w.shape[1], dtype=torch.bool, device=w.device)
    kept[gone] = False
    result = torch.zeros_like(w)
    result[:, kept] = w[:, kept]
    try:
        factor = Factor.of(gram.restrict(xx, kept), RIDGE)
    except SingularSystem:
        return result  # constant inputs; the plain slice is what the network would do
    result[:, kept] += factor.solve(gram.cross(xx, kept, w), torch.zeros_like(result[:, kept]))
    return result


def measure(
    groups: Sequence[ChannelGroup],
    channels: Channels,
    curves: Mapping[str, Curve],
    consumers: Mapping[str, Consumer],
    moments: Mapping[str, Moments],
    model: TorchModel,
    source: Source,
    indices: np.ndarray,
    *,
    chunk: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, dict[int, float]]:
    """Return, for each group, {channels removed: mean divergence of the outputs} at the widths of `cuts`."""
    position = {step.node: i for i, step in enumerate(model.steps)}
    touched = {group.name: [site for site in group.consumers if site.node in position] for group in groups}
    ordered = sorted(groups, key=lambda group: min((position[s.node] for s in touched[group.name]), default=0))
    needed = last_uses(model.steps)
    outputs = set(model.outputs)

    def finish(env: Env, start: int) -> list[Tensor]:
        for i in range(start, len(model.steps)):
            model.run(env, [model.steps[i]])
            drop(env, needed[i + 1] | outputs)
        return [env[name] for name in model.outputs]

    with torch.inference_mode():
        starts = [feed(model, source, part) for part in chunked(indices, chunk)]
        references = [finish(dict(env), 0) for env in starts]
        energy = energies([join(parts) for parts in zip(*references, strict=True)])
        result: dict[str, dict[int, float]] = {}
        done = 0
        for group in ordered:
            first = min((position[s.node] for s in touched[group.name]), default=0)
            for env in starts:
                for i in range(done, first):
                    model.run(env, [model.steps[i]])
                    drop(env, needed[i + 1] | outputs)
            done = max(done, first)
            curve = curves[group.name]
            found: dict[int, float] = {}
            for left in cuts(group, channels):
                removed = len(curve.order) - left
                gone = {group.channels[i] for i in curve.order[:removed]}
                changed = weights_without(touched[group.name], gone, channels, consumers, moments, model)
                values = [
                    divergence(reference, finish({**env, **changed}, done), energy)
                    for env, reference in zip(starts, references, strict=True)
                ]
                found[removed] = float(torch.cat(values).mean())
                advance()
            result[group.name] = found
    return result


def cuts(group: ChannelGroup, channels: Channels) -> list[int]:
    """Return the widths at which a group is measured, the widest first."""
    full = len(group.channels)
    widths = [max(1, round(cut * full)) for cut in CUTS] + [0] * (group.name in channels.removable)
    return [width for width in dict.fromkeys(widths) if width < full]


def losses(curve: Curve, measured: Mapping[int, float]) -> np.ndarray:
    """Return the loss of a group by number of channels removed (0 … all), in units of the outputs' divergence.

    Without measurements the curve itself is returned. The result never falls as more channels go.
    """
    error = np.maximum.accumulate(np.maximum(curve.loss, 1e-12))
    # an effect of 0 (rounding makes it negative) is an effect as small as can be, not one that is unknown
    usable = {n: max(d, 1e-12) for n, d in sorted(measured.items()) if np.isfinite(d)}
    if not usable:
        return np.concatenate([[0.0], error[1:]])
    points = np.array(list(usable))
    at = np.log(error[points])
    height = np.log(np.maximum.accumulate(list(usable.values())))
    ratio = np.interp(np.log(error), at, height - at)  # beyond the ends the ratio stays what it was
    loss = np.maximum.accumulate(np.exp(ratio) * error)
    loss[0] = 0.0
    return loss


def weights_without(
    sites: Sequence[Site],
    gone: Collection[int],
    channels: Channels,
    consumers: Mapping[str, Consumer],
    moments: Mapping[str, Moments],
    model: TorchModel,
) -> dict[str, Tensor]:
    """Return the changed parameters of the sites without the labels `gone`, of one group or of many.

    Consumers are compensated where there are statistics, else their weights of these channels are 0.
    """
    changed: dict[str, Tensor] = {}
    for site in sites:
        axis, node = site.axis, site.node
        entries = np.isin(channels.labels[axis], list(gone))
        if not entries.any():
            continue
        consumer = consumers.get(node)
        if consumer is not None and node in moments and axis == Axis(consumer.weight, consumer.input_axis):
            weight = changed.get(consumer.weight, model.parameters[consumer.weight])
            bias = changed.get(consumer.bias, model.parameters[consumer.bias]) if consumer.bias else None
            columns = torch.as_tensor(consumer.columns(np.flatnonzero(entries)), device=weight.device)
            w = compensated(consumer.matrix(weight, bias), moments[node].xx, columns)
            changed[consumer.weight], new_bias = consumer.tensors(w, weight)
            if consumer.bias:
                changed[consumer.bias] = new_bias.reshape(model.parameters[consumer.bias].shape)
        else:
            weight = changed.get(axis.weight, model.parameters[axis.weight]).clone()
            weight.index_fill_(axis.axis, torch.as_tensor(np.flatnonzero(entries), device=weight.device), 0)
            changed[axis.weight] = weight
    return changed


def join(parts: Sequence[Tensor]) -> Tensor:
    """Put the outputs of all chunks together; an output without a sample axis has one entry per chunk."""
    return torch.cat([part.reshape(1) if part.dim() == 0 else part for part in parts])
