#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# gen.sh KVER(1.35.4) ETCD(3.6.5): writes go.mod; staging list is taken from the module's own go.mod
set -eu
K=$1; E=$2; M=0.${K#1.}
D=$(go mod download -json "k8s.io/kubernetes@v$K" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')
G=$(sed -n 's/^go //p' "$D/go.mod"); GD=$(sed -n 's/^godebug default=//p' "$D/go.mod")
{
 echo "module kube"; echo; echo "go $G"; echo; echo "godebug default=$GD"; echo
 echo "require ("; echo "	k8s.io/kubernetes v$K"; echo "	go.etcd.io/etcd/server/v3 v$E"; echo ")"; echo
 echo "replace ("
 sed -n 's#^\t\(k8s.io/[a-z-]*\) => ./staging.*#\1#p' "$D/go.mod" | while read -r m; do echo "	$m => $m v$M"; done
 echo ")"
} > go.mod
