"""JPEG decoders that leave their pixels on a GPU.

None of them is libjpeg: inverse DCT and upsampling of chroma differ, and with them pixels by some
levels. A decoder therefore has a name, which enters the key of features, and none stands in for
another. A second one is a class here and a word in `EncoderConfig.decode`.

Source: nvImageCodec's Python API (0.9) and its codec options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wsiprep.core.errors import DeviceError, PluginUnavailableError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["JpegDecoder", "NvImageCodec", "load_decoder", "proven"]


class JpegDecoder(Protocol):
    """Decodes stand-alone JPEGs to tensors on a device. Used by one thread."""

    name: str
    device: torch.device

    def decode(self, jpegs: Sequence[bytes]) -> list[Tensor | None]:
        """Decode JPEGs together.

        Work is queued on torch's current stream of the device.

        Args:
            jpegs: At least one.

        Returns:
            For each, uint8 (h, w, 3) RGB on the device; None where it could not be decoded.
        """
        ...


def load_decoder(name: str, device: str, threads: int) -> JpegDecoder:
    """The decoder of that name, proven to decode.

    Args:
        name: `nvimgcodec`.
        device: Where the encoder computes, e.g. `cuda:0`.
        threads: Threads of the CPU that may help.

    Raises:
        DeviceError: `device` is no CUDA device.
        PluginUnavailableError: the library, or a part of it, is not there.
    """
    import torch

    if torch.device(device).type != "cuda":
        raise DeviceError(
            f"--decode {name} decodes on a CUDA device, and the encoder computes on '{device}'.",
            stage="tiles",
            hint="Pass --device cuda where there is a GPU, or --decode cpu.",
        )
    kinds = {NvImageCodec.name: NvImageCodec}
    return proven(kinds[name](torch.device(device), threads))


def proven(decoder: JpegDecoder) -> JpegDecoder:
    """The decoder, if it decodes a small JPEG.

    Libraries import without the parts that they load when first used; all tiles would be "failed".

    Raises:
        PluginUnavailableError: it does not.
    """
    import simplejpeg

    probe = simplejpeg.encode_jpeg(np.full((64, 64, 3), 128, np.uint8))
    try:
        works = decoder.decode([probe])[0] is not None
    except RuntimeError as err:
        raise _unavailable(decoder.name, str(err).partition("\n")[0]) from err
    if not works:
        raise _unavailable(decoder.name, "it does not decode JPEG on this device")
    return decoder


class NvImageCodec:
    """nvImageCodec. Chroma is upsampled smoothly, as libjpeg does.

    Only its CUDA decoder is used. With the GPU's JPEG engine beside it, it would depend on the
    batch which of them decodes a tile; with its CPU decoder, failures would not be seen.

    Args:
        device: A CUDA device.
        threads: Threads of the CPU that may help.
    """

    name = "nvimgcodec"

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device = device
        try:
            import nvidia.nvimgcodec as codec
        except ImportError as err:
            raise _unavailable(self.name, str(err)) from err
        self._codec: Any = codec
        kinds = (codec.BackendKind.GPU_ONLY, codec.BackendKind.HYBRID_CPU_GPU)
        try:
            self._decoder = codec.Decoder(
                device_id=device.index or 0,
                max_num_cpu_threads=threads,
                backends=[codec.Backend(kind) for kind in kinds],
                options=":fancy_upsampling=1",
            )
        except RuntimeError as err:
            raise _unavailable(self.name, str(err)) from err
        self._params = codec.DecodeParams(
            apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB, allow_any_depth=False
        )

    def decode(self, jpegs: Sequence[bytes]) -> list[Tensor | None]:
        """See `JpegDecoder.decode`."""
        import torch

        streams = [self._codec.CodeStream(jpeg) for jpeg in jpegs]
        images = self._decoder.decode(
            streams,
            params=self._params,
            cuda_stream=torch.cuda.current_stream(self.device).cuda_stream,
        )
        if len(images) != len(jpegs):  # early versions left failures out: whose are they?
            return [None] * len(jpegs)
        from_dlpack: Any = torch.utils.dlpack.from_dlpack
        return [None if image is None else from_dlpack(image) for image in images]


def _unavailable(name: str, why: str) -> PluginUnavailableError:
    return PluginUnavailableError(
        f"--decode {name} is not available here: {why}.",
        stage="tiles",
        hint="Install it with pip install 'wsiprep[gpu]' (CUDA 13) or 'wsiprep[gpu-cu12]', "
        "or pass --decode cpu.",
    )
