"""The papers' claims about their operators, and whether the results of a comparison support them.

Two operators are compared seed by seed: both runs of a seed saw the same videos in the same order. A claim holds if the
95 % interval (Student's t) of the differences is above 0, and is contradicted if it is below 0. If the interval
contains 0 and lies within ±5 points, the two are close; if it is wider, the claim is undecided. The interval covers the
variation over seeds, not over validation videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom; 1.96 in the limit.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
CLOSE = 5.0  # percentage points
NAMES = {
    "holds": "holds",
    "contradicted": "contradicted",
    "close": f"no difference of {CLOSE:g} points",
    "undecided": "undecided",
    "no room": "not testable, because both operators solve the task",
}
TIMELESS = ("motion_static",)  # data sets that cannot test the claims, which are about time
SOLVED = 99.0  # percent: if both operators reach it, there is no room for a difference

# As returned by `canonical` in scripts/studies/comparison.py: only options that differ from the default.
TSN, TSM = "tsn", "tsm"
VSN, VSN_PLAIN, HEADTAIL = "vsn_compact", "vsn_compact:standard_block=plain", "vsn_headtail"
STH, STH_MERGE, STH_SUM = "sth", "sth:variant=merge", "sth:integration=sum"
STH_EIGHTH, STH_HALF = "sth:p=0.125", "sth:p=0.5"


@dataclass(frozen=True)
class Claim:
    """`better` reaches a higher accuracy than `worse`. figures: of the paper, in percent."""

    text: str
    better: str
    worse: str
    figures: str
    source: str


# VSN: arXiv 1911.11319. STH: arXiv 2003.08042. Figures are top-1 on Something-Something V1, ResNet-50, 8 frames.
CLAIMS = (
    Claim("the shift beats averaging", TSM, TSN, "43.4 against 20.2", "VSN, table 9"),
    Claim("the shuffle alone beats averaging", VSN_PLAIN, TSN, "46.0 against 20.2", "VSN, table 9"),
    Claim("the shuffle alone beats the shift", VSN_PLAIN, TSM, "46.0 against 43.4", "VSN, table 9"),
    Claim("shuffle and shift together beat the shift", VSN, TSM, "46.6 against 43.4", "VSN, table 9"),
    Claim("shuffle and shift together beat the shuffle", VSN, VSN_PLAIN, "46.6 against 46.0", "VSN, table 9"),
    Claim("compact beats headtail", VSN, HEADTAIL, "direction only", "a review of VSN"),
    Claim("STH beats averaging", STH, TSN, "46.8 against 19.7", "STH, table 2"),
    Claim("STH beats the shift", STH, TSM, "46.8 against 45.6", "STH, table 2"),
    Claim("hybrid beats merge", STH, STH_MERGE, "direction only", "a review of STH"),
    Claim("p = 1/4 beats 1/8", STH, STH_EIGHTH, "46.8 against 46.6", "STH, table 6"),
    Claim("p = 1/4 beats 1/2", STH, STH_HALF, "46.8 against 45.1", "STH, table 6"),
    Claim("attention beats the sum", STH, STH_SUM, "not found", "STH, equation 3"),
)


@dataclass(frozen=True)
class Verdict:
    """difference: mean over the seeds, in percentage points; half: half its 95 % interval, NaN for a single seed."""

    claim: Claim
    dataset: str
    difference: float
    half: float
    seeds: int
    word: str  # "holds", "contradicted", "close", "undecided", "no room"


def judge(claim: Claim, dataset: str, top1: Mapping[str, Mapping[int, float]]) -> Verdict | None:
    """Judge a claim. top1: operator -> seed -> percent. None if no seed was trained with both operators."""
    better, worse = top1.get(claim.better, {}), top1.get(claim.worse, {})
    seeds = sorted(better.keys() & worse.keys())
    if not seeds:
        return None
    differences = np.array([better[seed] - worse[seed] for seed in seeds])
    mean, half = float(differences.mean()), half_interval(differences)
    if min(*better.values(), *worse.values()) >= SOLVED:
        word = "no room"
    elif not abs(mean) > half:  # also for a single seed, whose interval is unknown
        word = "close" if abs(mean) + half < CLOSE else "undecided"
    else:
        word = "holds" if mean > 0 else "contradicted"
    return Verdict(claim, dataset, mean, half, len(seeds), word)


def half_interval(values: Sequence[float] | np.ndarray) -> float:
    """Half the 95 % interval of the mean; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan")
    freedom = len(values) - 1
    t = T_QUANTILES[freedom - 1] if freedom <= len(T_QUANTILES) else 1.96 * (1 + 1.2 / freedom)
    return float(t * np.std(values, ddof=1) / np.sqrt(len(values)))


def verdict_rows(results: Mapping[str, Mapping[str, Mapping[int, float]]]) -> list[list[str]]:
    """One row per claim, one column per data set. results: data set -> operator -> seed -> top-1 percent."""
    rows = []
    for claim in CLAIMS:
        verdicts = [judge(claim, dataset, top1) for dataset, top1 in results.items()]
        if any(verdicts):
            rows.append([claim.text, claim.figures, claim.source, *(describe(each) for each in verdicts)])
    return rows


def describe(verdict: Verdict | None) -> str:
    if verdict is None:
        return "not compared"
    if verdict.word == "no room":
        return f"no room: both above {SOLVED:g} %"
    interval = "one seed" if np.isnan(verdict.half) else f"± {verdict.half:.1f}"
    return f"{verdict.word} ({verdict.difference:+.1f} {interval})"


def summary(results: Mapping[str, Mapping[str, Mapping[int, float]]]) -> str:
    """One line per data set with the number of claims of each verdict."""
    lines = []
    for dataset, top1 in results.items():
        words = [verdict.word for claim in CLAIMS if (verdict := judge(claim, dataset, top1))]
        if words:
            parts = [f"{name}: {words.count(word)}" for word, name in NAMES.items() if word in words]
            lines.append(f"- `{dataset}`, claims: {len(words)}; {', '.join(parts)}.")
    return "\n".join(lines)


def spread(dataset: str, top1: Mapping[str, Mapping[int, float]]) -> str:
    """A sentence about a data set for which single frames suffice: the operators that fall behind TSN."""
    if TSN not in top1:
        return ""
    base = float(np.mean(list(top1[TSN].values())))
    behind = []
    for operator, found in top1.items():
        verdict = judge(Claim("", TSN, operator, "", ""), dataset, top1)
        if operator != TSN and verdict and verdict.word == "holds":
            behind.append(f"{operator} ({float(np.mean(list(found.values()))):.1f} %)")
    text = ", ".join(behind) or "none"
    return f"- `{dataset}`: one frame is enough, and TSN reaches {base:.1f} %. Operators that fall behind it: {text}."
