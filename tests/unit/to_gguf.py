"""Write a tiny Llama as GGUF: to_gguf.py BASE OUT (with the Python of an environment that has gguf,
sentencepiece and safetensors).
"""

import json
import sys
from pathlib import Path

import gguf
from safetensors.numpy import load_file
from sentencepiece import SentencePieceProcessor

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def main(base: Path, out: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    pieces, heads = (
        SentencePieceProcessor(model_file=str(base / "tokenizer.model")),
        config["num_attention_heads"],
    )
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    count = pieces.get_piece_size()
    writer.add_vocab_size(count)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(i).encode() for i in range(count)])
    writer.add_token_scores([pieces.get_score(i) for i in range(count)])
    kind = gguf.TokenType
    writer.add_token_types(
        [
            (
                kind.UNKNOWN
                if pieces.is_unknown(i)
                else (
                    kind.CONTROL
                    if pieces.is_control(i)
                    else kind.BYTE
                    if pieces.is_byte(i)
                    else kind.NORMAL
                )
            )
            for i in range(count)
        ]
    )
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    weights = load_file(str(base / "model.safetensors"))
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    for name, value in weights.items():
        value = value.astype("float32")
        if name in WHOLE:
            writer.add_tensor(WHOLE[name], value)
            continue
        layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        if part in (
            "self_attn.q_proj",
            "self_attn.k_proj",
        ):  # llama.cpp pairs neighbouring dimensions, transformers the two halves of a head
            rows, columns = value.shape
            value = (
                value.reshape(heads, 2, rows // heads // 2, columns)
                .swapaxes(1, 2)
                .reshape(rows, columns)
            )
        writer.add_tensor(f"blk.{layer}.{NAMES[part]}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
