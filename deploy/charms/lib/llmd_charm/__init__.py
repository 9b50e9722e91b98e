"""What the four charms of llmd share: reconcile on every event, one status, probes, relations."""
# SPDX-License-Identifier: Apache-2.0
