"""The page of `compress compare`: how far two models are apart."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from compress.details import Details
from compress.gates import Verdict
from compress.html.page import Made, Page, shown
from compress.html.sections import cards, disagreements, figures, how, latency, macs, notes
from compress.measure import Comparison
from compress.measurement import Measurement


def page_of(
    models: tuple[str, str],
    measured: tuple[Measurement, Measurement],
    compared: Comparison,
    details: Details,
    verdicts: Sequence[Verdict],
    said: Sequence[str],
    made: Made,
    facts: Mapping[str, str],
) -> Page:
    """Return the page of two models, of the figures `measured` of them and of what was `said` on the way."""
    before, after = measured
    title, subtitle = (shown(PurePath(path).name) for path in models)
    text = f"Measured on {compared.samples} samples."
    if compared.kl_divergence is not None:
        text += f" The KL divergence of the softmax is {compared.kl_divergence:.4g} nats per sample."
    return Page(
        kind="compress compare",
        title=title,
        subtitle=subtitle,
        verdicts=tuple(verdicts),
        cards=cards(before, after),
        sections=(
            figures(before, after, (text,), compared.outputs),
            *macs(details),
            *latency({"before": before.latency_ms, "after": after.latency_ms}),
            *disagreements(details.disagreements),
            *notes(said),
            how(made, {title: shown(text) for title, text in facts.items()}, {}),
        ),
    )
