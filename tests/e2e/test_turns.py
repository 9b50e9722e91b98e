"""A request's text does not depend on its neighbours; a second turn pays only for what is new.

TURNS_PROMPTS (12) prompts alone, then all of them, 16 at a time.
"""
# SPDX-License-Identifier: Apache-2.0
import concurrent.futures
import os
import statistics
import time

from harness import Setup, main, prompt_of, text_of

SMALL = bool(os.environ.get("LLMD_SANITIZED"))
PROMPTS = 4 if SMALL else int(os.environ.get("TURNS_PROMPTS", "12"))
TALKS, WORDS = (1, 300) if SMALL else (5, 1300)


def alone_and_among_others():
    bodies = [{"prompt": prompt_of(20 + 9 * i % 200, 300 + i), "max_tokens": 40, "temperature": 0, "ignore_eos": True}
              for i in range(PROMPTS)]

    def text(s, body):
        a = s.ask("/v1/completions", body)
        assert a.status == 200, a.body
        return a.json()["choices"][0]["text"]

    with Setup(["both"], worker_args=["--no-enable-prefix-caching"]) as s:
        alone = [text(s, b) for b in bodies]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            among = list(pool.map(lambda b: text(s, b), bodies))
    different = [i for i, (a, b) in enumerate(zip(alone, among)) if a != b]
    assert not different, (different, alone[different[0]], among[different[0]])
    print(f"{PROMPTS} prompts: the same text alone and 16 at a time")


def first_token(s, messages):
    begin, ttft, text, usage = time.monotonic(), None, "", None
    stream = s.stream("/v1/chat/completions", {"messages": messages, "max_tokens": 24, "temperature": 0,
                                               "stream_options": {"include_usage": True}})
    for event in stream:
        if ttft is None and text_of(event):
            ttft = time.monotonic() - begin
        text += text_of(event)
        usage = event.get("usage") or usage
    stream.close()
    assert stream.done, stream.error
    return ttft, text, usage


def second_turn_pays_for_what_is_new():
    ratios, shares, tokens = [], [], 0
    with Setup(["prefill", "decode"]) as s:
        for i in range(TALKS):
            talk = [{"role": "user", "content": prompt_of(WORDS, 9000 + i)}]
            cold, text, _ = first_token(s, talk)
            talk += [{"role": "assistant", "content": text}, {"role": "user", "content": "And what follows from that?"}]
            warm, _, usage = first_token(s, talk)
            ratios.append(warm / cold)
            tokens = usage["prompt_tokens"]
            shares.append(usage["prompt_tokens_details"]["cached_tokens"] / tokens)
    share, ratio = min(shares), statistics.median(ratios)
    assert share > 0.9, shares
    assert SMALL or ratio <= 0.15, ratios
    print(f"second turn of {tokens} tokens: {share * 100:.0f} % cached, first token after {ratio * 100:.0f} % of the cold one's time")


main(alone_and_among_others, second_turn_pays_for_what_is_new)
