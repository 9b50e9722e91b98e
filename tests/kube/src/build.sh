#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build.sh [OUT] [PKG]: builds the multi-call binary
set -eu
K=$(sed -n 's/^\tk8s.io\/kubernetes v//p' go.mod | head -1)
V=k8s.io/component-base/version
export CGO_ENABLED=0
exec go build -mod=mod -trimpath -buildvcs=false -o "${1:-kube}" -ldflags "-s -w \
 -X $V.gitVersion=v$K -X $V.gitMajor=1 -X $V.gitMinor=$(echo $K | cut -d. -f2) -X $V.gitTreeState=clean -X $V.gitCommit=proxy \
 -X $V.buildDate=1970-01-01T00:00:00Z" "${2:-.}"
