"""Text encoders of Hugging Face transformers, from the hub or a folder.

Encoders such as BERT are taken as they are; of encoder-decoder models the encoder, of models of
pictures and texts the text part. Tuned are nothing, LoRA updates (Hu et al., ICLR 2022) of all
linear layers but the pooler's, or everything but the pooler. For BERT these layers are the query,
key, value, attention.output.dense, intermediate.dense and output.dense of PathFLIP's second
version. Pooling is over tokens only, never over padding, and belongs to the fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError, PluginUnavailableError, WeightsError
from wsiprep.models.text.encoder import Pooling, TextOut, pool_tokens

__all__ = ["HFTextConfig", "HFTextEncoder", "load_pretrained"]

_EXTRA = "pip install 'wsiprep[language]'."


class HFTextConfig(Settings):
    """Which encoder of transformers, and what of it is tuned."""

    model: str = Field(min_length=1)
    """Folder, or `owner/name` or `owner/name@revision` on the hub."""
    tuning: Literal["frozen", "lora", "full"] = "lora"
    """frozen: nothing; lora: low-rank updates of the linear layers; full: all weights."""
    pooling: Pooling = "mean"
    """mean over the tokens, or cls: the first one."""
    max_tokens: int = Field(default=384, ge=3)
    """Most tokens of a text, special ones included; what is longer loses its end."""
    lora_rank: int = Field(default=16, ge=1)
    """Rank of the updates, for lora."""
    lora_alpha: float = Field(default=64.0, gt=0)
    """Updates are scaled by lora_alpha / lora_rank."""
    lora_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout before the updates."""
    lora_targets: tuple[str, ...] = ()
    """Ends of the names of linear layers to be updated; all but the pooler's without it."""

    @model_validator(mode="after")
    def _targets_of_lora(self) -> HFTextConfig:
        if self.lora_targets and self.tuning != "lora":
            raise ValueError("lora_targets go with tuning: lora")
        return self


class HFTextEncoder(nn.Module):
    """Texts to vectors; a `TextEncoder`.

    A frozen encoder stays in eval mode and takes no gradient, whatever `train()` says.

    Args:
        cfg: Which, and what is tuned.
        seed: Of the first weights of LoRA; the default generator of torch is left as it was.

    Raises:
        PluginUnavailableError: transformers, or peft for LoRA, is not installed.
        WeightsError: the model cannot be fetched or read, or is no text encoder.
        ConfigError: cls pooling of a model whose texts begin with no such token, a text longer
            than its positions, or targets that it has not.
    """

    def __init__(self, cfg: HFTextConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        self.tokenizer, network, source = load_pretrained(cfg.model)
        self.model = _text_part(network, cfg.model)
        self.dim = int(self.model.config.hidden_size)
        self._check_fits()
        self._base = {
            "class": type(self.model).__name__,
            "revision": source,
            "weights_sha256": _weights_sha256(self.model),
            "tokenizer_sha256": _tokenizer_sha256(self.tokenizer),
        }
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(cfg.tuning == "full" and not _of_pooler(name))
        if cfg.tuning == "lora":
            self._add_lora(seed)
        self.train()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Which encoder it is: the content of model and tokenizer, pooling and tuning.

        The name of the model is told, but a folder's by its last part only, so that moving it
        changes nothing; the weights are those before any tuning.
        """
        cfg = self.cfg
        is_folder = Path(cfg.model).expanduser().is_dir()
        tuned = {"tuning": cfg.tuning}
        if cfg.tuning == "lora":
            tuned |= cfg.model_dump(
                mode="json",
                include={"lora_rank", "lora_alpha", "lora_targets"},
            )
        return {
            "kind": "hf",
            "model": Path(cfg.model).expanduser().resolve().name if is_folder else cfg.model,
            "dim": self.dim,
            "pooling": cfg.pooling,
            "max_tokens": cfg.max_tokens,
            **tuned,
            **self._base,
        }

    def train(self, mode: bool = True) -> HFTextEncoder:
        """Training or eval mode; a frozen encoder is always in eval mode."""
        super().train(mode and self.cfg.tuning != "frozen")
        return self

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts, float (B, d)."""
        return self.encode_tokens(texts).text

    def encode_tokens(self, texts: Sequence[str]) -> TextOut:
        """Vectors of texts and of their tokens."""
        if not texts:
            raise ValueError("there is no text to encode")
        batch = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.cfg.max_tokens,
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        if not bool(mask.any(dim=1).all()):
            raise ConfigError(
                f"{self.cfg.model} makes no token of an empty text.",
                stage="text",
                hint="Leave empty captions out.",
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.cfg.tuning != "frozen"):
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            return pool_tokens(hidden, mask.bool(), self.cfg.pooling)

    def forward(self, texts: Sequence[str]) -> TextOut:
        """As `encode_tokens`; what a wrapper such as DDP calls."""
        return self.encode_tokens(texts)

    def _check_fits(self) -> None:
        tokenizer, cfg = self.tokenizer, self.cfg
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        if tokenizer.pad_token is None:
            # Padding is masked everywhere, so which token stands there does not matter.
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if cfg.pooling == "cls":
            first = tokenizer("text")["input_ids"][0]
            if first not in (tokenizer.cls_token_id, tokenizer.bos_token_id):
                raise ConfigError(
                    f"texts of {cfg.model} do not begin with a token for the whole text.",
                    stage="text",
                    hint="Take pooling: mean.",
                )
        room = _positions(self.model)
        if room is not None and cfg.max_tokens > room:
            raise ConfigError(
                f"{cfg.model} has {room} positions, fewer than max_tokens {cfg.max_tokens}.",
                stage="text",
                hint=f"Take max_tokens: {room}.",
            )

    def _add_lora(self, seed: int) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as err:
            raise PluginUnavailableError(
                f"LoRA needs the peft package: {err}.",
                stage="text",
                hint=f"{_EXTRA} Or take tuning: frozen.",
            ) from err
        cfg = self.cfg
        linear = [n for n, m in self.model.named_modules() if isinstance(m, nn.Linear)]
        if cfg.lora_targets:
            ends = tuple(f".{target}" for target in cfg.lora_targets)
            targets = [name for name in linear if f".{name}".endswith(ends)]
        else:
            targets = [name for name in linear if not _of_pooler(name)]
        if not targets:
            raise ConfigError(
                f"{cfg.model} has no linear layer called {', '.join(cfg.lora_targets) or 'so'}.",
                stage="text",
                hint=f"It has {', '.join(sorted({n.rpartition('.')[2] for n in linear}))}.",
            )
        lora = LoraConfig(
            r=cfg.lora_rank,
            lora_alpha=cfg.lora_alpha,  # type: ignore[arg-type, unused-ignore]  # floats do
            target_modules=targets,
            lora_dropout=cfg.lora_dropout,
            bias="none",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(lora, self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(".lora_" in name)


def load_pretrained(model: str) -> tuple[Any, Any, str | None]:
    """Tokenizer, network in float32, and the revision on the hub (None of a folder).

    Args:
        model: Folder, or `owner/name` or `owner/name@revision` on the hub.

    Raises:
        PluginUnavailableError: transformers are not installed.
        WeightsError: it cannot be fetched or read.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as err:
        raise PluginUnavailableError(
            f"text encoder {model} needs the transformers package: {err}.",
            stage="text",
            hint=f"{_EXTRA} Or take the text encoder transformer, which needs nothing.",
        ) from err
    folder = Path(model).expanduser()
    name, _, revision = (str(folder), "", "") if folder.is_dir() else model.partition("@")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or "main")
        network = AutoModel.from_pretrained(name, revision=revision or "main")
    except (OSError, ValueError, KeyError, ImportError) as err:
        raise WeightsError(
            f"text encoder {model} cannot be loaded: {err}.",
            stage="text",
            hint="Give a folder with config, tokenizer and weights, or owner/name on the hub.",
        ) from err
    commit = getattr(network.config, "_commit_hash", None)
    return tokenizer, network.float(), None if folder.is_dir() else commit


def _text_part(network: Any, model: str) -> Any:
    """The part of a network that reads texts."""
    if getattr(network.config, "is_encoder_decoder", False):
        network = network.get_encoder()
    elif hasattr(network, "text_model"):
        network = network.text_model
    if not hasattr(network.config, "hidden_size"):
        raise WeightsError(
            f"{model} is a {type(network).__name__}, not an encoder of texts.",
            stage="text",
            hint="Take an encoder such as BERT.",
        )
    return network


def _positions(model: Any) -> int | None:
    """Most tokens that a model with a table of positions reads."""
    size = getattr(model.config, "max_position_embeddings", None)
    if size is None or size <= 0:
        return None
    # RoBERTa and its kind count positions from the padding id on, which costs some of the table.
    embeddings: Any = getattr(model, "embeddings", None)
    if getattr(embeddings, "padding_idx", None) is not None:
        return int(size) - int(embeddings.padding_idx) - 1
    return int(size)


def _of_pooler(name: str) -> bool:
    """Whether a parameter or layer is of the pooler, whose output is not used."""
    return "pooler" in name.split(".")


def _weights_sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _tokenizer_sha256(tokenizer: Any) -> str:
    lines = sorted(f"{number} {word}" for word, number in tokenizer.get_vocab().items())
    special = sorted(f"{k} {v}" for k, v in tokenizer.special_tokens_map.items())
    return hashlib.sha256("\n".join([*lines, *special]).encode()).hexdigest()
