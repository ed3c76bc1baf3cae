"""Training of tissue segmenters: `train_tissue` is the door."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "TissueTraining": "config",
        "Trained": "loop",
        "train_tissue": "loop",
    },
)
