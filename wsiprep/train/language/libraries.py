"""Optional libraries that a training needs, asked for before a store is opened.

An aligned model may take a day, and the assistant that starts from it needs more libraries. What is
missing is told at once, not after samples, stores and checkpoints were read.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from wsiprep.core.errors import PluginUnavailableError
from wsiprep.models.aligned import AlignedConfig
from wsiprep.models.assistant_parts import AssistantParts
from wsiprep.models.language.hf import HfConfig
from wsiprep.models.text.hf import HFTextConfig

__all__ = ["check_align_libraries", "check_assistant_libraries"]


def check_align_libraries(cfg: AlignedConfig) -> None:
    """See that the text side of an aligned model can be made.

    Raises:
        PluginUnavailableError: a library that it needs does not import.
    """
    side = cfg.texts
    needed = ["transformers"] if side.encoder == "hf" or side.bert is not None else []
    if side.encoder == "hf" and _tuning(side.options, HFTextConfig) == "lora":
        needed.append("peft")
    _check(needed, "the text encoder of this recipe")


def check_assistant_libraries(parts: AssistantParts) -> None:
    """See that the language model of an assistant can be made.

    Raises:
        PluginUnavailableError: a library that it needs does not import.
    """
    side = parts.language
    if side.kind != "hf":
        return
    needed, options = ["transformers"], side.options
    if str(options.get("llm", "")).lower().endswith(".gguf") or options.get("gguf_file"):
        needed += ["gguf", "accelerate"]
    if _tuning(options, HfConfig) == "lora":
        needed.append("peft")
    _check(needed, f"the language model {options.get('llm', '')}".rstrip())


def _tuning(options: Mapping[str, Any], kind: type[HfConfig | HFTextConfig]) -> Any:
    return options.get("tuning", kind.model_fields["tuning"].default)


def _check(names: Iterable[str], what: str) -> None:
    missing, first = [], None
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as err:
            missing.append(name)
            first = first or err
    if first is not None:
        raise PluginUnavailableError(
            f"{what} needs {' and '.join(missing)}: {first}.",
            stage="models",
            hint="pip install 'wsiprep[language]', or '.[language]' in a copy of the source; "
            "`wsiprep doctor` lists what is there.",
        ) from first
