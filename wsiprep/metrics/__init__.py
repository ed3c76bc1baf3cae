"""How good something is, in numbers: masks against masks, intervals by resampling."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "Interval": "bootstrap",
        "MaskScores": "tissue",
        "Overlap": "tissue",
        "bootstrap_interval": "bootstrap",
        "compare_masks": "tissue",
        "mean_of": "bootstrap",
        "of_rows": "bootstrap",
        "of_sums": "bootstrap",
        "overlap_of": "tissue",
        "resample_mask": "tissue",
    },
)
