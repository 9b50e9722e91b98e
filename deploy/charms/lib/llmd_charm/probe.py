"""Asks a workload: what is said of it is what was just seen."""
# SPDX-License-Identifier: Apache-2.0
import json
import urllib.error
import urllib.request


class ProbeError(Exception):
    """What was asked did not answer as it should; the text is for the status line."""


def get(url: str, timeout: float = 5) -> dict:
    return _call(urllib.request.Request(url), timeout)


def post(url: str, body: dict, timeout: float = 60) -> dict:
    data = json.dumps(body).encode()
    return _call(urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout)


def _call(request: urllib.request.Request, timeout: float) -> dict:
    try:
        with urllib.request.urlopen(request, timeout=timeout) as r:
            return json.loads(r.read())
    except urllib.error.HTTPError as e:
        raise ProbeError(f"{request.selector} answers {e.code}") from e
    except (OSError, ValueError) as e:
        raise ProbeError(f"{request.selector}: {e}") from e


def complete(base: str) -> str:
    """One token of the first model that base serves; returns the model's name."""
    models = get(base + "/v1/models").get("data") or []
    if not models:
        raise ProbeError("no model is served")
    model = models[0]["id"]
    answer = post(base + "/v1/completions", {"model": model, "prompt": "Hello", "max_tokens": 1})
    if not answer.get("choices"):
        raise ProbeError("a completion came back empty")
    return model
