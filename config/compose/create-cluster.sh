#!/bin/sh
# Joins the six nodes of the profile "cluster", once: three masters, each with a replica.
set -eu
nodes="redis redis-2 redis-3 redis-4 redis-5 redis-6"
addresses=
for node in $nodes; do
    until redis-cli -h "$node" ping 2>/dev/null | grep -q PONG; do sleep 0.2; done
    address=$(getent hosts "$node" | { read -r address _ && echo "$address"; })
    addresses="$addresses $address:6379"
done
if redis-cli -h redis cluster info | grep -q "cluster_known_nodes:1.$"; then
    # shellcheck disable=SC2086 # a list
    redis-cli --cluster create $addresses --cluster-replicas 1 --cluster-yes
fi
until redis-cli -h redis cluster info | grep -q "cluster_state:ok"; do sleep 0.2; done
echo "the cluster is complete"
