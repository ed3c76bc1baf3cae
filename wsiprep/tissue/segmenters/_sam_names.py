"""Names of SAM's weights in the transformers library, turned into those of segment-anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

__all__ = ["is_transformers_sam", "original_names"]

T = TypeVar("T")

_SHARED = "shared_image_embedding.positional_embedding"
_RULES: tuple[tuple[str, str], ...] = (
    # image encoder
    (r"^vision_encoder\.", "image_encoder."),
    (r"^image_encoder\.layers\.", "image_encoder.blocks."),
    (r"\.layer_norm([1-4])\.", r".norm\1."),
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"neck\.conv1\.", "neck.0."),
    (r"neck\.norm1\.", "neck.1."),
    (r"neck\.conv2\.", "neck.2."),
    (r"neck\.norm2\.", "neck.3."),
    # prompt encoder
    (r"prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (
        r"prompt_encoder\.shared_embedding\.positional_embedding$",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"mask_embed\.conv1\.", "mask_downscaling.0."),
    (r"mask_embed\.norm1\.", "mask_downscaling.1."),
    (r"mask_embed\.conv2\.", "mask_downscaling.3."),
    (r"mask_embed\.norm2\.", "mask_downscaling.4."),
    (r"mask_embed\.conv3\.", "mask_downscaling.6."),
    # mask decoder
    (r"mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"transformer\.layer_norm_final_attn\.", "transformer.norm_final_attn."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.layers\.0\.", r"\1.layers.1."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.proj_in\.", r"\1.layers.0."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.proj_out\.", r"\1.layers.2."),
)


def is_transformers_sam(state: Mapping[str, object]) -> bool:
    """Whether weights are named as by the transformers library."""
    return any(name.startswith("vision_encoder.") for name in state)


def original_names(state: Mapping[str, T]) -> dict[str, T]:
    """The same weights with the names that segment-anything gives them.

    Args:
        state: Weights of a transformers `SamModel`.
    """
    renamed: dict[str, T] = {}
    for name, value in state.items():
        if name == _SHARED:  # the same array as the prompt encoder's
            name = "prompt_encoder.shared_embedding.positional_embedding"
        for pattern, new in _RULES:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    return renamed
