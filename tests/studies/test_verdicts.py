"""What a comparison says of the papers' claims follows from its numbers."""

from __future__ import annotations

import math

import pytest

from scripts.studies.comparison import canonical, title_of
from scripts.studies.verdicts import CLAIMS, TSM, TSN, half_interval, judge, spread, summary, verdict_rows
from vsn_train.errors import InputError

SHIFT = next(claim for claim in CLAIMS if (claim.better, claim.worse) == (TSM, TSN))


@pytest.mark.parametrize(
    ("tsm", "tsn", "word"),
    [
        ([80, 84, 88], [50, 52, 51], "holds"),
        ([50, 52, 51], [80, 84, 88], "contradicted"),
        ([50, 60, 70], [55, 50, 60], "undecided"),
        ([90, 94, 90], [91, 92, 91], "close"),  # 0 ± 4.3
        ([89, 94, 90], [91, 91, 91], "undecided"),  # 0 ± 6.6
        ([90], [50], "undecided"),  # a single seed decides nothing
        ([100, 100, 99.5], [99.2, 99.4, 100], "no room"),
        ([100, 100, 100], [50, 50, 50], "holds"),
    ],
)
def test_verdicts(tsm, tsn, word):
    verdict = judge(SHIFT, "motion", {TSM: dict(enumerate(tsm)), TSN: dict(enumerate(tsn))})
    assert verdict.word == word
    assert verdict.difference == pytest.approx(sum(tsm) / len(tsm) - sum(tsn) / len(tsn))


def test_only_seeds_of_both_operators_count():
    verdict = judge(SHIFT, "motion", {TSM: {0: 90.0, 1: 80.0}, TSN: {1: 50.0, 2: 10.0}})
    assert (verdict.seeds, verdict.difference) == (1, 30.0)
    assert judge(SHIFT, "motion", {TSM: {0: 90.0}, TSN: {1: 50.0}}) is None
    assert judge(SHIFT, "motion", {TSM: {0: 90.0}}) is None


def test_the_interval_is_students():
    # Differences 1, 2, 3: standard error 1 / sqrt(3), two degrees of freedom.
    assert half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3))
    assert math.isnan(half_interval([1.0]))
    assert half_interval(list(range(200))) == pytest.approx(1.972 * 57.88 / math.sqrt(200), rel=2e-3)


def test_rows_and_summary_name_every_data_set():
    results = {"a": {TSM: {0: 90.0, 1: 91.0}, TSN: {0: 50.0, 1: 52.0}}, "b": {TSM: {0: 40.0, 1: 41.0}}}
    rows = verdict_rows(results)
    assert [row[0] for row in rows] == [SHIFT.text]
    assert rows[0][-2:] == ["holds (+39.5 ± 6.4)", "not compared"]
    assert summary(results) == "- `a`, claims: 1; holds: 1."


def test_operators_that_harm_what_needs_no_time_are_named():
    top1 = {TSN: {0: 90.0, 1: 91.0}, TSM: {0: 89.0, 1: 92.0}, "sth": {0: 70.0, 1: 71.0}}
    assert spread("still", top1).endswith("TSN reaches 90.5 %. Operators that fall behind it: sth (70.5 %).")
    assert spread("still", {TSN: top1[TSN], TSM: top1[TSM]}).endswith(": none.")
    assert spread("still", {TSM: top1[TSM]}) == ""


def test_claims_name_operators_as_comparisons_do():
    for claim in CLAIMS:
        assert (canonical(claim.better), canonical(claim.worse)) == (claim.better, claim.worse)


def test_canonical_names():
    assert canonical("sth:p=0.25,variant=hybrid") == "sth"
    assert canonical("sth:integration=sum,p=0.5") == "sth:p=0.5,integration=sum"
    assert title_of("sth:p=0.125") == "STH hybrid attention p=1/8"
    assert title_of("vsn_compact:standard_block=plain") == "VSN compact alone"
    with pytest.raises(InputError, match="operator 'i3d': expected one of tsn"):
        canonical("i3d")
    with pytest.raises(InputError, match="tsm has no option p; its options: fold_div, placement"):
        canonical("tsm:p=0.5")
