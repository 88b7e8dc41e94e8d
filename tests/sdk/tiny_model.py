"""Writes a language model of a few hundred kilobytes with pseudo-random weights, for servers that need some model.

It speaks grammatical nonsense, always the same: what is under test is the server's HTTP, not its wit. Needs the packages
`gguf` and `numpy`.

  tiny_model.py FILE
"""

import sys

import gguf
import numpy

WIDTH, HEADS, INNER, CONTEXT = 64, 4, 128, 2048
CONTROL, NORMAL, UNKNOWN, BYTE = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.UNKNOWN,
                                  gguf.TokenType.BYTE)
WORDS = [f"\u2581{start}{end}" for start in ("ba", "do", "ke", "li", "mu", "no", "ra", "si", "te", "vo")
         for end in ("lar", "men", "nis", "pol", "ret", "sun", "tam", "ver", "xo", "zin")]


def vocabulary():
    """Texts, scores and types: three control tokens, all bytes, and a hundred words."""
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    tokens += [(f"<0x{value:02X}>", BYTE) for value in range(256)]
    tokens += [(word, NORMAL) for word in WORDS]
    return [text for text, _ in tokens], [0.0] * len(tokens), [int(kind) for _, kind in tokens]


def write(path):
    texts, scores, types = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(texts))
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    random = numpy.random.default_rng(1871)

    def weights(*shape):
        return random.standard_normal(shape).astype(numpy.float32)

    ones = numpy.ones(WIDTH, dtype=numpy.float32)
    writer.add_tensor("token_embd.weight", weights(len(texts), WIDTH))
    output = weights(len(texts), WIDTH)
    # Only words can ever win: everything else has the score nought.
    output[: len(texts) - len(WORDS)] = 0.0
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("blk.0.attn_norm.weight", ones)
    writer.add_tensor("blk.0.ffn_norm.weight", ones)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", weights(WIDTH, WIDTH) / 8)
    for name, rows, columns in (("ffn_gate", INNER, WIDTH), ("ffn_up", INNER, WIDTH), ("ffn_down", WIDTH, INNER)):
        writer.add_tensor(f"blk.0.{name}.weight", weights(rows, columns) / 8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
