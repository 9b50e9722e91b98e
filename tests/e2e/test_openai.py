"""An unmodified openai-python against the whole system: P/D, scheduler, cache manager."""
# SPDX-License-Identifier: Apache-2.0
import json

import venv

venv.inside()

import openai  # noqa: E402
from harness import Setup, main, request  # noqa: E402

with Setup(["prefill", "decode"]) as s:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key="unused", max_retries=0)
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]

    def models_are_listed():
        assert [m.id for m in client.models.list()] == [s.model]

    def chat_whole_and_streamed_agree():
        r = client.chat.completions.create(model=s.model, messages=chat, temperature=0, max_tokens=24)
        text = r.choices[0].message.content
        assert r.choices[0].message.role == "assistant" and text, r
        assert r.usage.completion_tokens <= 24 and r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens
        parts, usage, finish = [], None, None
        for c in client.chat.completions.create(model=s.model, messages=chat, temperature=0, max_tokens=24, stream=True,
                                                stream_options={"include_usage": True}):
            if c.choices:
                parts.append(c.choices[0].delta.content or "")
                finish = c.choices[0].finish_reason or finish
            usage = c.usage or usage
        assert "".join(parts) == text
        assert usage.completion_tokens == r.usage.completion_tokens
        assert finish == r.choices[0].finish_reason

    def n_gives_n_choices_and_seed_repeats():
        ask = dict(model=s.model, messages=chat, temperature=1.0, max_tokens=12, n=3, seed=7)
        a, b = (client.chat.completions.create(**ask) for _ in range(2))
        assert sorted(c.index for c in a.choices) == [0, 1, 2]
        assert [c.message.content for c in a.choices] == [c.message.content for c in b.choices]
        assert len({c.message.content for c in a.choices}) > 1

    def stop_strings_cut():
        r = client.completions.create(model=s.model, prompt="1, 2, 3, 4, 5,", max_tokens=40, temperature=0, stop=[" 9"])
        assert " 9" not in r.choices[0].text and r.choices[0].finish_reason == "stop", r
        whole = "".join(c.choices[0].text for c in client.completions.create(
            model=s.model, prompt="1, 2, 3, 4, 5,", max_tokens=40, temperature=0, stop=[" 9"], stream=True))
        assert whole == r.choices[0].text

    def logprobs_are_probabilities():
        r = client.chat.completions.create(model=s.model, messages=chat, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3)
        items = r.choices[0].logprobs.content
        assert len(items) == r.usage.completion_tokens
        for i in items:
            assert i.logprob <= 0 and len(i.top_logprobs) == 3
            assert i.top_logprobs[0].logprob >= i.top_logprobs[1].logprob
            assert abs(i.logprob - i.top_logprobs[0].logprob) < 1e-5  # greedy takes the best
        r = client.completions.create(model=s.model, prompt="The sky is", temperature=0, max_tokens=4, logprobs=2)
        assert len(r.choices[0].logprobs.token_logprobs) == 4

    def bad_requests_raise_proper_exceptions():
        for kw, kind in [(dict(model="nobody"), openai.NotFoundError), (dict(temperature=-1), openai.BadRequestError),
                         (dict(max_tokens=10**8), openai.BadRequestError), (dict(n=0), openai.BadRequestError),
                         (dict(messages=[]), openai.BadRequestError), (dict(top_logprobs=99, logprobs=True), openai.BadRequestError)]:
            ask = {**dict(model=s.model, messages=chat, max_tokens=4), **kw}
            try:
                client.chat.completions.create(**ask)
            except kind as e:
                assert e.body and e.body.get("message"), e
            else:
                raise AssertionError(f"{kw} was accepted")

    def a_client_that_still_sends_hears_why_it_is_refused():
        body = json.dumps({"model": s.model, "prompt": "a" * (17 << 20)}).encode()
        r = request(s.port, "POST", "/v1/completions", body)  # writes all of it before it reads
        assert r.status == 413 and r.json()["error"]["reason"] == "too_large", r.body

    main(models_are_listed, chat_whole_and_streamed_agree, n_gives_n_choices_and_seed_repeats, stop_strings_cut,
         logprobs_are_probabilities, bad_requests_raise_proper_exceptions,
         a_client_that_still_sends_hears_why_it_is_refused)
    s.wait_idle()
