"""What a target may look like, and what is said of one that cannot be read."""

import pytest

from compress.targets import Target, TargetError, parse_target

READ = [
    ("0.5", 0.5, True),
    (".25", 0.25, True),
    (0.3, 0.3, True),
    ("1", 1.0, True),
    ("50%", 0.5, True),
    (" 50 % ", 0.5, True),
    ("100%", 1.0, True),
    ("0.5%", 0.005, True),
    ("1e-2", 0.01, True),
    ("60M", 60e6, False),
    ("60m", 60e6, False),
    ("1.2G", 1.2e9, False),
    ("0.5K", 500, False),
    ("60000000", 60e6, False),
    (60_000_000, 60e6, False),
    ("6e7", 6e7, False),
]
REFUSED = [
    ("0", "leaves nothing"),
    ("0%", "leaves nothing"),
    ("0M", "leaves nothing"),
    ("-0.5", "number above 0"),
    ("-1M", "number above 0"),
    ("abc", "number above 0"),
    ("", "number above 0"),
    ("nan", "number above 0"),
    ("inf", "number above 0"),
    ("0.5 0.6", "number above 0"),
    ("0,5", "number above 0"),
    ("1.5", "above 1"),
    ("2", "above 1"),
    ("150%", "more than the whole"),
    ("1e999", "too large"),
    ("5\N{KELVIN SIGN}", "number above 0"),  # looks like a K, and equals one when case is ignored
]


@pytest.mark.parametrize(("text", "limit", "relative"), READ)
def test_read(text: str | float, limit: float, relative: bool) -> None:
    assert parse_target("macs", text) == Target("macs", pytest.approx(limit), relative)


BYTES = [
    ("4MB", 4e6),
    ("4mb", 4e6),
    ("4M", 4e6),
    ("3.5MiB", 3.5 * 2**20),
    ("100B", 100),
    ("2 GiB", 2 * 2**30),
    ("1e5", 1e5),
]


@pytest.mark.parametrize(("text", "limit"), BYTES)
def test_bytes_have_units_of_their_own(text: str, limit: float) -> None:
    assert parse_target("bytes", text) == Target("bytes", pytest.approx(limit), False)
    assert parse_target("bytes", "50%") == Target("bytes", 0.5, True)


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("8ms", 8), ("8 MS", 8), ("0.5s", 500), ("250us", 0.25), (".8ms", 0.8)]
)
def test_a_latency_is_a_share_or_has_a_unit(text: str, milliseconds: float) -> None:
    assert parse_target("latency", text) == Target("latency", pytest.approx(milliseconds), False)
    assert parse_target("latency", "0.6") == Target("latency", 0.6, True)
    assert str(parse_target("latency", text)) == f"at most {milliseconds:.4g} ms"


@pytest.mark.parametrize("text", ["8", "800", "1.5", "8M", "0ms", "ms"])
def test_a_time_without_its_unit_is_refused(text: str) -> None:
    with pytest.raises(TargetError, match=r"such as 8ms|leaves nothing"):
        parse_target("latency", text)


@pytest.mark.parametrize("text", ["4MB", "3MiB", "5iB", "100B"])
def test_other_counts_have_no_bytes(text: str) -> None:
    with pytest.raises(TargetError, match="such as 60M"):
        parse_target("macs", text)


@pytest.mark.parametrize(("text", "words"), REFUSED)
@pytest.mark.parametrize(
    ("metric", "option"), [("macs", "--target-flops"), ("params", "--target-params"), ("bytes", "--target-size")]
)
def test_refused(metric: str, option: str, text: str, words: str) -> None:
    with pytest.raises(TargetError, match=words) as caught:
        parse_target(metric, text)
    assert option in str(caught.value) and repr(text) in str(caught.value) and "give" in str(caught.value)


def test_a_share_is_of_the_original_and_a_count_is_not() -> None:
    assert Target("macs", 0.5, True).budget(300) == 150
    assert Target("macs", 120, False).budget(300) == 120


def test_a_target_reads_as_words() -> None:
    assert str(Target("macs", 0.5, True)) == "0.5 of the original's macs"
    assert str(Target("params", 1.2e6, False)) == "at most 1,200,000 params"
