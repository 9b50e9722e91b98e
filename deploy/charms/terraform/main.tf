# llmd on a Kubernetes model of Juju: the four charms and the relations between them.
# SPDX-License-Identifier: Apache-2.0
terraform {
  required_version = ">= 1.5"
  required_providers {
    juju = {
      source  = "juju/juju"
      version = ">= 0.17, < 1.0"
    }
  }
}

variable "model" {
  description = "The Juju model to deploy into."
  type        = string
}

variable "channel" {
  description = "Channel of the charms."
  type        = string
  default     = "latest/edge"
}

variable "units" {
  description = "Units by application."
  type        = map(number)
  default     = {}
}

locals {
  applications = toset(["llm-d-inference-scheduler-k8s", "llm-d-kv-cache-k8s", "llm-d-prefill-k8s", "llm-d-decode-k8s"])
  relations = {
    decode        = ["llm-d-inference-scheduler-k8s", "decode-worker", "llm-d-decode-k8s", "decode-worker"]
    prefill       = ["llm-d-inference-scheduler-k8s", "prefill-worker", "llm-d-prefill-k8s", "prefill-worker"]
    cache         = ["llm-d-inference-scheduler-k8s", "kv-cache-manager", "llm-d-kv-cache-k8s", "kv-cache-manager"]
    decode_cache  = ["llm-d-decode-k8s", "kv-cache-manager", "llm-d-kv-cache-k8s", "kv-cache-manager"]
    prefill_cache = ["llm-d-prefill-k8s", "kv-cache-manager", "llm-d-kv-cache-k8s", "kv-cache-manager"]
  }
}

resource "juju_application" "app" {
  for_each = local.applications
  name     = each.key
  model    = var.model
  trust    = false
  units    = lookup(var.units, each.key, 1)

  charm {
    name    = each.key
    channel = var.channel
  }
}

resource "juju_integration" "pair" {
  for_each = local.relations
  model    = var.model

  application {
    name     = juju_application.app[each.value[0]].name
    endpoint = each.value[1]
  }

  application {
    name     = juju_application.app[each.value[2]].name
    endpoint = each.value[3]
  }
}

output "scheduler" {
  description = "The application that clients ask."
  value       = juju_application.app["llm-d-inference-scheduler-k8s"].name
}
