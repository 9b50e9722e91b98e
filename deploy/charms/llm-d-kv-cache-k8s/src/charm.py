#!/usr/bin/env python3
"""llmd's cache manager: knows which worker holds which KV block."""
# SPDX-License-Identifier: Apache-2.0
import ops

from llmd_charm.cache import CacheCharm


class Charm(CacheCharm):
    """llmd's cache manager: knows which worker holds which KV block."""


if __name__ == "__main__":
    ops.main(Charm)
