"""How good something is, in numbers: masks, rankings, classes, texts, answers, heat maps, claims.

With intervals by resampling. `judges` are plug-ins.
"""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "CachedJudge": "judge",
        "Captions": "captions",
        "Choice": "vqa",
        "ClaimReport": "claims",
        "ClaimScore": "judge",
        "Grounding": "grounding",
        "Interval": "bootstrap",
        "Item": "claims",
        "Judge": "judge",
        "Likelihood": "vqa",
        "MaskScores": "tissue",
        "Overlap": "tissue",
        "Retrieval": "retrieval",
        "Unscored": "judge",
        "Vqa": "vqa",
        "ZeroShot": "zero_shot",
        "as_lines": "report",
        "assemble": "report",
        "auroc": "ranking",
        "average_precision": "ranking",
        "bootstrap_interval": "bootstrap",
        "cells_inside": "grounding",
        "choose_by_likelihood": "vqa",
        "compare_answers": "vqa",
        "compare_captions": "captions",
        "compare_masks": "tissue",
        "data_sha256": "report",
        "exact_match": "vqa",
        "grounding_chances": "grounding",
        "grounding_statistics": "grounding",
        "judge_items": "claims",
        "mean_of": "bootstrap",
        "of_rows": "bootstrap",
        "of_sums": "bootstrap",
        "overlap_of": "tissue",
        "parse_choice": "vqa",
        "resample_mask": "tissue",
        "retrieve": "retrieval",
        "score_classes": "zero_shot",
        "score_heat_map": "grounding",
        "retrieve_by_class": "retrieval",
    },
)
