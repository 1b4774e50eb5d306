# The node's first process: starts every part, again when one ends, and waits.
# What differs between clusters is in /etc/devcluster: `settings` (shell variables), kubelet.yaml, the CNI configuration.
set -eu
. /etc/devcluster/settings
PKI=/etc/kubernetes/pki
ADDRESS=$(hostname -i | cut -d ' ' -f 1)
mkdir -p /var/log/kubernetes

mount --make-rshared /
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    # cgroup v2: a group with processes cannot hand controllers on, so they go into one of their own.
    mkdir -p /sys/fs/cgroup/init
    xargs -rn1 </sys/fs/cgroup/cgroup.procs >/sys/fs/cgroup/init/cgroup.procs 2>/dev/null || true
    sed -e 's/ / +/g' -e 's/^/+/' </sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
else
    # What pods of an earlier run left is gone through by the kubelet, seconds each, before it looks at any pod.
    find /sys/fs/cgroup -depth -type d -path "*/$CGROUP/*" -exec rmdir {} + 2>/dev/null || true
    for controller in /sys/fs/cgroup/*/; do mkdir -p "$controller/$CGROUP" 2>/dev/null || true; done
    cpuset=/sys/fs/cgroup/cpuset
    if [ -d "$cpuset/$CGROUP" ]; then
        for file in cpuset.cpus cpuset.mems; do cat "$cpuset/$file" >"$cpuset/$CGROUP/$file"; done
    fi
fi

keep() {
    name=$1
    shift
    (while :; do
        "$@" >>"/var/log/kubernetes/$name.log" 2>&1 || true
        sleep 0.5
    done) &
}

keep containerd containerd
keep etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
keep apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --advertise-address="$ADDRESS" \
    --tls-cert-file=$PKI/apiserver.crt --tls-private-key-file=$PKI/apiserver.key --client-ca-file=$PKI/ca.crt \
    --kubelet-client-certificate=$PKI/apiserver-kubelet-client.crt --kubelet-client-key=$PKI/apiserver-kubelet-client.key \
    --kubelet-certificate-authority=$PKI/ca.crt --kubelet-preferred-address-types=Hostname \
    --service-account-key-file=$PKI/service-account.crt --service-account-signing-key-file=$PKI/service-account.key \
    --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range="$SERVICES" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true
keep controller-manager kube-controller-manager --kubeconfig=/etc/kubernetes/controller-manager.conf --leader-elect=false \
    --root-ca-file=$PKI/ca.crt --service-account-private-key-file=$PKI/service-account.key \
    --cluster-signing-cert-file=$PKI/ca.crt --cluster-signing-key-file=$PKI/ca.key --use-service-account-credentials=true \
    --allocate-node-cidrs=true --cluster-cidr="$PODS" --service-cluster-ip-range="$SERVICES" $NODE_MASKS
keep scheduler kube-scheduler --kubeconfig=/etc/kubernetes/scheduler.conf --leader-elect=false
keep kubelet kubelet --kubeconfig=/etc/kubernetes/kubelet.conf --config=/etc/devcluster/kubelet.yaml \
    --hostname-override=node --node-ip="$ADDRESS"
keep proxy kube-proxy --kubeconfig=/etc/kubernetes/proxy.conf --hostname-override=node --proxy-mode=iptables \
    --cluster-cidr="$PODS" --conntrack-max-per-core=0

# What no Service has is refused; it would leave the node otherwise, to wherever the engine's host sends it.
for subnet in $(echo "$SERVICES" | tr , ' '); do
    tables=iptables
    case $subnet in *:*)
        tables=ip6tables
        # There may be no default route; without any a packet does not come as far as the rules.
        ip -6 route replace "$subnet" dev eth0
        ;;
    esac
    for chain in FORWARD OUTPUT; do
        "$tables" -A "$chain" -d "$subnet" -p tcp -j REJECT --reject-with tcp-reset
        "$tables" -A "$chain" -d "$subnet" -j REJECT
    done
done

trap 'exit 0' TERM INT
while :; do
    sleep 3600 &
    wait $!
done
