"""Draw a training and a validation split from videos without one, class by class, from a seed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vsn_train.data.datasets.listing import Listing, repeated_rows
from vsn_train.data.manifest import listed_twice
from vsn_train.errors import InputError


def split_listing(
    listing: Listing, val_share: float, seed: int, group: str | None = None, share_key: str = "dataset.val_share"
) -> tuple[Listing, Listing, list[str]]:
    """The training split, the validation split, and notes for the user. The order of the rows is kept.

    val_share: share of each class's videos drawn for validation, rounded, at least one video; a class with one video
    stays in training. The draw depends only on the seed and the sorted paths. group: a regular expression; videos whose
    paths match it with the same text (of its first group, if it has one) stay in one split, and the shares are met as
    closely as possible. share_key: name of the share in messages.
    Raises InputError for a row without a label or listed twice, and if a class would have no training video.
    """
    rows = listing.rows
    if unlabelled := next((row for row in rows if not row.label), None):
        raise InputError(f"{listing.place} line {unlabelled.line}: no label; expected path,label to draw classes from")
    if twice := repeated_rows(rows):
        raise listed_twice(f"{listing.place} lines {' and '.join(map(str, twice[1]))}", twice[0])
    order = sorted(range(len(rows)), key=lambda place: rows[place].path)
    labels = [rows[place].label for place in order]
    generator = np.random.default_rng(seed)
    notes: list[str] = []
    if group is None:
        chosen = _draw(labels, val_share, generator, share_key)
    else:
        keys, unmatched = group_keys([rows[place].path for place in order], group)
        if unmatched:
            notes.append(f"{unmatched} of {len(rows)} videos do not match --group: each is a group of its own")
        chosen = _draw_groups(labels, keys, val_share, generator)
    validation = {order[place] for place in chosen}
    if not validation:
        raise InputError(
            f"{listing.place}: no video is left for validation: each class has only one "
            f"{'group' if group else 'video'}; expected two or more"
        )
    without = sorted(set(labels) - {rows[place].label for place in validation})
    if without:
        few = "one group of videos" if group else "one video"
        notes.append(f"{len(without)} classes have {few}, which stays in training: {', '.join(without[:20])}")
    train, val = (
        [row for place, row in enumerate(rows) if (place in validation) == wanted] for wanted in (False, True)
    )
    return replace(listing, rows=train), replace(listing, rows=val, note=""), notes


def group_keys(paths: Sequence[str], group: str) -> tuple[list[str], int]:
    """The group key of each path, and the number of paths that do not match.

    Raises InputError for an invalid expression, and for one that no path matches.
    """
    try:
        expression = re.compile(group)
    except re.error as error:
        raise InputError(f"--group {group}: not a regular expression ({error}); correct it") from error
    found = [expression.search(path) for path in paths]
    if not any(found):
        raise InputError(f"--group {group}: no path matches, first {paths[0]}; correct the expression")
    # A path that does not match is its own group. The null byte keeps its key different from that of any match.
    keys = [
        (match[1] if expression.groups and match[1] is not None else match[0]) if match else f"\0{path}"
        for match, path in zip(found, paths, strict=True)
    ]
    return keys, found.count(None)


def _draw(labels: Sequence[str], share: float, generator: np.random.Generator, share_key: str) -> list[int]:
    """The indices of the validation videos."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    chosen: list[int] = []
    emptied = []
    for label in sorted(places):
        count = len(places[label])
        wanted = max(1, int(share * count + 0.5)) if count > 1 else 0
        if wanted == count > 0:
            emptied.append(label)
        chosen += generator.permutation(places[label])[:wanted].tolist()
    if emptied:
        counts = [len(places[label]) for label in emptied]
        raise InputError(
            f"{share_key}={share} leaves {len(emptied)} of {len(places)} classes without a training video, first "
            f"{emptied[0]!r} with {counts[0]} videos; expected a lower share, or more videos of these classes"
        )
    return chosen


def _draw_groups(labels: Sequence[str], keys: Sequence[str], share: float, generator: np.random.Generator) -> list[int]:
    """The indices of the validation videos. Takes whole groups, large ones first, each if that brings the classes'
    shares closer to `share` and leaves every class a training video."""
    classes = {label: index for index, label in enumerate(sorted(set(labels)))}
    members: dict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        members[key].append(place)
    drawn = [sorted(members)[place] for place in generator.permutation(len(members))]
    total = np.bincount([classes[label] for label in labels], minlength=len(classes))
    taken, chosen = np.zeros(len(classes)), list[int]()

    def distance(counts: np.ndarray) -> float:
        return float((((counts - share * total) ** 2) / total).sum())

    def take(key: str, only_if_nearer: bool) -> bool:
        nonlocal taken, chosen
        after = taken + np.bincount([classes[labels[place]] for place in members[key]], minlength=len(classes))
        if (after == total).any() or (only_if_nearer and distance(after) >= distance(taken)):
            return False
        taken, chosen = after, chosen + members[key]
        return True

    for key in sorted(drawn, key=lambda key: -len(members[key])):
        take(key, only_if_nearer=True)
    # A class whose groups are all larger than its share still gets a validation video.
    for label in sorted(classes):
        own = (key for key in drawn if any(labels[place] == label for place in members[key]))
        if not taken[classes[label]]:
            any(take(key, only_if_nearer=False) for key in sorted(own, key=lambda key: len(members[key])))
    return chosen
