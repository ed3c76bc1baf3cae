"""Slide encoders, one file each; the file name is the encoder's name. `registry` lists and loads.

A slide encoder is a module with two names:

`Config(Settings)`
    Its own options, as recipes give them.
`create(cfg: Config, input_dim: int) -> nn.Module`
    Makes one for features of that width. Its `forward(bags: PackedBags) -> SlideOut` is checked by
    `wsiprep.testing.slide_encoder`; it has the attributes `input_dim` and `dim`, the width of the
    vectors and tokens it makes.

A package outside wsiprep adds one under the entry-point group `wsiprep.slide_encoders`.
"""

from wsiprep.core.registry import Registry

__all__ = ["registry"]

registry = Registry("slide encoder", __name__, "wsiprep.slide_encoders")
