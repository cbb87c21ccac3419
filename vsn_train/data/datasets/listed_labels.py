"""What the labels of lists and class folders mean: names of classes, or indices from 0.

The name of a folder is a name, whatever it looks like. In a list a header says it (`class` or `class_index`), or
dataset.labels; without either, a list whose labels are all whole numbers holds indices, as the lists of TSM, mmaction2
and PySlowFast do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vsn_train.errors import InputError

MOST_CLASSES = 100_000  # a classifier of ResNet-50 for them is 0.8 GB
# Indices of which most have no video are rather names (dates, ids): from this many classes on, somebody has to say so.
SPARSE_FROM = 1000

NAMES, INDICES, OPEN = "names", "indices", "auto"


def whole_number(text: str) -> int | None:
    """What ASCII digits say, also with the ".0" that programs append where a column has gaps; None for other text."""
    match = re.fullmatch(r"([0-9]{1,18})(\.0+)?", text)
    return int(match[1]) if match else None


def meaning_of(labels: Iterable[str], known: Sequence[str] | None, said: str, listing: object) -> str:
    """NAMES or INDICES. labels: as written in the training list, or where there is a class file in the split's list.

    known: the class file's names, None without one. said: what a header, a folder or dataset.labels says, OPEN where
    none does. listing: for messages. Raises InputError where numbers may be either.
    """
    if said != OPEN:
        return said
    written = {label for label in labels if label}
    numbers = {label: whole_number(label) for label in written}
    if not written or any(number is None for number in numbers.values()):
        return NAMES
    if known is None or not written & set(known):
        return INDICES
    names = {name: index for index, name in enumerate(known)}
    differing = sorted(label for label, number in numbers.items() if names.get(label) != number)
    if differing:
        raise InputError(
            f"{listing}: label {differing[0]} may be an index from 0 or one of the names in dataset.classes; say which "
            "with dataset.labels=indices or dataset.labels=names"
        )
    return NAMES


def classes_of(labels: Iterable[str], meaning: str, stated: bool, listing: object) -> dict[str, int]:
    """Class name -> index, from the labels of the training list.

    Names are sorted; where all are whole numbers, by their size. Indices give the classes 0 to the highest one. stated:
    whether somebody said that these are indices. Raises InputError for more classes than a network can have.
    """
    written = {label for label in labels if label}
    if meaning == NAMES:
        numbers = {label: whole_number(label) for label in written}
        by_size = None not in numbers.values()

        def order(name: str) -> tuple[int, str]:
            return (numbers[name] or 0 if by_size else 0), name

        _check_count(len(written), f"{listing}: {len(written)} different labels")
        return {name: index for index, name in enumerate(sorted(written, key=order))}
    indices = {index_of_number(label, f"{listing}") for label in written}
    classes = max(indices, default=-1) + 1
    _check_count(classes, f"{listing}: label {classes - 1}, as an index from 0,")
    if not stated and classes >= SPARSE_FROM and 2 * len(indices) < classes:
        raise InputError(
            f"{listing}: {len(indices)} different numbers up to {classes - 1} as labels; if they are names of "
            f"{len(indices)} classes, say dataset.labels=names; if they are indices of {classes} classes, of which "
            f"{classes - len(indices)} have no training video, say dataset.labels=indices"
        )
    return {str(index): index for index in range(classes)}


def index_of_number(label: str, place: str) -> int:
    number = whole_number(label)
    if number is None:
        raise InputError(
            f"{place}: label {label[:80]!r}; expected an index, a whole number from 0, or dataset.labels=names"
        )
    return number


def index_of_label(label: str, meaning: str, classes: dict[str, int], place: str) -> int:
    """The class that a label means. Raises InputError, with its place, for one that is none of the classes."""
    index = classes.get(label, -1) if meaning == NAMES else index_of_number(label, place)
    if 0 <= index < len(classes):
        return index
    names = list(classes)
    hint = ""
    if meaning == NAMES and whole_number(label) is not None:
        hint = "; numbers that are indices are said with dataset.labels=indices"
    raise InputError(
        f"{place}: label {label[:80]!r} is not one of the {len(classes)} classes ({', '.join(names[:3])}"
        f"{', …' if len(names) > 3 else ''}); they are those of dataset.classes, or of the training list without it"
        f"{hint}"
    )


def _check_count(classes: int, what: str) -> None:
    if classes > MOST_CLASSES:
        raise InputError(
            f"{what} would need a classifier of {classes} classes; expected at most {MOST_CLASSES}: if the column is "
            "another one, name the columns in a first line path,label,num_frames; if the numbers are names, say "
            "dataset.labels=names"
        )
