"""Judge that is a causal language model of the transformers library, on this machine.

The model is a folder, a name on the Hugging Face hub, or a GGUF file in either. Replies are
greedy, so that the same model on the same machine judges alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from wsiprep.core.config import Settings, digest
from wsiprep.core.errors import PluginUnavailableError, WeightsError
from wsiprep.metrics.judge import Judge, Unscored
from wsiprep.metrics.judges._chat import ChatJudge, Message

__all__ = ["Config", "LocalModel", "create"]

BLOCK = 1 << 22
READ = frozenset({".json", ".safetensors", ".bin", ".gguf", ".model", ".jinja", ".txt"})
"""Files of a folder that make a model what it is."""


class Config(Settings):
    """Options of the judge `hf`."""

    model: str = Field(min_length=1)
    """Folder of a model, or its name on the hub."""
    gguf: str | None = None
    """Name of a GGUF file in it."""
    revision: str | None = None
    """Revision on the hub: a commit, branch or tag."""
    device: str = "cpu"
    """Device, as torch names it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""
    max_tokens: int = Field(default=1024, ge=16)
    """Longest reply."""
    again: int = Field(default=1, ge=0, le=5)
    """How often a reply that cannot be read is asked for again."""


def create(cfg: Config) -> Judge:
    """Load the model and make the judge.

    Raises:
        PluginUnavailableError: transformers is not installed.
        WeightsError: there is no such model, or it does not load.
    """
    local = LocalModel(cfg)
    how = [local.fingerprint, cfg.gguf, cfg.dtype, cfg.max_tokens, cfg.again]
    name = Path(cfg.model).name if Path(cfg.model).is_dir() else cfg.model
    return ChatJudge(f"hf:{name}:{digest(how)[:12]}", local.ask, cfg.again)


class LocalModel:
    """A model and its tokenizer.

    Args:
        cfg: Which.

    Attributes:
        fingerprint: sha256 over the files of a folder; of a model of the hub its commit.
    """

    def __init__(self, cfg: Config) -> None:
        try:
            import transformers
        except ImportError as err:
            raise PluginUnavailableError(
                f"the judge 'hf' does not import: {err}.", hint="pip install 'wsiprep[language]'"
            ) from err
        import torch

        self.cfg = cfg
        named: dict[str, Any] = {"revision": cfg.revision}
        if cfg.gguf is not None:
            named["gguf_file"] = cfg.gguf
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(cfg.model, **named)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                cfg.model, dtype=getattr(torch, cfg.dtype), **named
            )
            self._model = model.to(cfg.device).eval()
        except (OSError, ValueError, RuntimeError, ImportError, KeyError) as err:
            raise WeightsError(
                f"the judge's model {cfg.model} does not load: {str(err).splitlines()[0]}",
                stage="judge",
                hint="Give a folder or hub name of a causal language model with its tokenizer.",
            ) from err
        if Path(cfg.model).is_dir():
            self.fingerprint = folder_sha256(Path(cfg.model))
        else:
            commit = getattr(self._model.config, "_commit_hash", None)
            self.fingerprint = f"{cfg.model}@{commit or cfg.revision}"

    def ask(self, messages: Sequence[Message]) -> str | Unscored:
        """One reply, greedy; or why there is none: the conversation is too long, or it was cut."""
        import torch

        encoded = self._encode(messages).to(self.cfg.device)
        size = int(encoded.shape[1])
        room = getattr(self._model.config, "max_position_embeddings", None)
        if isinstance(room, int) and size + self.cfg.max_tokens > room:
            return Unscored(f"the text is too long for the judge: {size} of {room} tokens")
        with torch.inference_mode():
            out = self._model.generate(
                encoded,
                attention_mask=torch.ones_like(encoded),
                max_new_tokens=self.cfg.max_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self._padding(),
            )
        said = out[0, size:]
        if len(said) >= self.cfg.max_tokens:
            return Unscored("the reply was cut at max_tokens")
        return str(self._tokenizer.decode(said, skip_special_tokens=True))

    def _encode(self, messages: Sequence[Message]) -> Any:
        """int64 (1, tokens): by the model's own template, plainly where it has none."""
        if getattr(self._tokenizer, "chat_template", None):
            text = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
            return self._tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        lines = [f"{one['role'].capitalize()}: {one['content']}" for one in messages]
        text = "\n\n".join([*lines, "Assistant:"])
        return self._tokenizer(text, return_tensors="pt").input_ids

    def _padding(self) -> int:
        known = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0)
        return int(next(number for number in known if number is not None))


@lru_cache(maxsize=4)
def folder_sha256(folder: Path) -> str:
    """sha256 over names and contents of the files of a model."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in READ and path.is_file():
            one = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    one.update(block)
            whole.update(f"{path.name}\0{one.hexdigest()}\n".encode())
    return whole.hexdigest()
