"""Sentences and clauses of reports and answers, by rules."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["clauses", "tidy"]

_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|cf|vs|approx|ca|dr|fig|no|st|etc|resp|incl)\.(?=\s+[a-z0-9])", re.IGNORECASE
)
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\s*[;\n\r]+\s*|(?<=[a-z)]{3})\.(?=[A-Z])")
_BULLET = re.compile(r"^\s*(?:[-*•·]+|\(?\d{1,2}[.)](?=\s)|\(?[a-zA-Z][.)](?=\s))\s*")
_NUMBERED = re.compile(r"(?:^|\n|(?<=[.;:])\s)\s*\(?\d{1,2}[.)]\s+(?=[A-Za-z])")
_VERB = (
    r"(?:is|are|was|were|has|have|had|shows?|showed|exhibits?|demonstrates?|displays?|reveals?|"
    r"invades?|infiltrates?|involves?|contains?|appears?|measures?|extends?|arises?|forms?|lacks?)"
)
_JOINT = re.compile(
    rf",?\s+(?:but|however|although|though|whereas|while|yet)\b,?\s+"
    rf"|,?\s+and\s+(?={_VERB}\b|there\b|no\b|not\b|without\b|negative\b|positive\b|loss\b)"
    rf"|,\s+and\s+(?=(?:\w+\s+){{1,4}}{_VERB}\b)"
    rf"|,\s+(?=(?:there|no|without|negative\s+for|positive\s+for)\b)",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"^(?:(?:based on|according to|given|considering|in|from|on)\s+(?:the|this|these)\s+"
    r"(?:provided\s+|given\s+|whole\s+)?(?:(?:histolog\w+ |pathology )?"
    r"(?:image|slide|picture)|wsi|case)s?\b[^,]{0,40},\s*|"
    r"(?:overall|in summary|in conclusion|additionally|furthermore|"
    r"moreover|also|however|therefore|thus|and|finally|answer)\s*[,:]\s*)",
    re.IGNORECASE,
)
_IDLE = re.compile(
    r"^(?:as an? (?:ai|language model|assistant)|"
    r"i(?:'m| am)? (?:sorry|cannot|can't|unable|not able)|"
    r"(?:it is|it's) (?:not possible|impossible|important to note)|unable to|"
    r"cannot be (?:determined|assessed)|please (?:note|consult|provide)|consult|"
    r"for (?:a )?definitive diagnosis|"
    r"further (?:evaluation|testing|studies) (?:is|are|may))\b",
    re.IGNORECASE,
)


def clauses(text: str) -> tuple[str, ...]:
    """Clauses of a text in order, each once, without those that state nothing.

    Splits at ends of sentences (not in decimals or abbreviations), semicolons and line ends; then
    at "but" and its like, and at "and" before what can stand alone.
    """
    found: dict[str, None] = {}
    plain = _NUMBERED.sub("\n", _marks(text))
    for sentence in _END.split(_ABBREVIATION.sub(_undotted, plain)):
        opened = _OPENING.sub("", _BULLET.sub("", sentence or ""))
        if _IDLE.match(opened.strip()):
            continue
        for part in _JOINT.split(opened):
            clause = tidy(part)
            if re.search(r"[^\W_]", clause):
                found.setdefault(clause)
    return tuple(found)


def tidy(text: str) -> str:
    """One line, without marks around it."""
    return re.sub(r"\s+", " ", _marks(text)).strip(" \t,.:!?\"'")


def _marks(text: str) -> str:
    """The many kinds of dashes, quotes and blanks as one each."""
    plain = unicodedata.normalize("NFKC", text).replace("**", "")
    plain = re.sub(r"(?<=\S)[ \t]+[\u2012-\u2015-]+[ \t]+", ", ", plain)
    return re.sub(r"[\u2010-\u2015\u2212]", "-", re.sub(r"[\u2018\u2019]", "'", plain))


def _undotted(match: re.Match[str]) -> str:
    return match.group().replace(".", "")
