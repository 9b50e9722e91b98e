#!/bin/sh
# up.sh: Kubernetes with one node inside namespaces of its own (net, mount, pid, uts, ipc); nothing listens outside.
# All parts are children of one holder process (PID 1 of the pid namespace); down.sh ends that one.
# Environment: RUN state directory, BIN folder of kube, kwok, kubectl and pause, IMAGES folder of image archives to
# import, NODE=0 control plane only, KWOK=1 fake nodes, too.  Needs root and cgroup v1.
# SPDX-License-Identifier: Apache-2.0
set -eu
H=$(cd "$(dirname "$0")" && pwd); IP=192.168.77.1; N=node1; CG=kube$(printf %s "$RUN" | tr / -)
LOG=$RUN/log; PKI=$RUN/pki; export PATH=$BIN:/usr/sbin:/usr/bin:/sbin:/bin
[ ! -e "$RUN/holder" ] || { echo "already up: $RUN" >&2; exit 1; }
mkdir -p "$LOG" "$RUN/kubelet" "$RUN/pods-log" "$RUN/containerd" "$RUN/cni" "$RUN/etcd" /var/lib/kubelet /var/log/pods
for p in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do ln -sf kube "$BIN/$p"; done
for c in cpu cpuacct cpuset memory devices freezer blkio pids systemd; do mkdir -p /sys/fs/cgroup/$c/$CG; done
for f in cpus mems; do cat /sys/fs/cgroup/cpuset/cpuset.$f > /sys/fs/cgroup/cpuset/$CG/cpuset.$f; done
sh "$H/certs.sh" "$PKI" $IP $N

cat > "$RUN/setup.sh" <<S
set -e
mount --make-rshared /
mount --bind $RUN/kubelet /var/lib/kubelet; mount --bind $RUN/pods-log /var/log/pods
# kubelet insists on these three values and would set them for the whole machine: show it files that have them
for v in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
 f=$RUN/sysctl-\$(basename \${v%%=*}); echo \${v##*=} > \$f; mount --bind \$f /proc/sys/\${v%%=*}; done
printf '127.0.0.1 localhost\n$IP $N\n' > $RUN/hosts; mount --bind $RUN/hosts /etc/hosts
echo nameserver 10.96.0.10 > $RUN/resolv.conf; mount --bind $RUN/resolv.conf /etc/resolv.conf
mount -t tmpfs run /run; mkdir -p /run/netns /run/lock; hostname $N
ip link set lo up
ip link add node0 type veth peer name node0p; ip addr add $IP/24 dev node0; ip link set node0 up; ip link set node0p up
ip route add default dev node0
for s in ipv4/ip_forward bridge/bridge-nf-call-iptables ipv4/conf/all/route_localnet; do echo 1 > /proc/sys/net/\$s; done
: > $RUN/ready; exec $BIN/pause
S
unshare --net --mount --pid --uts --ipc --fork --mount-proc --propagation private sh "$RUN/setup.sh" >"$LOG/holder.log" 2>&1 &
U=$!; while [ ! -e "$RUN/ready" ]; do kill -0 $U; sleep 0.05; done
tr -d ' ' < /proc/$U/task/$U/children > "$RUN/holder"; P=$(cat "$RUN/holder")
cat > "$RUN/in" <<S
#!/bin/sh
exec nsenter -t $P -n -m -p -u -i -- env -C "\$PWD" PATH=$PATH KUBECONFIG=$PKI/admin.kubeconfig "\$@"
S
chmod +x "$RUN/in"; in="$RUN/in"
start() { n=$1; shift; setsid "$in" sh -c 'echo $$ > '"$RUN/$n.pid"'; exec "$@"' sh "$@" >"$LOG/$n.log" 2>&1 </dev/null & echo $! > "$RUN/$n.outer"; }
wait_for() { i=0; until "$@" >/dev/null 2>&1; do i=$((i+1)); [ $i -lt 600 ] || { echo "gave up: $*" >&2; exit 1; }; sleep 0.2; done; }

start etcd etcd --data-dir "$RUN/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
  --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --log-level warn
start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address=$IP --secure-port=6443 \
  --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged \
  --tls-cert-file=$PKI/apiserver.crt --tls-private-key-file=$PKI/apiserver.key --client-ca-file=$PKI/ca.crt \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=$PKI/sa.pub --service-account-signing-key-file=$PKI/sa.key \
  --kubelet-preferred-address-types=InternalIP --kubelet-client-certificate=$PKI/apiserver-kubelet.crt --kubelet-client-key=$PKI/apiserver-kubelet.key --kubelet-certificate-authority=$PKI/ca.crt \
  --requestheader-client-ca-file=$PKI/ca.crt --requestheader-allowed-names=front-proxy-client --requestheader-username-headers=X-Remote-User \
  --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file=$PKI/front-proxy.crt --proxy-client-key-file=$PKI/front-proxy.key
wait_for "$in" kubectl get --raw /readyz
for c in kcm:kube-controller-manager scheduler:kube-scheduler; do k=$PKI/${c%%:*}.kubeconfig; x=
  [ ${c%%:*} = scheduler ] || x="--service-account-private-key-file=$PKI/sa.key --root-ca-file=$PKI/ca.crt --cluster-signing-cert-file=$PKI/ca.crt
   --cluster-signing-key-file=$PKI/ca.key --use-service-account-credentials --requestheader-client-ca-file=$PKI/ca.crt"
  start ${c%%:*} ${c##*:} --kubeconfig=$k --authentication-kubeconfig=$k --authorization-kubeconfig=$k --leader-elect=false --bind-address=127.0.0.1 $x; done
if [ "${KWOK:-0}" = 1 ]; then start kwok kwok --kubeconfig=$PKI/kwok.kubeconfig --config=$H/stages.yaml --cidr=10.200.0.0/16 --manage-all-nodes=false \
  --manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake --node-lease-duration-seconds=40; fi
[ "${NODE:-1}" = 1 ] || exit 0

cat > "$RUN/cni/10-bridge.conflist" <<C
{"cniVersion":"1.0.0","name":"kube","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,"ipam":{"type":"host-local","dataDir":"$RUN/ipam",
  "ranges":[[{"subnet":"10.244.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
C
S=$RUN/containerd/c.sock
cat > "$RUN/containerd.toml" <<C
version = 2
root = "$RUN/containerd/root"
state = "/run/containerd"
[grpc]
  address = "$S"
[plugins."io.containerd.internal.v1.opt"]
  path = "$RUN/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$RUN/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
C
start containerd containerd -c "$RUN/containerd.toml"; wait_for "$in" ctr -a "$S" version
for i in "$IMAGES"/*.tar; do "$in" ctr -a "$S" -n k8s.io images import "$i" >/dev/null; done
cat > "$RUN/kubelet.yaml" <<K
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$CG
enforceNodeAllocatable: [none]
failSwapOn: false
oomScoreAdj: 0
containerRuntimeEndpoint: unix://$S
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: ""
evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
volumePluginDir: $RUN/volume-plugins
K
start kubelet kubelet --config="$RUN/kubelet.yaml" --kubeconfig=$PKI/kubelet.kubeconfig --node-ip=$IP --hostname-override=$N
cat > "$RUN/proxy.yaml" <<K
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ${PROXY:-iptables}
clusterCIDR: 10.244.0.0/16
clientConnection: {kubeconfig: $PKI/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
oomScoreAdj: 0
K
start proxy kube-proxy --config="$RUN/proxy.yaml" --hostname-override=$N
wait_for "$in" kubectl get node $N
"$in" kubectl wait --for=condition=Ready node/$N --timeout=120s
