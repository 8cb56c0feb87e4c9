"""What a queue would do to a latency: whether a machine can keep a limit, before it is measured."""

import numpy as np

ARRIVALS = 200_000
SUGGESTED = 1.25
"""How far above the expected latency a limit is suggested."""


def expected_p99_ms(alone_ms: float, rate: float) -> float:
    """Return the p99 of an M/D/1 queue in milliseconds: requests at random, one after the other, on the whole machine.

    A model that uses every core for one request is such a queue, as long as it is not so crowded that lanes share them.

    Args:
        alone_ms: what a request takes alone.
        rate: requests a second; infinity comes out where they are more than can be answered.
    """
    if rate * alone_ms >= 1000:
        return np.inf
    gaps_ms = np.random.default_rng(0).standard_exponential(ARRIVALS) * 1000 / rate
    # Lindley 1952: a request waits as long as the work before it exceeds the time since, at the worst moment.
    excess = np.cumsum(alone_ms - gaps_ms)
    waits_ms = excess - np.minimum(np.minimum.accumulate(excess), 0.0)
    return float(np.percentile(waits_ms, 99)) + alone_ms


def limit_text(limit_ms: float, alone_ms: float, rate: float) -> str:
    """Return why the limit is what it is, whether this machine is likely to keep it, and how to change it.

    Args:
        limit_ms: of the p99 at half load.
        alone_ms: what a picture takes here alone.
        rate: half of the highest rate, in pictures a second.
    """
    expected_ms = expected_p99_ms(alone_ms, rate)
    about = f"so about {expected_ms:.0f} ms are to be expected (M/D/1): this machine"
    if expected_ms == np.inf:
        verdict = "more than pictures one after the other could be: it depends on how well lanes share the cores"
    elif expected_ms <= limit_ms:
        verdict = f"{about} can keep the limit"
    else:
        verdict = f"{about} is not likely to keep the limit"
    suggested = f"{SUGGESTED * max(expected_ms, limit_ms) if expected_ms < np.inf else 2 * limit_ms:.0f}"
    return (
        f"Limit: p99 within {limit_ms:g} ms at half load, since who waits for a picture notices a quarter of a second; "
        f"`vitrine tune` takes the same.\nHalf load is {rate:.1f} pictures/s here, and a picture alone takes "
        f'{alone_ms:.0f} ms, {verdict}.\nAnother limit: make loadtest ARGS="--slo-p99-ms {suggested}"'
    )
