# Makes tests/golden/tokjson: small tokenizer.json files with the ids that Hugging Face's tokenizers
# (PyPI, 0.20 or later) gives for texts made by rule.  They cover what the large files of models
# have and what those at hand lack: every flag of added tokens, Metaspace, digits, suffixes.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokjson")
ROOT = os.path.join(OUT, "..", "..", "..")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
MARKS = r"\p{Lm}\p{Lo}\p{M}"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}%s]*[\p{Ll}%s]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}%s]+[\p{Ll}%s]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+") % (MARKS, MARKS, MARKS, MARKS)
TEXTS = [
    "'ſtraße x'ſtraße 'STRA 'REal HE'LLO it'ſelf É'S 中'd", "fooBarBaz HTTPServer ABc ǅaǅ ʰAʰb ªB",
    "中A文bC 文字ABc ÀB\u0301c\u0301D \u0301AB \u0301Ab 文A\n/x /\r\n/ //A",
    "", " ", "a", "Hello world", "  two  spaces ", "it's we'LL don't 's", "1234567 12 1,000.5", "line\nline\r\n\n  end\t\t",
    "naïve café Ångström e\u0301 a\u0323\u0301", "Привет мир", "日本語 テキスト が", "한국어 각", "العربية", "👩‍👩‍👧 😀", "x\u00a0y\u3000z\u2028",
    "▁▁ a▁b <0x41> Ġ Ċ", "\u0000\u0001\u007f", "ſ 'ſ", "<|end|>", "<|start|>user\nhi<|end|>", "a<|end|>b<|end|> <|end|>",
    "see<sep>that", " <sep> ", "word single word xword wordx word", "  [L]  x  [R]  y  [B]  z", "[L][R][B] [L]", "[N] n[N]n É[N]",
    "<|end", "<|en<|end|>", "|end|><|", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


def corpus():
    lines = []
    for name in ("README.md", "ARCHITECTURE.md", "HACKING.md", "SECURITY.md"):
        lines += open(os.path.join(ROOT, name), encoding="utf-8").read().split("\n")
    return lines + TEXTS[11:19] * 8


def added():
    return [AddedToken("<|start|>", special=True, normalized=False), AddedToken("<|end|>", special=True, normalized=False),
            AddedToken("<sep>", special=False, normalized=False), AddedToken("[L]", lstrip=True, normalized=False),
            AddedToken("[R]", rstrip=True, normalized=False), AddedToken("[B]", lstrip=True, rstrip=True, normalized=False),
            AddedToken("[N]", normalized=True)]


def write(name, t, words=()):
    t.add_special_tokens([a for a in added() if a.special])
    t.add_tokens([a for a in added() if not a.special] + list(words))
    s = json.loads(t.to_str())
    path = os.path.join(OUT, name)
    os.makedirs(path, exist_ok=True)
    json.dump(s, open(path + "/tokenizer.json", "w"), ensure_ascii=True, separators=(",", ":"))
    t = Tokenizer.from_file(path + "/tokenizer.json")
    rng = random.Random(3)
    texts = list(TEXTS)
    pool = [x for x in TEXTS if x] + ["[L]", "[R]", "[B]", "[N]", "<sep>", "word", "\n", "  "]
    for _ in range(150):
        texts.append("".join(rng.choice(pool)[:rng.randint(1, 12)] + rng.choice(["", "", " ", "\n"]) for _ in range(rng.randint(1, 6))))
    vectors = [{"text": x, "plain": t.encode(x, add_special_tokens=False).ids, "framed": t.encode(x).ids} for x in texts]
    json.dump(vectors, open(path + "/vectors.json", "w"), ensure_ascii=True, separators=(",", ":"))
    print(name, t.get_vocab_size(), os.path.getsize(path + "/tokenizer.json"), len(vectors))


def byte_level(name, pre, normalizer=None, post=None, ignore_merges=False, words=()):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    if post:
        t.post_processor = post
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    write(name, t, words)


def characters(name, normalizer, pre, byte_fallback, fuse_unk=True):
    bytes_ = ["<0x%02X>" % b for b in range(256)] if byte_fallback else []
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=byte_fallback, fuse_unk=fuse_unk))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair=None, special_tokens=[("<s>", 1), ("</s>", 2)])
    lines = [x for line in corpus()[:400] for x in (line.split(" ") if pre is None else [line])]  # words, not whole lines
    t.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=520, limit_alphabet=90, special_tokens=["<unk>", "<s>", "</s>"] + bytes_, show_progress=False))
    s = json.loads(t.to_str())
    s["added_tokens"] = s["added_tokens"][:3]  # the trainer makes added tokens of the bytes as well
    write(name, Tokenizer.from_str(json.dumps(s)))


split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
raw = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
byte_level("bytes_nfc", pre_tokenizers.Sequence([split, raw]), normalizers.NFC())
byte_level("bytes_case", pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(O200K), "removed", invert=True), raw]))
byte_level("bytes_words", pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
           words=[AddedToken("word", single_word=True, normalized=False)])
byte_level("bytes_regex", pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre_tokenizers.Split(Regex(r"[aeiou]+"), "merged_with_previous"),
    pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]),
    normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " ")]),
    ignore_merges=True)
characters("chars_prepend", normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, True)
characters("chars_first", None, pre_tokenizers.Metaspace(prepend_scheme="first"), True)
characters("chars_unknown", normalizers.NFKD(), pre_tokenizers.Metaspace(prepend_scheme="always", split=False), False, fuse_unk=False)
