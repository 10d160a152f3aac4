#!/bin/sh
# Makes an authority and certificates for the profile "tls", once: for Redis, for the hubs as its clients, and for the load
# balancer. They are valid for ten years, and only for trying TLS out: in production use those of your own authority.
set -eu
cd /var/lib/haproxy
[ ! -f complete ] || exit 0
days=3650
key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null || openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
issue() {
    key "$1-key.pem"
    openssl req -new -key "$1-key.pem" -subj "/CN=$2" -out "$1.csr"
    printf 'subjectAltName=%s\nbasicConstraints=critical,CA:FALSE\n' "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days $days -extfile "$1.ext" -out "$1.pem"
    rm "$1.csr" "$1.ext"
}
key ca-key.pem
openssl req -x509 -new -key ca-key.pem -days $days -subj "/CN=Wardcast of docker compose" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -out ca.pem
issue redis redis DNS:redis
issue hub hub DNS:hub
issue balancer localhost DNS:localhost,IP:127.0.0.1
cat balancer.pem balancer-key.pem >balancer.all
# Only services with this volume see them. Redis, hubs and load balancer run as different users.
chmod 644 ./*.pem balancer.all
rm ca-key.pem
touch complete
echo "certificates have been made"
