"""Objectives: what slides and texts are trained on, as functions and small modules.

Over several processes every objective gives *a share*: its own rows against the columns of all,
times the number of processes, over the rows of all. The mean of the shares is the loss of the
whole batch, and the mean of the gradients, as DDP takes it, is the gradient of that loss, also
where processes have batches of different sizes.
"""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "Combined": "combination",
        "InfoNCE": "infonce_loss",
        "LogScale": "scale",
        "MatchingHead": "matching",
        "RegionOut": "region_sigmoid",
        "RegionPool": "region_pool",
        "RegionSigmoid": "region_sigmoid",
        "SigLIP": "siglip_loss",
        "SoftTopK": "top_k",
        "TopK": "top_k",
        "caption_labels": "caption",
        "caption_loss": "caption",
        "caption_loss_of_hidden": "caption",
        "caption_nats": "caption",
        "combine": "combination",
        "false_negatives": "alike",
        "gather_rows": "gather",
        "hard_negatives": "matching",
        "infonce": "infonce_loss",
        "matching_loss": "matching",
        "mean_of_nats": "caption",
        "pairs_of": "matching",
        "siglip": "siglip_loss",
        "soft_top_k": "top_k",
        "straight_through_top_k": "top_k",
        "text_keys": "alike",
    },
)
