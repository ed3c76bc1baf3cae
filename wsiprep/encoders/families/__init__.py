"""Encoder families, one file each; `registry` lists and loads them.

A family is a module with two names, and imports torch only inside functions:

`SPECS: tuple[EncoderSpec, ...]`
    The models it knows, as facts; the family may have others.
`create(model: str | None, cfg: EncoderConfig, device: torch.device) -> Encoder`
    Builds one, loads its weights and puts it on the device.

A package outside wsiprep adds a family under the entry-point group `wsiprep.encoders`.
"""

from wsiprep.core.registry import Registry

__all__ = ["registry"]

registry = Registry("encoder", __name__, "wsiprep.encoders")
