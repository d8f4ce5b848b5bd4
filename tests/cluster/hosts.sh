#!/usr/bin/env bash
# Two machines on one: network namespaces with names of their own and a cable between them, Open MPI over TCP.
#
#   bash tests/cluster/hosts.sh RATE ARGUMENTS     for example: hosts.sh 1gbit train --model resnet8 --out /tmp/x
#
# Runs `mpirun -n 2 resnet ARGUMENTS`, one process on each machine. RATE is one that `tc` knows, or `unlimited`. RESNET is a
# `resnet` built with --features mpi. Needs root, and `ip` and `tc` (iproute2).
set -euo pipefail
rate=$1
shift
resnet=${RESNET:?set RESNET to a resnet built with --features mpi}
one=cluster-one two=cluster-two
agent=$(mktemp)
cleanup() {
  ip netns delete $one 2>/dev/null || true
  ip netns delete $two 2>/dev/null || true
  rm -rf /etc/netns/$one /etc/netns/$two "$agent"
}
trap cleanup EXIT
cleanup

ip netns add $one
ip netns add $two
ip link add veth-one netns $one type veth peer name veth-two netns $two
for side in one two; do
  ns=cluster-$side
  mkdir -p /etc/netns/$ns
  printf '127.0.0.1 localhost\n10.77.0.1 %s\n10.77.0.2 %s\n' $one $two >/etc/netns/$ns/hosts
  ip -n $ns link set lo up
  ip -n $ns address add 10.77.0.$([ $side = one ] && echo 1 || echo 2)/24 dev veth-$side
  ip -n $ns link set veth-$side up
  [ "$rate" = unlimited ] || tc -n $ns qdisc add dev veth-$side root tbf rate "$rate" burst 256kb latency 20ms
done
# What mpirun calls instead of ssh: a host, and a command line for its shell.
printf '#!/bin/bash\nhost=$1; shift\nexec ip netns exec "$host" unshare --uts bash -c "hostname $host; $*"\n' >"$agent"
chmod +x "$agent"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
arguments=$(printf '%q ' "$resnet" "$@")
ip netns exec $one unshare --uts bash -c "hostname $one; exec timeout 900 mpirun --host $one,$two -n 2 --bind-to none \
  --mca plm_rsh_agent $agent --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
  $arguments"
