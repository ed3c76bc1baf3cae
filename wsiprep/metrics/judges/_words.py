"""Words of pathology reports in one form each: plurals, endings, spellings, synonyms."""

from __future__ import annotations

import re

__all__ = ["IDLE", "expand", "lemma"]

PHRASES: tuple[tuple[str, str], ...] = (
    (
        r"\blvi\b|\blympho[- ]vascular invasion\b|\bangiolymphatic invasion\b",
        "lymphovascular invasion",
    ),
    (r"\blympho[- ]vascular\b|\bangiolymphatic\b|\blymphatic[- ]vascular\b", "lymphovascular"),
    (r"\bpni\b|\bperi[- ]neural\b", "perineural invasion"),
    (r"\bperineural invasion invasion\b", "perineural invasion"),
    (r"\bdcis\b", "ductal carcinoma in situ"),
    (r"\blcis\b", "lobular carcinoma in situ"),
    (r"\b(?:idc|invasive ductal cancer)\b", "invasive ductal carcinoma"),
    (r"\bilc\b", "invasive lobular carcinoma"),
    (r"\bhcc\b|\bhepatoma\b", "hepatocellular carcinoma"),
    (r"\brcc\b", "renal cell carcinoma"),
    (r"\bscc\b", "squamous cell carcinoma"),
    (r"\bnsclc\b", "nonsmall cell lung carcinoma"),
    (r"\bsclc\b", "small cell lung carcinoma"),
    (r"\bgbm\b", "glioblastoma"),
    (r"\btils?\b", "tumor infiltrating lymphocyte"),
    (r"\blymph nodes?\b|\bnodal\b", "node"),
    (r"\b(?:not otherwise specified|no special type|nos|nst)\b", "unspecial"),
    (r"\bnon[- ]?(?=[a-z]{3})", "non"),
    (r"\bin[- ]situ\b", "insitu"),
    (r"\bhaemat", "hemat"),
    (r"\boedema", "edema"),
)
SAME: dict[str, str] = {
    "tumour": "tumor", "neoplasm": "tumor", "neoplastic": "tumor", "tumoral": "tumor",
    "cancer": "carcinoma", "cancerous": "carcinoma", "carcinomatous": "carcinoma",
    "invade": "invas", "invading": "invas", "invaded": "invas",
    "infiltrate": "infiltr", "poor": "poor", "poorly": "poor", "moderately": "moderate",
    "gland": "gland", "glandular": "gland", "nuclei": "nucleus", "nuclear": "nucleus",
    "nucleoli": "nucleolus", "nucleolar": "nucleolus", "cellular": "cell", "stromal": "stroma",
    "vessel": "vascular", "fibrotic": "fibros", "lymphocytic": "lymphocyte",
    "atypical": "atypia", "papillae": "papillary", "colour": "color", "grey": "gray",
    "borders": "border", "resemble": "like", "enlarged": "large", "big": "large",
    "tubular": "tubule", "cystic": "cyst", "inflamed": "inflamm", "inflammatory": "inflamm",
}  # fmt: skip
FAMILIES = ("metasta", "necro", "mitos", "mitot", "pleomorph", "keratin", "ulcer", "fibros",
            "inflamm", "hyperchrom", "hemorrhag", "calcif", "differentiat", "desmoplas", "dysplas",
            "hyperplas", "anaplas", "apopto", "vacuol", "eosinophil", "basophil", "lymphocyt",
            "chemotherap", "radiotherap", "immunotherap", "surg", "prolif",
            "disorgani")  # fmt: skip
ENDINGS = ("ations", "ation", "ating", "ative", "ated", "ates", "ate", "ings", "ing", "ions", "ion",
           "ive", "ed", "ly", "ity", "ous", "ic", "ism", "al")  # fmt: skip

_IDLE = (
    "a an the this that these those it its they their there here he she his her we our you i is "
    "are was were be been being has have had having do does did will would could should may "
    "might can must of in on at by to for from with as and or if than then so such both each "
    "any all some other also very quite rather more most much which who whom whose what where "
    "when how into over under about above below between among through during within per via up "
    "out only just show shows showed showing shown see seen saw observe observed observes "
    "observing note noted find found identify identified present presence evident exhibit "
    "exhibits exhibited exhibiting display displays displayed displaying demonstrate "
    "demonstrates demonstrated demonstrating reveal reveals revealed indicate indicates "
    "indicated indicating indicative suggest suggests suggested suggesting consistent "
    "compatible feature features featuring characteristic characteristics characterized "
    "characterised appear appears appearance include includes including included patient "
    "patients case cases specimen image images slide slides wsi picture histological histologic "
    "histologically histology histopathological histopathologic pathological pathology "
    "microscopic microscopically examination diagnosis diagnosed classified classification type "
    "grading graded grade stage staging staged tnm status result results finding findings based "
    "evidence detected appreciated given due because overall following contain contains "
    "containing involve s t "
)
IDLE = frozenset(_IDLE.split())
"""Words that say nothing by themselves here; where they matter they are part of a slot."""


def expand(text: str) -> str:
    """Lower case, abbreviations spelt out."""
    lower = text.lower()
    for pattern, phrase in PHRASES:
        lower = re.sub(pattern, phrase, lower)
    return lower


def lemma(word: str) -> str:
    """One form of a word in lower case; not always a word itself."""
    if word in SAME:
        return SAME[word]
    for family in FAMILIES:
        if word.startswith(family):
            return "mito" if family.startswith("mito") else family
    if word.endswith("ies") and len(word) > 5:
        word = word[:-3] + "y"
    elif word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if word in SAME:
        return SAME[word]
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 5:
            return word[: -len(ending)]
    return word
