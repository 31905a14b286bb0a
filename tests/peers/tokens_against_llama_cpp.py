#!/usr/bin/env python3
"""Token ids of converted tokenizers against llama.cpp's, for every vocabulary that lies in its source.

    python tokens_against_llama_cpp.py --brooklet target/release/brooklet --llama-cpp llama.cpp --llama-tokens llama_tokens [MODEL.gguf ...]

llama.cpp's source has vocabularies of published models in files without weights (models/ggml-vocab-*.gguf), most with texts and the ids that the
models' own tokenizers give them. Each becomes a small GGUF model with random weights, `brooklet quantize` makes a .brook of it, and the
tokenizer.json in that is run by the tokenizers library. llama_tokens is made of
llama_tokens.cpp. Needs numpy, tokenizers and llama.cpp's gguf-py.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from tokenizers import Tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "quantize/reference"))
from read_brook import Brook  # noqa: E402

TEXTS = [
    "The quick brown fox jumps over the lazy dog.", "It's we'll they'VE I'd you're SHE'S don'T", "x=1;y=22;z=333;w=4444; 1,234,567.89 0x1F 3.14e-10 ½ ² ٣٤ 四五",
    "def f(x):\n\treturn {k: v**2 for k, v in x.items()}  # comment\n\n\n    if (a<=b && c!=d) { printf(\"%d\\n\", i++); }\n",
    "  leading and trailing  ", "a  b   c    d     e", "\n\n\n", " \n \t \r\n  x", "tab\tseparated\tvalues\r\nand lines\r\n\r\n", "\u00a0nbsp\u2003em\u3000wide",
    "Grüße aus Köln, naïve café, ÉCOLE, Straße, Ångström, œuvre", "Привет, мир! Как дела?", "你好，世界。这是一个测试！", "日本語のテキスト、カタカナとひらがな", "한국어 문장입니다. 띄어쓰기",
    "हिन्दी में एक वाक्य", "สวัสดีชาวโลก", "مرحبا بالعالم", "Ελληνικά κείμενο", "🙂👍🏽👩‍👩‍👧‍👦 🇩🇪 emoji", "e\u0301 combining \u0301 marks a\u0308", "\ufeffbom", "\x01\x7f control",
    "CamelCaseWordsAndSNAKE_CASE_words-with-dashes", "https://example.com/path?query=1&x=%20#frag", "$100 €20 £3 100% @user #tag ^caret ~tilde `tick`", "…—–‘quoted’ “double” «guillemets»",
    "word" * 40, "!" * 70, " " * 70, "1" * 50, "<not a special> [INST] </s x>", "A", " A", "", "don\u2019t \u2018tis",
]


def small_model(vocabulary, out, gguf):
    """A model of one layer whose tokenizer is that of the file `vocabulary`."""
    reader = gguf.GGUFReader(vocabulary)
    count = len(reader.get_field("tokenizer.ggml.tokens").data)
    writer = gguf.GGUFWriter(out, "llama")
    for key, value in [("block_count", 1), ("embedding_length", 8), ("feed_forward_length", 8), ("attention.head_count", 1), ("context_length", 64)]:
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer.ggml."):
            kind = field.types[0]
            if kind == gguf.GGUFValueType.ARRAY:
                value = [bytes(field.parts[i]) for i in field.data] if field.types[-1] == gguf.GGUFValueType.STRING else field.contents()
                writer.add_array(name, value)
            else:
                writer.add_key_value(name, field.contents(), kind)
    rng = np.random.default_rng(1)
    tensor = lambda *shape: rng.normal(0, 0.1, shape).astype(np.float16)
    writer.add_tensor("token_embd.weight", tensor(count, 8))
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
        writer.add_tensor(f"blk.0.{name}.weight", tensor(8, 8))
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]:
        writer.add_tensor(f"{name}.weight", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def theirs(args, model, texts):
    """llama.cpp's ids of every text."""
    run = subprocess.run([args.llama_tokens, model], input=b"".join(text.encode() + b"\0" for text in texts), capture_output=True, check=True)
    return [[int(i) for i in line.split()] for line in run.stdout.decode().split("\n")[:len(texts)]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["--brooklet", "--llama-cpp", "--llama-tokens"]:
        parser.add_argument(name, required=True, type=pathlib.Path)
    parser.add_argument("models", nargs="*", type=pathlib.Path, help="files to try, in place of the vocabularies in the source")
    args = parser.parse_args()
    sys.path.insert(0, str(args.llama_cpp / "gguf-py"))
    import gguf

    files = args.models or sorted((args.llama_cpp / "models").glob("ggml-vocab-*.gguf"))
    all_equal = True
    for file in files:
        with tempfile.TemporaryDirectory() as folder:
            model, brook = pathlib.Path(folder) / "model.gguf", pathlib.Path(folder) / "model.brook"
            small_model(file, model, gguf)
            run = subprocess.run([args.brooklet, "quantize", model, "-o", brook, "--format", "f16"], capture_output=True, text=True)
            if run.returncode:
                print(f"{file.stem:36} refused: {run.stderr.strip().split(': ', 2)[-1][:150]}")
                continue
            note = "".join(line[5:] + " " for line in run.stderr.splitlines() if line.startswith("note:"))
            tokenizer = Tokenizer.from_str(bytes(Brook(brook.read_bytes()).sections["tokenizer.json"]["bytes"]).decode())
            ids = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
            wanted = theirs(args, model, TEXTS)
            different = [(text, want) for text, want in zip(TEXTS, wanted) if ids(text) != want]
            equal = len(TEXTS) - len(different)
            # Texts with the ids that the model's own tokenizer gives them.
            inputs, own = file.with_suffix(".gguf.inp"), []
            if inputs.exists():
                texts = inputs.read_bytes().decode().split("\n__ggml_vocab_test__\n")
                lines = file.with_suffix(".gguf.out").read_text().splitlines()
                own = [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines)]
            own_different = [(text, want) for text, want in own if ids(text) != want]
            all_equal &= not different
            print(f"{file.stem:36} {equal} of {len(TEXTS)} as llama.cpp, {len(own) - len(own_different)} of {len(own)} as the model's own {note}")
            for text, want in (different + own_different)[:6]:
                print(f"    {text[:60]!r}\n      ours   {ids(text)[:24]}\n      theirs {want[:24]}")
    sys.exit(0 if all_equal else 1)


if __name__ == "__main__":
    main()
