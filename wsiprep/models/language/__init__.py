"""Language models that are shown slides: tensors in, tensors out.

A slide encoder's tokens go through a projector (`projector`) into the embedding space of a causal
language model (`tiny`, in-tree; `hf`, any of the transformers library). A conversation becomes
token ids with labels (`conversation`), in which each slide is one id outside the vocabulary; that
id is replaced by the slide's embeddings (`splice`), and the model learns, answers or scores given
options (`answers`, `decoding`).
"""

from wsiprep.core.lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "ChatTokenizer": "interface",
        "Decoding": "decoding_config",
        "Encoded": "conversation",
        "HfConfig": "hf",
        "HfLanguageModel": "hf",
        "IGNORE": "interface",
        "LanguageModel": "interface",
        "LanguageOut": "interface",
        "MarkupTokenizer": "interface",
        "OptionScores": "answers",
        "Projector": "projector",
        "ProjectorConfig": "projector",
        "SLIDE_ID": "interface",
        "SLIDE_MARK": "interface",
        "SplicedBatch": "splice",
        "TinyConfig": "tiny",
        "TinyLanguageModel": "tiny",
        "Tokenizer": "interface",
        "Turn": "conversation",
        "Visual": "projector",
        "answer": "answers",
        "encode_conversation": "conversation",
        "encode_prompt": "conversation",
        "generate": "decoding",
        "load_hf": "hf",
        "score_options": "answers",
        "smollm2_path": "hf",
        "splice_slides": "splice",
        "with_slides": "conversation",
    },
)
