"""Asks a workload: what is said of it is what was just seen."""
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import ssl
import urllib.error
import urllib.request
from typing import Any, Callable


class ProbeError(Exception):
    """What was asked did not answer as it should; the text is for the status line."""


def ask(url: str, body: dict | None = None, key: str = "", ca: str = "", request_id: str = "", timeout: float = 60) -> dict:
    """GET, or POST with a body.  key: an API key.  ca: PEM authorities, one of which signed the certificate of an https URL; the
    name in it is not looked at, since a unit asks itself by another one than its clients use."""
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json"} if data else {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    if request_id:
        headers["X-Request-Id"] = request_id
    context = None
    if ca:
        context = ssl.create_default_context(cadata=ca)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return json.loads(_call(urllib.request.Request(url, data, headers), timeout if data else 5, context) or b"{}")


def text(url: str) -> str:
    return _call(urllib.request.Request(url), 5, None).decode()


def running(metrics: str) -> int:
    """Requests that a worker computes or holds in its queue, from its metrics."""
    found = re.findall(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? (\S+)$", metrics, re.M)
    return int(sum(map(float, found)))


def _call(request: urllib.request.Request, timeout: float, context: ssl.SSLContext | None) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=context) as r:
            return r.read()
    except urllib.error.HTTPError as e:
        raise ProbeError(f"{request.selector} answers {e.code}") from e
    except (OSError, ValueError) as e:
        raise ProbeError(f"{request.selector}: {e}") from e


def complete(call: Callable[..., dict[str, Any]]) -> str:
    """One token of the first model that call(path, body) reaches; returns the model's name."""
    models = call("/v1/models").get("data") or []
    if not models:
        raise ProbeError("no model is served")
    model = models[0]["id"]
    answer = call("/v1/completions", {"model": model, "prompt": "Hello", "max_tokens": 1})
    if not answer.get("choices"):
        raise ProbeError("a completion came back empty")
    return model
