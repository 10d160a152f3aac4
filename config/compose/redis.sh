#!/bin/sh
# Starts a Redis of docker-compose.yml: redis.sh FORM, where FORM is "sentinels" for a Sentinel, and otherwise the profile.
# Servers that are promoted, demoted or introduced to each other write that into their configuration, so each has its own in
# its volume, which includes the shared one beside this file.
set -eu
form=$1
own=/data/$form.conf
if [ "$form" = sentinels ]; then
    # A Sentinel does not include files.
    [ -f "$own" ] || cp "/etc/wardcast/$form.conf" "$own"
    exec redis-server "$own" --sentinel
fi
if [ ! -f "$own" ]; then
    {
        echo "include /etc/wardcast/$form.conf"
        case $form in
        cluster) echo "cluster-announce-hostname $(hostname)" ;;
        sentinel)
            echo "replica-announce-ip $(hostname)"
            # The first one begins as the master. Later the Sentinels decide.
            [ "$(hostname)" = redis ] || echo "replicaof redis 6379"
            ;;
        esac
    } >"$own.new"
    mv "$own.new" "$own"
fi
# The service "certificates" writes them, once.
while [ "$form" = tls ] && [ ! -f /tls/complete ]; do sleep 0.2; done
exec redis-server "$own"
