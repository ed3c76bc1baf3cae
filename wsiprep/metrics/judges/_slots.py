"""What a clause says of grade, stage, markers, margins, types: slots with values, by rules.

A slot is a question that has one answer of one lesion: two clauses that fill it with values that
share nothing contradict each other. Roman numbers are arabic ones, sizes are in mm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Filled", "fill", "strong"]

ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5"}
_NUMBER = r"(?:iv|iii|ii|i|v|[0-5])"
_TO = r"(?:\s*(?:-|to|or|and)\s*)"
_DEGREE = r"(?:well|moderate(?:ly)?|intermediate(?:ly)?|poor(?:ly)?)"
_BETTER = r"good|favou?rable|excellent|better|unfavou?rable|poor|guarded|worse|dismal|bad"
_EDGE_FREE = r"free|clear|negative|uninvolved|not\s+involved|unremarkable|tumor[- ]free"
_EDGE_NOT_FREE = r"not\s+(?:free|clear|negative)|positive|involved"
_LOW = "low|mild|minimal|slight|rare|few|sparse|scant|scanty|occasional|limited"
_HIGH = "high|marked|severe|extensive|abundant|prominent|numerous|brisk|dense|frequent|increased"
_TNM = r"(?:[ypcra]{0,3}(?:t(?:is|x|[0-4][a-d]?)|n(?:x|[0-3][a-c]?)|m(?:x|[01][a-c]?))[,\s]*)"

TYPES: tuple[tuple[str, str], ...] = (
    (r"adenosquamous(?: cell)? carcinoma", "adenocarcinoma squamous"),
    (r"adenocarcinoma", "adenocarcinoma"),
    (r"squamous(?: cell)? carcinoma", "squamous"),
    (r"(?:urothelial|transitional cell) carcinoma", "urothelial"),
    (r"hepatocellular carcinoma", "hepatocellular"),
    (r"cholangiocarcinoma", "cholangio"),
    (r"renal cell carcinoma", "renal"),
    (r"\bsmall cell (?:lung |neuroendocrine )?carcinoma", "small"),
    (r"nonsmall cell (?:lung )?carcinoma", "nonsmall"),
    (r"basal cell carcinoma", "basal"),
    (r"melanoma", "melanoma"),
    (r"lymphoma", "lymphoma"),
    (r"mesothelioma", "mesothelioma"),
    (r"glioblastoma", "glioblastoma"),
    (r"oligodendroglioma", "oligodendroglioma"),
    (r"astrocytoma", "astrocytoma"),
    (r"meningioma", "meningioma"),
    (r"seminoma", "seminoma"),
    (r"(?<!carcino)sarcoma\b", "sarcoma"),
    (r"thymoma", "thymoma"),
    (r"carcinoid(?: tumor)?", "carcinoid"),
)
MOLECULAR: tuple[tuple[str, str], ...] = (
    (r"luminal[- ]?a\b", "luminal a"),
    (r"luminal[- ]?b\b", "luminal b"),
    (r"her2[- ](?:enriched|overexpress\w*)", "her2"),
    (r"basal[- ]like", "basal"),
    (r"triple[- ]negative", "triple negative"),
    (r"(?:cn|copy[- ]number)[-_ ]?high", "cn high"),
    (r"(?:cn|copy[- ]number)[-_ ]?low", "cn low"),
    (r"(?:[a-z]+_)?pole(?:[- ](?:mutant|mutated|ultramutated))?\b", "pole"),
    (r"msi[- _]?h(?:igh)?\b|(?:microsatellite|msi)[- ]instability[- ]high", "msi high"),
    (r"msi[- _]?l(?:ow)?\b", "msi low"),
    (r"\bmss\b|microsatellite[- ]stable", "mss"),
    (r"chromosomal instability|\bcin\b", "cin"),
    (r"genomically stable", "gs"),
    (r"\bebv\b|epstein[- ]barr(?: virus)?", "ebv"),
)
MARKERS: tuple[tuple[str, str], ...] = (
    (r"estrogen receptor|oestrogen receptor|(?-i:\bER\b)", "er"),
    (r"progesterone receptor|(?-i:\bPR\b|\bPgR\b)", "pr"),
    (r"\bher[- ]?2(?:/neu)?\b|\bc-?erbb-?2\b", "her2"),
    (r"\bki[- ]?67\b|\bmib-?1\b", "ki67"),
    (r"\b(?:cyto)?keratins?[- ]*\(?ae1\s*/\s*(?:ae)?3\)?|\bae1\s*/\s*(?:ae)?3\b", "ckae"),
    (r"\b(?:ck|cytokeratin|keratin)[- ]?5\s*/\s*6\b", "ck5"),
    (r"\b(?:ck|cytokeratin|keratin)[- ]?(?P<ck>\d{1,2})\b", "ck"),
    (r"\bcam[- ]?5\.2\b", "cam52"),
    (r"\bttf[- ]?1\b", "ttf1"),
    (r"\bw+t[- ]?1\b", "wt1"),
    (r"\bd2[- ]?40\b|podoplanin", "d240"),
    (r"\bber[- ]?ep4\b|\bep[- ]?cam\b", "berep4"),
    (r"\bmoc[- ]?31\b", "moc31"),
    (r"\bs[- ]?100b?\b", "s100"),
    (r"\bhmb[- ]?45\b", "hmb45"),
    (r"\bmelan[- ]?a\b|\bmart[- ]?1\b", "melana"),
    (r"\bnapsin(?:[- ]?a)?\b", "napsin"),
    (r"\bpd[- ]?l1\b", "pdl1"),
    (r"\bbcl[- ]?(?P<bcl>[26])\b", "bcl"),
    (r"\btle[- ]?1\b", "tle1"),
    (r"\bca[- ]?(?P<ca>125|19-9|ix)\b", "ca"),
    (r"\bnkx[- ]?3\.?1\b", "nkx31"),
    (r"\bgata[- ]?3\b", "gata3"),
    (r"\b(?P<word>calretinin|vimentin|desmin|synaptophysin|chromogranin|mammaglobin|e-cadherin|"
     r"cea|ema|sma|psa|psap|afp|inhibin|mesothelin|gfap|olig2|idh1|atrx|dog1|c-kit|amacr|hepar-?1|"
     r"glypican-?3|arginase-?1|thyroglobulin|calcitonin|insm1|satb2|cdx-?2|pax-?[258]|sox-?\d{1,2}|"
     r"mlh1|msh[26]|pms2|cd\d{1,3}[a-z]?|p(?:16|40|53|63|504s)|gcdfp-?15|alk|ros1|erg|myogenin)\b",
     ""),
)  # fmt: skip
_STATUS = re.compile(
    r"(?P<no>(?:\bno|\bnot|\bwithout|\bnon-?|\black of|\bloss of|\babsen(?:t|ce)(?: of)?)\s*"
    r"(?:significant\s+)?(?:expression|expressed|expressing|reactiv\w+|immunoreactiv\w+|staining|"
    r"positiv\w+)|\bnegativ\w+|\bnonreactive|\bloss(?: of)?\b|\babsent\b)"
    r"|(?P<yes>\bpositiv\w+|\b(?:immuno)?reactiv\w+|\bexpress\w+|\boverexpress\w+)",
    re.IGNORECASE,
)
_MARKER = re.compile(
    "|".join(f"(?P<m{k}>{pattern})" for k, (pattern, _) in enumerate(MARKERS)), re.IGNORECASE
)
_SIGN = re.compile(r"\s?\(?(\+{1,3}|-)\)?(?=[\s,;.)/]|$)")


@dataclass(frozen=True, slots=True)
class Filled:
    """A slot that a clause fills.

    Attributes:
        key: Which.
        value: With what.
        start: Where in the clause.
        end: Where it ends.
    """

    key: str
    value: str
    start: int
    end: int


def strong(key: str) -> bool:
    """Whether two values contradict each other, whatever else the clauses say.

    Sizes, counts and degrees are of many things; they do so only where the rest is alike.
    """
    return not key.startswith(("size", "percent", "count", "level:"))


def fill(clause: str) -> list[Filled]:
    """Slots of a clause; spans of different slots do not overlap.

    Args:
        clause: As written: case tells the marker ER from a word.
    """
    found: list[Filled] = []
    text = clause
    for finder in (_markers, _rules):
        for one in finder(text):
            found.append(one)
        text = _blank(text, found)
    return sorted(found, key=lambda one: (one.start, one.key, one.value))


def _blank(text: str, spans: list[Filled]) -> str:
    for one in spans:
        text = text[: one.start] + " " * (one.end - one.start) + text[one.end :]
    return text


def _markers(clause: str) -> Iterator[Filled]:
    """Markers with their results, before ("positive for A, B") or behind them ("A, B positive")."""
    events: list[tuple[int, int, str, bool]] = []
    for match in _MARKER.finditer(clause):
        events.append((match.start(), match.end(), _marker_name(match), False))
    for match in _STATUS.finditer(clause):
        events.append((match.start(), match.end(), "-" if match.group("no") else "+", True))
    pending: list[tuple[int, int, str]] = []
    current: tuple[int, int, str] | None = None
    for start, end, name, is_status in sorted(events):
        if not is_status:
            sign = _SIGN.match(clause, end)
            if sign:
                yield Filled(f"ihc:{name}", sign.group(1)[0], start, sign.end())
            elif current:
                yield Filled(f"ihc:{name}", current[2], start, end)
                yield Filled("", "", current[0], current[1])
            else:
                pending.append((start, end, name))
        elif pending and not re.match(r"\s+(?:for|of|in|with)\b", clause[end:]):
            for first, last, marker in pending:
                yield Filled(f"ihc:{marker}", name, first, last)
            yield Filled("", "", start, end)
            pending, current = [], None
        else:
            pending, current = [], (start, end, name)


def _marker_name(match: re.Match[str]) -> str:
    for number, (_, name) in enumerate(MARKERS):
        if match.group(f"m{number}"):
            part = next((match.group(g) for g in ("ck", "bcl", "ca", "word") if match.group(g)), "")
            return name + part.lower().replace("-", "")
    return match.group().lower()


def _rules(clause: str) -> Iterator[Filled]:
    """The slots that one expression finds each; what one has taken the next does not see."""
    text = clause.lower()
    for pattern, read in RULES:
        taken = []
        for match in re.finditer(pattern, text):
            for key, value in read(match):
                taken.append(Filled(key, value, match.start(), match.end()))
        yield from taken
        text = _blank(text, taken)


Pairs = list[tuple[str, str]]


def _grade(match: re.Match[str]) -> Pairs:
    return [("grade", ROMAN.get(part, part)) for part in match.groups() if part]


def _tnm(match: re.Match[str]) -> Pairs:
    parts = re.findall(r"t(?:is|x|[0-4][a-d]?)|n(?:x|[0-3][a-c]?)|m(?:x|[01][a-c]?)", match.group())
    return [(part[0], part[1:]) for part in parts]


def _stage(match: re.Match[str]) -> Pairs:
    number, letter = match.groups()
    return [("stage", ROMAN.get(number, number) + (letter or ""))]


def _differentiation(match: re.Match[str]) -> Pairs:
    value = {"w": "well", "m": "moderate", "i": "moderate", "p": "poor"}
    return [("differentiation", value[part[0]]) for part in match.groups() if part]


def _gleason(match: re.Match[str]) -> Pairs:
    first, second, total = match.groups()
    if first:
        both = f"{first}+{second}"
        return [("gleason", both), ("gleason sum", str(int(first) + int(second)))]
    return [("gleason sum", total)]


def _size(match: re.Match[str]) -> Pairs:
    scale = {"mm": 1.0, "cm": 10.0}.get(match.group(2), 0.001)
    return [("size", f"{float(n) * scale:g}") for n in re.findall(r"\d+(?:\.\d+)?", match.group(1))]


def _prognosis(match: re.Match[str]) -> Pairs:
    word = next(part for part in match.groups() if part)
    better = word.startswith(("good", "fav", "exc", "better"))
    if re.search(rf"\bnot\s+(?:\w+\s+)?{word}", match.group()):
        better = not better
    return [("prognosis", "good" if better else "poor")]


def _margin(match: re.Match[str]) -> Pairs:
    word = next(part for part in match.groups() if part)
    free = re.fullmatch(_EDGE_FREE, word) is not None
    return [("margin", "free" if free else "involved")]


def _level(match: re.Match[str]) -> Pairs:
    from wsiprep.metrics.judges._words import lemma

    degree = "high" if re.fullmatch(_HIGH, match.group(1)) else "low"
    return [(f"level:{lemma(match.group(2))}", degree)]


def _named(key: str, values: str) -> Callable[[re.Match[str]], Pairs]:
    return lambda _: [(key, value) for value in values.split("|")]


RULES: tuple[tuple[str, Callable[[re.Match[str]], Pairs]], ...] = (
    (r"gleason(?:\s+(?:score|grade|pattern|sum))*\s*(?:of|is|:)?\s*"
     r"(?:(\d)\s*\+\s*(\d)(?:\s*=\s*\d+)?|(\d{1,2}))", _gleason),
    (rf"\bgrade(?:\s+(?:group|is|of|was))?\s*[:=]?\s*({_NUMBER})\b(?:{_TO}({_NUMBER})\b)?", _grade),
    (r"\bg([1-4])\b", _grade),
    (r"\b(high|intermediate|low)(?:est)?[- ]grade\b"
     r"|\bgrade\s*(?:is|:|of)?\s*(high|intermediate|low)\b",
     lambda m: [("grade level", next(part for part in m.groups() if part))]),
    (rf"\b({_DEGREE})(?:\s*(?:-|to|and|or)+\s*({_DEGREE}))?[- ]+differentiat\w+", _differentiation),
    (r"\b(?:un|de|ana)?(?<=un)differentiated\b", _named("differentiation", "undifferentiated")),
    (rf"\b{_TNM}{{1,6}}(?<=[\da-dxs,\s])(?![\w])", _tnm),
    (rf"\bstage\s*(?:is|:|of)?\s*({_NUMBER})[- ]?([a-c])?\b", _stage),
    (r"(\d+(?:\.\d+)?(?:\s*(?:[x\u00d7]|by)\s*\d+(?:\.\d+)?)*)\s*-?([cmu\u00b5\u03bc]m)\b", _size),
    (r"(\d+)\s*(?:of|/|out of)\s*(\d+)(?=\D{0,30}\bnode)"
     r"|\bnodes?\s*:?\s*\(?(\d+)\s*(?:of|/)\s*(\d+)",
     lambda m: [("nodes", "/".join(part for part in m.groups() if part))]),
    (r"(\d+)\s*(?:mitos[ei]s|mitotic figures?)?\s*(?:per|/)\s*(?:10\s*)?(?:hpf|mm2)",
     lambda m: [("count:mito", m.group(1))]),
    (r"(\d+(?:\.\d+)?)\s*%", lambda m: [("percent", m.group(1))]),
    (rf"\bprognosis\b\D{{0,30}}?\b({_BETTER})\b"
     rf"|\b({_BETTER})\b(?:\s+\w+)?\s+prognosis\b", _prognosis),
    (rf"\bmargins?\b[^,;]{{0,30}}?\b({_EDGE_NOT_FREE}|{_EDGE_FREE})\b"
     rf"|\b({_EDGE_FREE}|{_EDGE_NOT_FREE})\s+(?:\w+\s+)?margins?\b", _margin),
    *((pattern, _named("molecular", value)) for pattern, value in MOLECULAR),
    (r"\bepithelioid\b|\bepithelial(?= (?:type|subtype|mesotheli))",
     _named("subtype", "epithelioid")),
    (r"\bbiphasic\b", _named("subtype", "biphasic")),
    (r"\bsarcomatoid\b", _named("subtype", "sarcomatoid")),
    *((pattern, _named("type", value.replace(" ", "|"))) for pattern, value in TYPES),
    (r"\bbenign\b|\bnonmalignant\b", _named("behaviour", "benign")),
    (r"\bmalignan\w+", _named("behaviour", "malignant")),
    (rf"\b({_LOW}|{_HIGH})\s+(?:(?:degree|amount|level|nuclear|cellular|cytologic\w*)\s+(?:of\s+)?)*"
     r"([a-z]{4,})", _level),
    (r"^(?:yes|correct|true)\b(?=\s*[,.:;]|\s*$)", _named("answer", "yes")),
    (r"^(?:no|incorrect|false)\b(?=\s*[,.:;]|\s*$)", _named("answer", "no")),
)  # fmt: skip
