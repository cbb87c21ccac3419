"""Find class names with a direction, for which a horizontal flip may change the class.

A false positive only disables flips, which the log states; a false negative trains the network on wrong labels. So
direction words are found in any spelling (`swipe left`, `swipe_left`, `SwipeLeft`, `LEFT-TURN`, `turnleft`) and in the
languages of known data sets.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

# Anywhere in a word.
PARTS = re.compile(
    "left|right|clockwise|starboard|uhrzeigersinn|rechts|gauche|droite|izquierd|derecha|esquerd|direita|sinistr|destr[ao]"
    "|vanster|hoger|venstre|h[øo]yre|højre|vasem|oikea|antihorai|antihorari"
    "|налево|направо|влево|вправо|слева|справа|ліворуч|праворуч|αριστερ|δεξι"
    "|左|右|順時針|顺时针|逆時針|逆时针|時計回|왼|오른|좌회전|우회전|시계"
    "|שמאל|ימין|يسار|يمين|چپ|راست|बाएं|दाएं|बाईं|दाईं|बायां|दायां|बायाँ|दायाँ|ซ้าย|ขวา"
)
# Whole words; some with any ending.
WORDS = re.compile(
    "cc?w|acw|(nach|halb)?links.*|(linke|rechte)[rsnm]?|sag(a|dan)?|kiri|kanan"
    "|(w|z)?(lewo|prawo)|(lew|praw)[aey]j?|vlevo|vpravo|doleva|doprava|zleva|zprava"
    "|лев(ый|ая|ое|ой|ую)|прав(ый|ая|ое|ой|ую)"  # noqa: RUF001
)
# English words that contain left or right, but mean no direction.
HARMLESS = re.compile(
    "(a|al|out|down|forth|birth|copy|up)right.*|(over)?bright.*|(af|be)?fright.*|(play|wheel|cart|ship|mill)?wright.*"
    "|right(s|eous.*|ful.*|ly|ist.*)|clefts?|leftovers?|lefti(st|sm)s?|destroy.*|destruct.*|orchestra.*|maestr.*|sinistrous"
)
# Words that a flip exchanges. OPPOSITE_WORDS count as directions only if both words of a pair occur.
OPPOSITES = (
    ("left", "right"), ("counterclockwise", "clockwise"), ("anticlockwise", "clockwise"), ("ccw", "cw"), ("acw", "cw"),
    ("links", "rechts"), ("gauche", "droite"), ("izquierda", "derecha"), ("esquerda", "direita"),
    ("sinistra", "destra"), ("左", "右"), ("왼쪽", "오른쪽"), ("налево", "направо"),
)  # fmt: skip
OPPOSITE_WORDS = (
    ("l", "r"), ("lt", "rt"), ("lh", "rh"), ("lhs", "rhs"), ("east", "west"), ("eastbound", "westbound"),
    ("port", "starboard"), ("sol", "sag"), ("trai", "phai"), ("bal", "jobb"), ("lewa", "prawa"),
)  # fmt: skip


def names_with_direction(class_names: Sequence[str]) -> list[str]:
    """The names that contain a direction, in their order."""
    paired = {name for pair in likely_pairs(class_names) for name in pair}
    return [name for name in class_names if name in paired or _speaks_of_direction(_words(name))]


def undecided(class_names: Sequence[str], flip_pairs: Iterable[Sequence[int]]) -> list[str]:
    """The names that contain a direction and are in no flip pair, so that the class of a flipped clip is unknown."""
    decided = {class_names[label] for pair in flip_pairs for label in pair}
    return [name for name in names_with_direction(class_names) if name not in decided]


def likely_pairs(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only in a direction word, each once."""
    words_of = {name: _words(name) for name in class_names}
    name_of = {" ".join(words): name for name, words in words_of.items()}
    pairs: dict[tuple[str, str], None] = {}  # in order, and quick to look up where there are thousands
    for name, words in words_of.items():
        for other in _exchanged(words):
            if (found := name_of.get(other)) and found != name and (found, name) not in pairs:
                pairs[name, found] = None
                break
    return list(pairs)


def _words(name: str) -> list[str]:
    """`turnLEFT_2nd` -> turn, left, nd: lower case, without accents of Latin letters."""
    plain = re.sub("([A-Za-z])[\u0300-\u036f]+", r"\1", unicodedata.normalize("NFKD", name))
    plain = unicodedata.normalize("NFKC", plain)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", plain)
    plain = re.sub(r"(?i)((counter|anti)[\W_]*)?clock[\W_]*wise", lambda match: re.sub(r"[\W_]", "", match[0]), plain)
    # Letters, and the vowel signs of Indic and Thai words, which are marks.
    kept = (letter if unicodedata.category(letter)[0] in "LM" else " " for letter in plain)
    return "".join(kept).casefold().replace("\N{LATIN SMALL LETTER DOTLESS I}", "i").split()


def _speaks_of_direction(words: Sequence[str]) -> bool:
    return any(WORDS.fullmatch(word) or (PARTS.search(word) and not HARMLESS.fullmatch(word)) for word in words)


def _exchanged(words: Sequence[str]) -> list[str]:
    """The text with the two words of an opposite exchanged, for every opposite that changes it."""
    text = " ".join(words)
    found = []
    for first, second in OPPOSITES:
        # The longer one first: clockwise is a part of counterclockwise.
        parts = re.split("(" + "|".join(sorted((first, second), key=len, reverse=True)) + ")", text)
        other = {first: second, second: first}
        found.append("".join(other.get(part, part) for part in parts))
    for first, second in OPPOSITE_WORDS:
        other = {first: second, second: first}
        found.append(" ".join(other.get(word, word) for word in words))
    return [each for each in found if each != text]
