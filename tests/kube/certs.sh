#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# certs.sh DIR NODEIP NODENAME: one CA, leafs and kubeconfigs (EC keys, 30 days)
set -eu
D=$1 IP=$2 NODE=$3; mkdir -p "$D"; cd "$D"
[ -f ca.key ] || { openssl ecparam -name prime256v1 -genkey -noout -out ca.key
 openssl req -x509 -new -key ca.key -subj /CN=kube-ca -days 30 -out ca.crt \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature; }
leaf() { # name subject usage [san]
 openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
 { echo "basicConstraints=CA:FALSE"; echo "keyUsage=critical,digitalSignature"; echo "extendedKeyUsage=$3"
   [ -z "${4-}" ] || echo "subjectAltName=$4"; } > "$1.ext"
 openssl req -new -key "$1.key" -subj "$2" | openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial \
  -days 30 -extfile "$1.ext" -out "$1.crt" 2>/dev/null; }
conf() { # name user
 cat > "$1.kubeconfig" <<K
apiVersion: v1
kind: Config
clusters: [{name: kube, cluster: {server: "https://$IP:6443", certificate-authority: "$D/ca.crt"}}]
users: [{name: u, user: {client-certificate: "$D/$1.crt", client-key: "$D/$1.key"}}]
contexts: [{name: c, context: {cluster: kube, user: u}}]
current-context: c
K
}
leaf apiserver /CN=kube-apiserver serverAuth "IP:$IP,IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
leaf kubelet-server "/CN=$NODE" serverAuth "IP:$IP,DNS:$NODE"
leaf apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
leaf front-proxy /CN=front-proxy-client clientAuth
leaf admin /O=system:masters/CN=admin clientAuth;                conf admin
leaf kcm /CN=system:kube-controller-manager clientAuth;          conf kcm
leaf scheduler /CN=system:kube-scheduler clientAuth;             conf scheduler
leaf kubelet "/O=system:nodes/CN=system:node:$NODE" clientAuth;  conf kubelet
leaf proxy /CN=system:kube-proxy clientAuth;                     conf proxy
leaf kwok /O=system:masters/CN=kwok clientAuth;                  conf kwok
openssl ecparam -name prime256v1 -genkey -noout -out sa.key; openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
