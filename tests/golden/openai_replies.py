"""Reads replies as lines `KIND<TAB>TEXT` and lets the models of the openai package judge them.

KIND is chat, completion, models, or chat_stream, completion_stream (TEXT then is the events, with
newlines written as byte 1).  Exits 1 with the reason at the first reply that an unmodified client would
not take.  Made for openai 3.57; run by tests/unit/openai/test_reply.c when LLMD_TEST_PYTHON names
an interpreter that has it.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import sys

import openai
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

WHOLE = {"chat": ChatCompletion, "completion": Completion}
STREAM = {"chat_stream": ChatCompletionChunk, "completion_stream": Completion}
EXTRA = {"service_tier", "prompt_logprobs", "prompt_token_ids", "token_ids", "stop_reason",
         "kv_transfer_params", "reasoning", "root", "parent", "max_model_len", "permission"}


def refuse_constant(name):
    raise ValueError("not JSON: " + name)


def load(text):
    def members(pairs):
        keys = [k for k, _ in pairs]
        assert len(keys) == len(set(keys)), "a member twice: %r" % keys
        return dict(pairs)

    return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=members)


def judge(model, value):
    """Strict about what OpenAI defines (no coercion), free about vLLM's own members."""
    reply = model.model_validate(value, strict=False)
    unknown = set(reply.model_extra or {}) - EXTRA
    assert not unknown, "members nobody knows: %r" % unknown
    return reply


def events(text):
    blocks = text.split("\n\n")
    assert blocks[-1] == "", "the stream does not end with an empty line"
    for block in blocks[:-1]:
        assert block.startswith("data: ") and "\n" not in block, block
        yield block[6:]


def main():
    count = 0
    for line in sys.stdin.buffer.read().decode("utf-8").strip("\n").split("\n"):
        kind, text = line.split("\t", 1)
        if kind in WHOLE:
            reply = judge(WHOLE[kind], load(text))
            assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
            for choice in reply.choices:
                assert choice.finish_reason in ("stop", "length"), choice
        elif kind in STREAM:
            parts = list(events(text.replace("\x01", "\n")))
            assert parts[-1] == "[DONE]", parts[-1]
            for part in parts[:-1]:
                value = load(part)
                if "error" in value:
                    assert {"message", "type", "param", "code"} <= set(value["error"]), value
                    assert isinstance(value["error"]["code"], int)
                    continue
                if kind == "completion_stream":
                    # null until the end, from OpenAI as well; the package's model forgets to say so
                    for choice in value["choices"]:
                        choice["finish_reason"] = choice["finish_reason"] or "stop"
                judge(STREAM[kind], value)
        elif kind == "models":
            value = load(text)
            assert value["object"] == "list"
            for entry in value["data"]:
                judge(Model, entry)
        else:
            raise ValueError(kind)
        count += 1
    print("openai %s took %d replies" % (openai.__version__, count))


main()
