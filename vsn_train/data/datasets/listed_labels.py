"""The meaning of the labels of lists and class folders: names of classes, or indices from 0.

The name of a folder is always a class name. In a list, a header (`class` or `class_index`) or dataset.labels decides;
without either, a list whose labels are all whole numbers has indices, as the lists of TSM, mmaction2 and PySlowFast.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vsn_train.errors import InputError

MOST_CLASSES = 100_000  # the classifier of a ResNet-50 for them takes 0.8 GB
# Indices of which most have no video may be names (dates, ids): from this many classes on, the user must say which.
SPARSE_FROM = 1000

NAMES, INDICES, OPEN = "names", "indices", "auto"


def whole_number(text: str) -> int | None:
    """The number written in ASCII digits, also with the ".0" that programs add to columns with gaps; else None."""
    match = re.fullmatch(r"([0-9]{1,18})(\.0+)?", text)
    return int(match[1]) if match else None


def meaning_of(labels: Iterable[str], known: Sequence[str] | None, said: str, listing: object) -> str:
    """NAMES or INDICES. labels: as written in the training list or, if there is a class file, in the split's list.

    known: the class file's names, None without one. said: the kind by header, folder or dataset.labels, else OPEN.
    listing: for messages. Raises InputError if numbers may be either.
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
            f"{listing}: label {differing[0]} may be an index from 0 or one of the names in dataset.classes; set "
            "dataset.labels=indices or dataset.labels=names"
        )
    return NAMES


def classes_of(labels: Iterable[str], meaning: str, stated: bool, listing: object) -> dict[str, int]:
    """Class name -> index, from the labels of the training list.

    Names are sorted, whole numbers by value. Indices give the classes 0 to the highest one. stated: whether the user
    or the list states the kind. Raises InputError for more than MOST_CLASSES classes, and for sparse unstated indices.
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
            f"{len(indices)} classes, set dataset.labels=names; if they are indices of {classes} classes, of which "
            f"{classes - len(indices)} have no training video, set dataset.labels=indices"
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
    """The class index of a label. Raises InputError, with its place, for a label that is no class."""
    index = classes.get(label, -1) if meaning == NAMES else index_of_number(label, place)
    if 0 <= index < len(classes):
        return index
    names = list(classes)
    hint = ""
    if meaning == NAMES and whole_number(label) is not None:
        hint = "; if the numbers are indices, set dataset.labels=indices"
    raise InputError(
        f"{place}: label {label[:80]!r} is not one of the {len(classes)} classes ({', '.join(names[:3])}"
        f"{', …' if len(names) > 3 else ''}) that dataset.classes or the training list names"
        f"{hint}"
    )


def _check_count(classes: int, what: str) -> None:
    if classes > MOST_CLASSES:
        raise InputError(
            f"{what} would need a classifier of {classes} classes; expected at most {MOST_CLASSES}: if this is not the "
            "label column, name the columns in a first line path,label,num_frames; if the numbers are names, set "
            "dataset.labels=names"
        )
