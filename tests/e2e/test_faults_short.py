"""The fault run of tests/chaos with few faults: its seed can be given by CHAOS_SEED."""
# SPDX-License-Identifier: Apache-2.0
import os
import sys

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "chaos", "test_faults.py")
FEW = {"CHAOS_N": "6", "CHAOS_CANCELS": "40", "CHAOS_MALFORMED": "40"}

os.execve(sys.executable, [sys.executable, SCRIPT], {**FEW, **os.environ})
