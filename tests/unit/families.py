"""Tiny models of other families than Llama's, with random weights and tokenizers of their own."""

import json
from pathlib import Path
from typing import Any

from tiny import WORDS

ENDS = {"qwen2": "<|endoftext|>", "gpt_neox": "<|endoftext|>", "gpt2": "<|endoftext|>"}
LORA = {
    "llama": ["q_proj", "k_proj", "v_proj"],
    "qwen2": ["q_proj", "k_proj", "v_proj"],
    "gpt_neox": ["query_key_value"],
    "gpt2": ["c_attn"],
}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer(folder: Path, bos: bool = False, template: str | None = CHATML) -> int:
    """Write a byte-level BPE tokenizer; return how many ids it has. With `bos` it begins every text
    with <|begin|>.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([" ".join(WORDS)] * 9, trainer)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin|>"]
    made.add_special_tokens([AddedToken(token, special=True) for token in special])
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", made.token_to_id("<|begin|>"))]
        )
    made.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "bos_token": "<|begin|>" if bos else None,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value})
    )
    return made.get_vocab_size()


def config(family: str, size: int, end: int) -> Any:
    """The smallest configuration of a family whose layers can be quantised to 4 bits."""
    import transformers

    shape = {
        "vocab_size": -(-size // 64) * 64,  # rounded up, as published models are
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": end,
        "eos_token_id": end,
    }
    if family == "gpt2":
        return transformers.GPT2Config(
            vocab_size=shape["vocab_size"],
            n_positions=64,
            n_embd=64,
            n_layer=1,
            n_head=2,
            bos_token_id=end,
            eos_token_id=end,
        )
    if family == "qwen2":
        return transformers.Qwen2Config(**shape, num_key_value_heads=1, tie_word_embeddings=True)
    return transformers.GPTNeoXConfig(**shape)


def snapshot(folder: Path, family: str, bos: bool = False) -> Path:
    """Write a model of a family with random weights and its tokenizer, as a hub repository has
    them.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.mkdir(parents=True)
    size = tokenizer(folder, bos)
    end = AutoTokenizer.from_pretrained(folder).eos_token_id
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config(family, size, end)).save_pretrained(folder)
    return folder
