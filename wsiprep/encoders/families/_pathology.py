"""Pathology networks on the hub that timm builds: facts as data, nothing imported.

Each row is what its model card and hub configuration state. Left out are networks whose vector
differs between published uses (H0-mini: 768 or 1536 numbers), whose normalisation is known only
from files on the hub (Lunit), or that timm does not build (CONCH, Phikon, Hibou, Midnight). Other
hub repositories in timm's format work by name, with the facts of their own configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from wsiprep.core.types import EncoderSpec

__all__ = ["HUB_MODELS", "HubModel"]

Triple = tuple[float, float, float]

_IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_BIOPTIMUS: tuple[Triple, Triple] = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_KAIKO = "1aurent/vit_{}_224.kaiko_ai_towards_large_pathology_fms"


@dataclass(frozen=True, slots=True)
class HubModel:
    """How timm builds a network whose weights are on the hub.

    Attributes:
        spec: Facts.
        architecture: timm's name of the network.
        arguments: Arguments of timm's constructor; layer classes by name.
        pooling: `network` takes the network's own output; `class+mean` joins the class token and
            the mean of the patch tokens, without register tokens.
    """

    spec: EncoderSpec
    architecture: str
    arguments: Mapping[str, Any]
    pooling: Literal["network", "class+mean"] = "network"

    @property
    def repo(self) -> str:
        """`owner/name` on the hub."""
        return self.spec.name.removeprefix("timm:hf-hub:")


def _row(
    repo: str,
    architecture: str,
    dim: int,
    normalisation: tuple[Triple, Triple],
    arguments: Mapping[str, Any],
    *,
    mpp: tuple[float, ...] = (0.5,),
    precision: Literal["fp32", "fp16", "bf16"] = "fp16",
    license: str,
    gated: bool = True,
    class_and_mean: bool = False,
    note: str,
) -> HubModel:
    mean, std = normalisation
    spec = EncoderSpec(
        name=f"timm:hf-hub:{repo}",
        dim=dim,
        input_px=224,
        mean=mean,
        std=std,
        mpp=mpp,
        pooling="class token and mean of patch tokens" if class_and_mean else "class token",
        precision=precision,
        license=license,
        source=f"huggingface.co/{repo}" + (" (gated)" if gated else ""),
        note=note,
    )
    args = MappingProxyType({"img_size": 224, "dynamic_img_size": True, **arguments})
    return HubModel(spec, architecture, args, "class+mean" if class_and_mean else "network")


_ROWS = (
    _row(
        "MahmoodLab/UNI",
        "vit_large_patch16_224",
        1024,
        _IMAGENET,
        {"init_values": 1e-5},
        license="CC-BY-NC-ND-4.0",
        note="UNI, ViT-L/16.",
    ),
    _row(
        "MahmoodLab/UNI2-h",
        "vit_giant_patch14_224",
        1536,
        _IMAGENET,
        {
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "init_values": 1e-5,
            "no_embed_class": True,
            "reg_tokens": 8,
            **_SWIGLU,
        },
        precision="bf16",
        license="CC-BY-NC-ND-4.0",
        note="UNI2-h, ViT-H/14.",
    ),
    _row(
        "paige-ai/Virchow",
        "vit_huge_patch14_224",
        2560,
        _IMAGENET,
        {"init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **_SWIGLU},
        license="Apache-2.0",
        class_and_mean=True,
        note="Virchow, ViT-H/14.",
    ),
    _row(
        "paige-ai/Virchow2",
        "vit_huge_patch14_224",
        2560,
        _IMAGENET,
        {"init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, "global_pool": "", **_SWIGLU},
        mpp=(0.25, 0.5, 1.0, 2.0),
        license="CC-BY-NC-ND-4.0",
        class_and_mean=True,
        note="Virchow2, ViT-H/14.",
    ),
    _row(
        "prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        1536,
        _IMAGENET,
        {
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
            "init_values": 1e-5,
        },
        license="Apache-2.0 with conditions",
        note="Prov-GigaPath tile encoder, ViT-g/16; published on the middle 224 px of 256 px "
        "patches, so use --patch-size 224.",
    ),
    _row(
        "bioptimus/H-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        _BIOPTIMUS,
        {"init_values": 1e-5},
        license="Apache-2.0",
        gated=False,
        note="H-optimus-0, ViT-g/14.",
    ),
    _row(
        "bioptimus/H-optimus-1",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        _BIOPTIMUS,
        {"init_values": 1e-5},
        license="CC-BY-NC-ND-4.0",
        note="H-optimus-1, ViT-g/14.",
    ),
    *(
        _row(
            _KAIKO.format(f"{size}_patch{patch}"),
            f"vit_{size}_patch{patch}_224",
            dim,
            _HALF,
            {},
            mpp=(),
            precision="fp32",
            license="unknown",
            gated=False,
            note=f"Kaiko ViT-{size[0].upper()}/{patch}, trained at several magnifications.",
        )
        for size, dim in (("small", 384), ("base", 768))
        for patch in (8, 16)
    ),
)

HUB_MODELS: Mapping[str, HubModel] = MappingProxyType({row.repo.lower(): row for row in _ROWS})
"""Lower-case `owner/name` -> how to build it."""
