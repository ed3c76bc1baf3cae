"""Questions about slides, captions of slides, and a chat on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wsiprep.core.errors import ConfigError, SlideError
from wsiprep.core.report import Event, OnEvent
from wsiprep.models.language.choices import option_texts, question_text
from wsiprep.models.language.templates import Turn
from wsiprep.store.disk import check_writable, write_whole
from wsiprep.tasks.ask_config import AskConfig, CaptionConfig
from wsiprep.tasks.asked_assistant import AskedAssistant, CaseView, load_asked
from wsiprep.tasks.embedded import EmbeddedSlide, Gathered, gather_embedded, visit
from wsiprep.tasks.results import Asked, csv_text, failures, write_json
from wsiprep.train.language.stores import case_name

__all__ = ["Chat", "ask", "caption", "open_chat"]

Answer = Callable[[AskedAssistant, CaseView, str], list[dict[str, Any]]]
"""From an assistant, what it is shown, and the name of the case, to rows of results."""


@dataclass(slots=True)
class Chat:
    """A conversation about slides, turn by turn.

    Attributes:
        case: Name of what it is about.
        view: What the assistant is shown.
        turns: What was said so far.
        notes: Sentences for the user.
    """

    asked: AskedAssistant
    case: str
    view: CaseView
    turns: list[Turn] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def say(self, text: str) -> str:
        """Ask something; the answer is kept in the conversation.

        When it grows too long for the model, its oldest exchanges are no longer told to it.

        Raises:
            ManifestError: the question alone is too long, or the model takes one question only.
        """
        said = [*self.turns, Turn("user", text)]
        answer = self.asked.answer(self.view.shown, said, self.case)
        # An empty answer is no turn that a conversation may have.
        self.turns = [*said, Turn("assistant", answer)] if answer else self.turns
        return answer

    def forget(self) -> None:
        """Begin anew."""
        self.turns = []


def open_chat(cfg: AskConfig, on_event: OnEvent = lambda _: None) -> Chat:
    """Load the assistant and show it the slides.

    Raises:
        ConfigError: there are several slides, and they are not said to be of one case.
        WsiprepError: the slides or the model cannot be used.
    """
    asked, found = _begin(cfg, on_event)
    if found.failed:
        row = found.failed[0]
        raise SlideError(
            row.reason, slide=row.slide, stage=row.stage or None, hint=row.remedy or None
        )
    if len(found.slides) != 1 and not cfg.questions.together:
        raise ConfigError(
            f"a chat is about one slide or case, and there are {len(found.slides)} slides.",
            hint="Add --together if they are of one case, or ask each a question with -q.",
        )
    name = case_name(slide.store for slide in found.slides)
    return Chat(asked, name, asked.view(found.slides), notes=found.notes)


def ask(cfg: AskConfig, on_event: OnEvent = lambda _: None) -> Asked:
    """Ask every slide, or the case, every question; writes answers.csv and answers.json.

    Raises:
        UsageError: slides or questions make no sense; nothing was written.
        EnvironmentProblem: the model cannot be loaded, or the folder not be written.
    """
    wanted = cfg.questions

    def answers(asked: AskedAssistant, view: CaseView, name: str) -> list[dict[str, Any]]:
        style = asked.checkpoint.model.cfg.choices
        said = option_texts(wanted.choice, style)
        rows: list[dict[str, Any]] = []
        spoken: list[Turn] = []
        for question in wanted.question:
            turn = Turn("user", question_text(question, wanted.choice, style))
            turns = [*spoken, turn]
            row: dict[str, Any] = {"question": question}
            ways = {"": view.shown}
            if wanted.blind:
                ways["_blind"] = asked.checkpoint.model.nothing()
            for suffix, shown in ways.items():
                if wanted.choice:
                    likely = asked.choose(shown, turns, wanted.choice, said, name)
                    row[f"answer{suffix}"] = likely[0].choice
                    row[f"choices{suffix}"] = [asdict(one) for one in likely]
                else:
                    row[f"answer{suffix}"] = asked.answer(shown, turns, name)
            rows.append(row)
            if wanted.follow_up and row["answer"]:
                reply = row["answer"]
                if wanted.choice:
                    reply = said[wanted.choice.index(reply)]
                spoken = [*turns, Turn("assistant", reply)]
        return rows

    if not wanted.question:
        raise ConfigError("there is no question.", hint="Give one with -q.")
    return _run(cfg, "answers", answers, on_event)


def caption(cfg: CaptionConfig, on_event: OnEvent = lambda _: None) -> Asked:
    """Describe every slide, or the case; writes captions.csv and captions.json.

    Raises:
        UsageError: slides make no sense; nothing was written.
        EnvironmentProblem: the model cannot be loaded, or the folder not be written.
    """

    def captions(asked: AskedAssistant, view: CaseView, name: str) -> list[dict[str, Any]]:
        model = asked.checkpoint.model
        turns = [Turn("user", model.cfg.caption_prompt)]
        row = {"caption": asked.answer(view.shown, turns, name)}
        if cfg.case.blind:
            row["caption_blind"] = asked.answer(model.nothing(), turns, name)
        return [row]

    return _run(cfg, "captions", captions, on_event)


def _run(cfg: AskConfig | CaptionConfig, what: str, answer: Answer, on_event: OnEvent) -> Asked:
    """Ask all slides and write what they say."""
    asked, found = _begin(cfg, on_event)
    for note in found.notes:
        on_event(Event("note", text=note))
    together = (cfg.questions if isinstance(cfg, AskConfig) else cfg.case).together
    if together and found.failed:
        row = found.failed[0]
        raise SlideError(
            f"a slide of the case cannot be used: {row.reason}",
            slide=row.slide, stage=row.stage or None, hint=row.remedy or None,
        )  # fmt: skip
    rows: list[dict[str, Any]] = []

    def one(slide: EmbeddedSlide) -> str:
        slides = found.slides if together else (slide,)
        name = case_name(part.store for part in slides)
        view = asked.view(slides)
        given = answer(asked, view, name)
        rows.append(
            {
                "slide": name,
                "stores": [str(part.store) for part in slides],
                "patches": view.patches,
                "embeddings": len(view.shown),
                "features_keys": list(view.keys),
                what: given,
            }
        )
        said = next(iter(str(v) for k, v in given[-1].items() if k in ("answer", "caption")), "")
        return said if len(said) <= 60 else f"{said[:59]}…"

    visited = found.slides[:1] if together else found.slides
    outcomes = (*found.failed, *visit(visited, one, on_event))
    report = {
        **asked.provenance(), "task": "ask" if what == "answers" else "caption",
        "slides": rows, "failed": failures(outcomes),
    }  # fmt: skip
    files: dict[str, str] = {}
    if (out := cfg.result.output) is not None:
        table = [
            {"slide": row["slide"], **{k: v for k, v in one.items() if isinstance(v, str)}}
            for row in rows
            for one in row[what]
        ]
        columns = list(dict.fromkeys(name for row in table for name in row)) or ["slide"]
        paths = {"table": out / f"{what}.csv", "json": out / f"{what}.json"}
        write_whole(paths["table"], csv_text(columns, table).encode("utf-8", "backslashreplace"))
        write_json(paths["json"], report)
        files = {name: str(path) for name, path in paths.items()}
    return Asked(report, outcomes, files)


def _begin(cfg: AskConfig | CaptionConfig, on_event: OnEvent) -> tuple[AskedAssistant, Gathered]:
    """The assistant, and stores of the slides."""
    out = cfg.result.output
    if out is None and not all(_is_stores(text) for text in cfg.inputs.slides):
        raise ConfigError(
            "slides that are not stores are embedded first, and there is no folder for that.",
            hint="Give --output.",
        )
    if out is not None:
        check_writable(out)
    asked = load_asked(cfg.model, cfg.answers)
    found = gather_embedded(
        cfg.inputs, cfg.slide, out or Path(), asked.checkpoint.features,
        device=cfg.model.device, weights=cfg.model.weights, on_event=on_event,
    )  # fmt: skip
    return asked, found


def _is_stores(text: str) -> bool:
    path = Path(text).expanduser()
    return path.name.endswith(".zarr") or (path.is_dir() and any(path.glob("*.zarr")))
