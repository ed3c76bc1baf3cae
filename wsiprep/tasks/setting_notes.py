"""What a user should know of the settings of a run's slides, before the first one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wsiprep.tasks.config import AnyConfig, Stages, stages
from wsiprep.tasks.inputs import Inputs
from wsiprep.tissue.config import TissueConfig, as_flags
from wsiprep.tissue.presets import PATCH_PRESETS

__all__ = ["few", "option_notes", "preset_notes", "setting_notes"]

FEW = 5
"""Slides that a note names."""


def setting_notes(cfg: AnyConfig, inputs: Inputs, configs: Sequence[AnyConfig]) -> list[str]:
    """Sentences for the user, each once: presets, and settings that are not for all slides.

    Args:
        cfg: Settings of the command.
        inputs: Its slides.
        configs: The settings of each, as `own_settings` makes them.
    """
    notes, given = preset_notes(configs), stages(cfg).tissue
    if given is None:
        return notes
    own = [
        (r.id, t) for r, c in zip(inputs.slides, configs, strict=True) if (t := stages(c).tissue)
    ]
    return [*notes, *option_notes(given, own), *_mask_notes(own)]


def preset_notes(configs: Sequence[AnyConfig]) -> list[str]:
    """What the presets of a run's slides gave, each sentence once."""
    notes = [note for cfg in configs for note in _preset_note(stages(cfg))]
    return list(dict.fromkeys(notes))


def _preset_note(stage: Stages) -> list[str]:
    if stage.tissue is None or stage.tissue.preset is None:
        return []
    notes = [stage.tissue.preset_note() or ""]
    beside = PATCH_PRESETS.get(stage.tissue.preset, {})
    if stage.patches is None:
        later = as_flags(beside)
        return [*notes, f"For its patches give `wsiprep coords` {later}."] if later else notes
    taken = {k: v for k, v in beside.items() if k not in stage.patches.model_fields_set}
    return [*notes, f"For its patches: {as_flags(taken)}."] if taken else notes


def option_notes(given: TissueConfig, slides: Iterable[tuple[str, TissueConfig]]) -> list[str]:
    """Which slides have another segmenter than the one that the options were given for.

    Args:
        given: Settings of the command.
        slides: Each slide's id and its own settings.
    """
    if "segmenter_option" not in given.model_fields_set:
        return []
    others: dict[str, list[str]] = {}
    for name, own in slides:
        if "segmenter_option" not in own.model_fields_set:
            others.setdefault(own.segmenter, []).append(name)
    options = as_flags({"segmenter_option": given.segmenter_option})
    return [
        f"{options} is for '{given.segmenter}'; slides with '{name}' do not take it: {few(named)}."
        for name, named in others.items()
    ]


def _mask_notes(slides: Iterable[tuple[str, TissueConfig]]) -> list[str]:
    """Which settings were given though the tissue of a slide is given, too."""
    idle: dict[str, list[str]] = {}
    for name, own in slides:
        if settings := as_flags(
            {k: "none" if v == () else v for k, v in own.not_with_mask().items()}
        ):
            idle.setdefault(settings, []).append(name)
    return [
        f"{settings}: not for a mask of your own, which is taken as it is ({few(named)})."
        for settings, named in idle.items()
    ]


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
