#!/bin/sh
# Starts a Redis of docker-compose.yml: redis.sh FORM, where FORM is "sentinels" for a Sentinel, and otherwise the profile.
# Servers that are promoted, demoted or introduced to each other write that into their configuration, so each has its own in
# its volume, which includes the shared one beside this file.
set -eu
form=$1
own=/data/$form.conf
# Its address is fixed (fixed-addresses.yml). A name would not do: it cannot be resolved while its container is stopped.
first() { getent hosts redis | { read -r address _ && echo "$address"; }; }
if [ "$form" = sentinels ]; then
    # A Sentinel does not include files.
    [ -f "$own" ] || { sed "s/FIRST/$(first)/" "/etc/wardcast/$form.conf" >"$own.new" && mv "$own.new" "$own"; }
    exec redis-server "$own" --sentinel
fi
if [ ! -f "$own" ]; then
    {
        echo "include /etc/wardcast/$form.conf"
        # The first one begins as the master. Later the Sentinels decide.
        [ "$form" != sentinel ] || [ "$(hostname)" = redis ] || echo "replicaof $(first) 6379"
    } >"$own.new"
    mv "$own.new" "$own"
fi
# The service "certificates" writes them, once.
while [ "$form" = tls ] && [ ! -f /tls/complete ]; do sleep 0.2; done
exec redis-server "$own"
