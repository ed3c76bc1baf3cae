import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wsiprep.metrics.claims import Item, judge_item, judge_items
from wsiprep.metrics.judges._clauses import clauses
from wsiprep.metrics.judges._slots import fill
from wsiprep.metrics.judges.offline import Config, create, part_of

JUDGE = create(Config())

# (claim, its negation or another value of its slot); no two rows are about the same thing.
FACTS = [
    ("Lymphovascular invasion is present.", "Lymphovascular invasion is not identified."),
    ("There is no perineural invasion.", "Perineural invasion is seen."),
    ("The tumor is grade II.", "The tumor is grade 3."),
    ("Invasive ductal carcinoma of the breast.", "No invasive ductal carcinoma of the breast."),
    ("The resection margins are free.", "The resection margins are involved."),
    ("Comedo necrosis is extensive.", "Comedo necrosis is absent."),
    ("Pathologic stage pT2 N1 M0.", "Pathologic stage pT3 N0 M0."),
    ("Estrogen receptor is positive.", "Estrogen receptor is negative."),
    ("HER2 is negative.", "HER2 is positive."),
    ("The prognosis is favorable.", "The prognosis is poor."),
    ("Nests are surrounded by desmoplastic stroma.",
     "Nests are not surrounded by desmoplastic stroma."),
]  # fmt: skip
BESIDE = [
    "The weather was cold in spring.",
    "Trains left the station late.",
    "Music played softly.",
]

numbers = st.lists(st.integers(0, len(FACTS) - 1), min_size=1, max_size=6, unique=True)


def said(rows, which=0):
    return " ".join(FACTS[row][which] for row in rows)


def judged(reference, response):
    precision, relevance = judge_item(JUDGE, Item("", "q", reference, response))
    return precision.value, relevance.value


@settings(deadline=None, max_examples=40)
@given(numbers)
def test_the_same_text_is_perfect_and_none_is_worthless(rows):
    assert judged(said(rows), said(rows)) == (1, 1)
    assert judged(said(rows), "") == (0, 0)


@settings(deadline=None, max_examples=40)
@given(st.text(min_size=1, max_size=120))
def test_any_text_bears_itself_out(text):
    precision, relevance = judged(text, text)
    assert precision in (None, 1)
    assert relevance == (0 if not text.strip() or precision is None else 1) or relevance is None


@settings(deadline=None, max_examples=40)
@given(numbers)
def test_what_is_negated_scores_little(rows):
    for one, other in ((0, 1), (1, 0)):
        precision, relevance = judged(said(rows, one), said(rows, other))
        assert precision <= 0.3
        assert relevance <= 0.3


@settings(deadline=None, max_examples=40)
@given(numbers, st.randoms())
def test_the_order_of_claims_makes_no_difference(rows, rng):
    mixed = rng.sample(rows, len(rows))
    wrong = said(rows[::2], 1) + " " + said(rows[1::2])
    assert judged(said(rows), said(mixed)) == (1, 1)
    assert judged(said(rows), wrong) == judged(said(mixed), wrong)


@settings(deadline=None, max_examples=40)
@given(numbers, numbers, st.lists(st.sampled_from(BESIDE), min_size=1, unique=True), st.booleans())
def test_what_is_beside_the_point_lowers_relevance_alone(rows, answer, beside, first):
    reference, response = said(rows), said(answer)
    more = " ".join([*beside, response] if first else [response, *beside])
    precision, relevance = judged(reference, response)
    padded, diluted = judged(reference, more)
    assert padded == precision
    assert diluted < relevance if relevance else diluted == 0


@settings(deadline=None, max_examples=40)
@given(numbers, st.data())
def test_leaving_out_right_claims_never_helps_precision(rows, data):
    wrong = data.draw(st.lists(st.sampled_from(rows), unique=True))
    right = [row for row in rows if row not in wrong]
    assume(right)
    left = data.draw(st.sampled_from(right))
    reference = said(rows)
    full = said(right) + " " + said(wrong, 1)
    less = said([row for row in right if row != left]) + " " + said(wrong, 1)
    assert judged(reference, less)[0] < judged(reference, full)[0]


def test_saying_a_thing_and_its_contrary_is_no_answer():
    precision, _ = judged("Necrosis is present.", "Necrosis is present. Necrosis is absent.")
    assert precision <= 0.3


@pytest.mark.parametrize(
    ("reference", "response", "low", "high"),
    [
        # The same in other words.
        ("Invasive ductal carcinoma, grade II.", "Grade 2 invasive ductal carcinoma", 1, 1),
        ("No LVI", "There is no evidence of lymphovascular invasion.", 1, 1),
        ("The TNM staging for this patient is T1 N0 M0.", "pT1N0M0", 1, 1),
        ("Stage IIA", "stage 2a disease", 0.7, 1),
        ("The tumor measures 2 cm.", "The tumour is 20 mm", 1, 1),
        ("Poorly differentiated adenocarcinoma", "adenocarcinoma with poor differentiation", 1, 1),
        ("Metastatic tumour cells in lymph nodes", "Nodal metastases of tumor cells", 0.7, 1),
        ("Gleason score 3+4=7", "Gleason 3 + 4", 1, 1),
        ("Two of the nodes: 2/14 nodes", "2 of 14 lymph nodes", 0.7, 1),
        ("CK7 positive, CK20 negative", "positive for CK7, negative for CK20", 0.7, 1),
        ("ER+ PR-", "Estrogen receptor positive, progesterone receptor negative", 1, 1),
        # Right about the subject, wrong at its core.
        ("Well differentiated adenocarcinoma", "Poorly differentiated adenocarcinoma", 0.3, 0.3),
        ("Malignant gland", "benign gland", 0.3, 0.3),
        ("Grade 2 carcinoma", "grade 3 carcinoma", 0, 0.3),
        ("The margins are free of tumor.", "Margins are involved by tumor.", 0, 0.3),
        ("The TNM staging is T1 N0 M0.", "The TNM staging is T4M0NX", 0, 0.3),
        ("Adenocarcinoma of the colon", "Squamous cell carcinoma of the colon", 0, 0.3),
        ("The molecular subtype is CN_HIGH.", "The molecular subtype is Luminal A.", 0, 0.3),
        ("ER+ PR-", "ER- PR+", 0, 0.3),
        ("Stage II", "Stage III", 0, 0.3),
        ("Yes", "No", 0, 0),
        # Something else.
        ("Squamous pearls", "Mucin pools", 0, 0),
    ],
)  # fmt: skip
def test_known_pairs(reference, response, low, high):
    assert low <= judged(reference, response)[0] <= high


def test_grades_of_two_lesions_do_not_contradict_each_other():
    text = "Invasive ductal carcinoma, grade 1. Ductal carcinoma in situ, grade 3."
    assert judged(text, text + " The weather was cold.")[0] == 1
    assert judged("Invasive ductal carcinoma, grade 1.", text)[0] == 1


@pytest.mark.parametrize(
    ("clause", "slots"),
    [
        ("grade III", {"grade": {"3"}}),
        ("grade 2 to 3", {"grade": {"2", "3"}}),
        ("high-grade", {"grade level": {"high"}}),
        ("moderate to poorly differentiated", {"differentiation": {"moderate", "poor"}}),
        ("undifferentiated", {"differentiation": {"undifferentiated"}}),
        ("ypT2bN0Mx", {"t": {"2b"}, "n": {"0"}, "m": {"x"}}),
        ("T3MXN3", {"t": {"3"}, "m": {"x"}, "n": {"3"}}),
        ("stage IVa", {"stage": {"4a"}}),
        ("3 x 2.5 cm", {"size": {"30", "25"}}),
        ("negative margins", {"margin": {"free"}}),
        ("margins are not involved", {"margin": {"free"}}),
        ("poor prognosis", {"prognosis": {"poor"}}),
        ("the prognosis is unfavorable", {"prognosis": {"poor"}}),
        ("3/15 lymph nodes", {"nodes": {"3/15"}}),
        ("positive calretinin, CK5/6 and D2-40, negative TTF-1, WT-1",
         {"ihc:calretinin": {"+"}, "ihc:ck5": {"+"}, "ihc:d240": {"+"}, "ihc:ttf1": {"-"},
          "ihc:wt1": {"-"}}),
        ("CK7 strongly positive, CK20 weakly positive, TTF-1 negative",
         {"ihc:ck7": {"+"}, "ihc:ck20": {"+"}, "ihc:ttf1": {"-"}}),
        ("strong Cytokeratin 7 reactivity, no expression of Cytokeratin 20 and Vimentin",
         {"ihc:ck7": {"+"}, "ihc:ck20": {"-"}, "ihc:vimentin": {"-"}}),
        ("ER+ HER2-", {"ihc:er": {"+"}, "ihc:her2": {"-"}}),
        ("later the pr was her own", {}),
    ],
)  # fmt: skip
def test_slots(clause, slots):
    found = {}
    for one in fill(clause):
        if one.key:
            found.setdefault(one.key, set()).add(one.value)
    assert found == slots


def test_clauses():
    text = (
        "1. Tumor of 1.5 cm, e.g. in the dome; margins free.\n- Necrosis is present but mitoses "
        "are rare. Cells are large and show nucleoli, with pink cytoplasm. As an AI I cannot say "
        "more."
    )
    assert clauses(text) == (
        "Tumor of 1.5 cm, eg in the dome",
        "margins free",
        "Necrosis is present",
        "mitoses are rare",
        "Cells are large",
        "show nucleoli, with pink cytoplasm",
    )
    assert clauses("Necrosis.  Necrosis. ") == ("Necrosis",)
    assert clauses(" .;\n") == ()


def test_scope_of_negations():
    assert part_of("no necrosis or hemorrhage but marked atypia").denied == {"necro", "hemorrhag"}
    assert part_of("necrosis is not seen").denied == {"necro"}
    assert part_of("tumor without necrosis").denied == {"necro"}
    assert part_of("nonkeratinizing tumor").denied == frozenset()


def test_its_names_are_its_own():
    found = judge_items(JUDGE, [Item("1", "q", "Necrosis.", "Necrosis.", "Report")])
    assert set(found.statistics()) == {"wsi_p_offline", "wsi_r_offline"}
    assert found.canonical()["judge"] == "offline"
