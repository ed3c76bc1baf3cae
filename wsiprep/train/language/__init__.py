"""Training of slide-language models: what it reads, in one format.

manifest.py     samples: slides and what is said of them, one JSON object a line
splits.py       training, validation and test by patient, and what two sets share
stores.py       from the slides a sample names to stores in a folder
left_out.py     samples of which nothing can be shown: refused, or left out by name
fingerprint.py  what features were made with, compared field by field
bags.py         from stores to bags of patches
"""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "CaseBag": "bags",
        "Fingerprint": "fingerprint",
        "Sample": "manifest",
        "StoreFolder": "stores",
        "Turn": "manifest",
        "read_case": "bags",
        "read_manifest": "manifest",
        "write_manifest": "manifest",
    },
)
