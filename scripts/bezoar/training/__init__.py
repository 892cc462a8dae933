"""QLoRA fine-tuning and DPO: models in four bits, templates, tokenizers, preference pairs."""
