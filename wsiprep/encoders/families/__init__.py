"""Encoder families, one file each; `names()` lists them and `load(name)` imports one.

A family is a module with two names, and imports torch only inside functions:

`SPECS: tuple[EncoderSpec, ...]`
    The models it knows, as facts; the family may have others.
`create(model: str | None, cfg: EncoderConfig, device: torch.device) -> Encoder`
    Builds one, loads its weights and puts it on the device.

A package outside wsiprep adds a family under the entry-point group `wsiprep.encoders`.
"""

from wsiprep.core.registry import Registry

__all__ = ["load", "names", "registry"]

# The folder is its own registry: a separate object of the same name in the package above would
# be hidden as soon as Python imports this folder and sets it there.
registry = Registry("encoder", __name__, "wsiprep.encoders")
names = registry.names
load = registry.load
