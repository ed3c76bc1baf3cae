"""Text encoders, the tokenizer that is trained on captions, and captions cut into findings."""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "HFTextConfig": "hf",
        "HFTextEncoder": "hf",
        "TextEncoder": "encoder",
        "TextOut": "encoder",
        "Tokenizer": "tokenizer",
        "TransformerTextConfig": "transformer",
        "TransformerTextEncoder": "transformer",
        "draw_sub_captions": "captions",
        "split_sentences": "captions",
        "sub_captions": "captions",
        "train_bpe": "tokenizer",
        "train_words": "tokenizer",
    },
)
