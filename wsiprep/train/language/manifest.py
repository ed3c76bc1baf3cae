"""Samples: slides and what is said of them, one JSON object a line.

```
{"id": "r1", "slides": ["A.zarr", "B.zarr"], "patient_id": "P7", "caption": "Tubular adenoma."}
{"id": "q1", "slides": ["A"], "question": "Which grade?", "choices": ["low", "high"],
 "answer": "high", "task": "grading", "split": "test"}
```

Every command that trains, evaluates or asks reads this format, and `wsiprep convert` makes it of
the formats of public sets. It is strict: an unknown field, a wrong type, an empty text or an id
used twice is an error that names the line. A field that is null counts as absent.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from wsiprep.core.errors import ManifestError
from wsiprep.store.disk import write_whole
from wsiprep.train.language.text_file import read_lines

__all__ = [
    "PLACEHOLDER",
    "SPLITS",
    "Role",
    "Sample",
    "Split",
    "Turn",
    "data_sha256",
    "load_object",
    "read_manifest",
    "write_manifest",
]

Role = Literal["system", "user", "assistant"]
Split = Literal["", "train", "val", "test"]

SPLITS: Final = ("train", "val", "test")
"""Names of splits; a sample may have none."""

PLACEHOLDER: Final = "<image>"
"""Where others mark the slide's place in a text. No text of a manifest holds it: where the slide
is shown is for the model's template to say."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says in a conversation."""

    role: Role
    text: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"a turn is by system, user or assistant, not '{self.role}'")
        _check_text(f"the text of the {self.role}", self.text)


@dataclass(frozen=True, slots=True)
class Sample:
    """Slides, and what is said of them. An empty field is an absent one.

    Attributes:
        id: Name of the sample, unique in its manifest.
        slides: Of one case: paths of stores (`….zarr`), or slide ids to be found in --stores.
        case_id: The case they are of.
        patient_id: The patient; splits and intervals go by patients.
        caption: A report or description of the slides as a whole.
        sub_captions: Single findings of it.
        conversations: What is learnt from, or asked, turn by turn: at most one system turn first,
            then user and assistant in turn, the assistant last.
        question: One question, for evaluation.
        choices: Its answers to choose from, all different.
        answer: What is true; with choices, one of them word for word.
        label: Class of the slides.
        task: What kind of sample, e.g. `report` or `grading`; results are given by task.
        split: `train`, `val`, `test`, or empty.
    """

    id: str
    slides: tuple[str, ...]
    case_id: str = ""
    patient_id: str = ""
    caption: str = ""
    sub_captions: tuple[str, ...] = ()
    conversations: tuple[Turn, ...] = ()
    question: str = ""
    choices: tuple[str, ...] = ()
    answer: str = ""
    label: str = ""
    task: str = ""
    split: Split = ""

    def __post_init__(self) -> None:
        _check_text("id", self.id)
        if any(ord(c) < 32 for c in self.id):
            raise ValueError(f"the id {self.id!r} holds control characters")
        if not self.slides:
            raise ValueError("slides is empty: name one at least")
        for name in _TEXTS[1:]:
            if getattr(self, name):
                _check_text(name, getattr(self, name))
        for name in _LISTS:
            items = getattr(self, name)
            for item in items:
                _check_text(f"an entry of {name}", item)
            if len(set(items)) < len(items):
                twice = next(item for item in items if items.count(item) > 1)
                raise ValueError(f"{name} holds {twice!r} twice")
        _check_turns(self.conversations)
        if len(self.choices) == 1:
            raise ValueError("choices holds one answer only")
        if (self.choices or self.answer) and not self.question:
            raise ValueError("choices and answer belong to a question, and there is none")
        if self.choices and self.answer and self.answer not in self.choices:
            raise ValueError(f"the answer {self.answer!r} is none of choices")
        if self.split not in get_args(Split):
            raise ValueError(f"split is train, val or test, not '{self.split}'")
        if not any(getattr(self, name) for name in _SAYS):
            raise ValueError(f"nothing is said of the slides: give one of {', '.join(_SAYS)}")

    def canonical(self) -> dict[str, Any]:
        """Plain JSON types, without absent fields: what a line of the manifest holds."""
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "conversations":
                value = [{"role": turn.role, "text": turn.text} for turn in value]
            if value:
                values[field.name] = list(value) if isinstance(value, tuple) else value
        return values


_LISTS: Final = ("slides", "sub_captions", "choices")
_TEXTS: Final = (
    *("id", "case_id", "patient_id", "caption", "question", "answer", "label", "task", "split"),
)
_SAYS: Final = ("caption", "sub_captions", "conversations", "question", "label")
_FIELDS: Final = tuple(field.name for field in fields(Sample))


def read_manifest(path: Path) -> list[Sample]:
    """Samples of a manifest, plain or gzip, in its order; blank lines are passed over.

    Raises:
        ManifestError: it cannot be read, holds no sample, or a line is wrong; names the line.
    """
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            sample = _sample_of(load_object(line))
        except ValueError as err:
            raise ManifestError(f"{path}, line {number}: {err}.") from err
        if sample.id in seen:
            raise ManifestError(
                f"{path}, line {number}: the id '{sample.id}' is also on line {seen[sample.id]}.",
                hint="Give every sample its own id.",
            )
        seen[sample.id] = number
        samples.append(sample)
    if not samples:
        raise ManifestError(f"{path} holds no sample.")
    return samples


def write_manifest(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples, one a line; gzip where the name ends in `.gz`. The same samples, same bytes.

    Raises:
        ManifestError: two samples have one id.
        OutputError: it cannot be written.
    """
    samples = list(samples)
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise ManifestError(f"two samples have the id '{sample.id}'.")
        seen.add(sample.id)
    content = "".join(_line(sample) + "\n" for sample in samples).encode()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    write_whole(path, content)


def data_sha256(samples: Iterable[Sample]) -> str:
    """sha256 (hex) over what samples say, whatever their order and the file's layout."""
    total = hashlib.sha256()
    for line in sorted(map(_line, samples)):
        total.update(line.encode() + b"\n")
    return total.hexdigest()


def load_object(text: str) -> Any:
    """A JSON value in which no name is given twice and every number is one.

    Raises:
        ValueError: it is not that; says where in the text.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON: {err.msg} at character {err.pos + 1}") from err
    except RecursionError as err:
        raise ValueError("not JSON of ours: nested too deeply") from err


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(n for n in names if names.count(n) > 1)}' is given twice")
    return values


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _line(sample: Sample) -> str:
    return json.dumps(sample.canonical(), ensure_ascii=False, separators=(",", ":"))


def _sample_of(value: Any) -> Sample:
    if not isinstance(value, dict):
        raise ValueError(f"a line is an object with named fields, not {_kind(value)}")
    for name in value:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            raise ValueError(
                f"there is no field '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")
            )
    given = {name: item for name, item in value.items() if item is not None}
    for name in ("id", "slides"):
        if name not in given:
            raise ValueError(f"'{name}' is missing")
    parts: dict[str, Any] = {}
    for name, item in given.items():
        if name in _TEXTS:
            _check_text(name, item)
            parts[name] = item
        elif not isinstance(item, list):
            raise ValueError(f"{name} must be a list, not {_kind(item)}")
        elif name == "conversations":
            parts[name] = tuple(_turn_of(turn) for turn in item)
        else:
            parts[name] = tuple(item)
    return Sample(**parts)


def _turn_of(value: Any) -> Turn:
    if not isinstance(value, dict) or set(value) != {"role", "text"}:
        raise ValueError('a turn is {"role": …, "text": …} and nothing else')
    return Turn(value["role"], value["text"])


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {_kind(value)}")
    if not value.strip():
        raise ValueError(f"{name} is empty")
    if PLACEHOLDER in value:
        raise ValueError(f"{name} holds {PLACEHOLDER}, which a manifest leaves to the model")
    try:
        value.encode()
    except UnicodeEncodeError as err:
        raise ValueError(f"{name} holds half a character (a lone surrogate)") from err


def _check_turns(turns: tuple[Turn, ...]) -> None:
    silent = int(bool(turns) and turns[0].role == "system")
    for number, turn in enumerate(turns[silent:]):
        expected = "assistant" if number % 2 else "user"
        if turn.role != expected:
            raise ValueError(
                f"turn {number + silent + 1} of the conversation is by {turn.role}, where the "
                f"{expected} speaks"
            )
    spoken = len(turns) - silent
    if turns and (spoken == 0 or spoken % 2):
        raise ValueError("the last turn of the conversation must be by the assistant")


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
    names |= {dict: "an object", str: "text", type(None): "null"}
    return names.get(type(value), type(value).__name__)
