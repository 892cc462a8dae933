"""The files of a model's or an adapter's directory, as the Hugging Face libraries name them."""

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
WEIGHTS = (".safetensors", ".bin", ".gguf")  # suffixes of files of weights
# Loading a directory of weights reads these files as well.
COMPANIONS = {
    "model.safetensors": ("config.json", "generation_config.json", *TOKENIZER_FILES),
    "adapter_model.safetensors": ("adapter_config.json", "lineage.json"),
}
