"""What the tests' tiny base is made of."""

PRETRAIN = {
    "vocabulary_size": 400,
    "embedding_rows": None,
    "tie_word_embeddings": True,
    "hidden_size": 64,
    "layers": 2,
    "heads": 2,
    "mlp_size": 128,
    "context": 256,
    "window": 32,
    "batch_size": 4,
    "steps": 12,
    "learning_rate": 0.004,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "checkpoint_steps": 5,
    "seed": 0,
}
WORDS = (
    "red blue green one two three cat dog hen Answer instruction System Response Instruction the is"
    " of a".split()
)
