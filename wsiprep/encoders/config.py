"""Settings of encoding."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from wsiprep.core.config import Settings
from wsiprep.core.errors import ConfigError

__all__ = ["EncoderConfig"]


class EncoderConfig(Settings):
    """Which encoder, with which weights and numbers."""

    panel: ClassVar[str] = "Encoder"

    encoder: tuple[str, ...] = Field(default=("lite0",), min_length=1)
    """Encoder, as family or family:model; may be repeated. `wsiprep models` lists them."""
    weights: Path | None = None
    """Local weights file (.safetensors, or .pt/.pth/.bin read with weights_only) for the one
    encoder named."""
    random_weights: bool = False
    """Seeded random weights, for measuring speed; the features mean nothing and say so."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Numbers the network computes in; auto takes what the encoder was published with on a GPU,
    and fp32 on a CPU."""
    store_dtype: Literal["float16", "float32"] = "float16"
    """Numbers that features are stored as."""
    decode: Literal["cpu", "scaled", "nvimgcodec"] = "cpu"
    """How JPEG tiles are decoded. cpu: exactly. scaled: by the CPU, shrunk inside the decoder where
    patches are shrunk by 2, 4 or 8; 1.3 to 2 times as fast, pixels of tissue off by less than 1 of
    255 levels on average and by 45 at worst, of thin dark lines by more. nvimgcodec: by the CUDA
    device that encodes; its pixels differ slightly, how much and how fast has not been measured."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # ConfigError passes through pydantic as it is, with its hint.
        if len(set(self.encoder)) < len(self.encoder):
            raise ConfigError(
                f"--encoder names an encoder twice: {', '.join(self.encoder)}.",
                stage="encoder",
                hint="Name each encoder once.",
            )
        if self.weights is not None and len(self.encoder) > 1:
            raise ConfigError(
                f"--weights is one file, but {len(self.encoder)} encoders are named: "
                f"{', '.join(self.encoder)}.",
                stage="encoder",
                hint="Name one --encoder together with --weights, and run once for each.",
            )
        if self.weights is not None and self.random_weights:
            raise ConfigError(
                "--weights and --random-weights exclude each other.",
                stage="encoder",
                hint="Leave one of them out.",
            )
        return self
