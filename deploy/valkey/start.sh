#!/bin/sh
# Starts the server with users whose passwords come from secrets. Only their hashes reach the server.
# Environment: the folders SECRETS, CONFIG (valkey.conf and users.acl), RUN (writable) and DATA; MAXMEMORY.
# Arguments go to the server.
set -eu
umask 077
secrets=${SECRETS:-/run/secrets}
config=${CONFIG:-/etc/valkey}
run=${RUN:-/run/valkey}
data=${DATA:-/data}

hash_of() {
    password=$(head -n 1 "$secrets/$1")
    if [ "${#password}" -lt 16 ]; then
        echo "start.sh: $secrets/$1 must hold a password of at least 16 characters" >&2
        exit 1
    fi
    printf %s "$password" | sha256sum | cut -d ' ' -f 1
}

worker=$(hash_of worker_password)
producer=$(hash_of producer_password)
monitor=$(hash_of monitor_password)
scaler=$(hash_of scaler_password)
admin=$(hash_of admin_password)
sed -e '/^#/d' -e '/^$/d' -e ':join' -e '/\\$/{N;s/ *\\\n */ /;b join' -e '}' \
    -e "s/\${WORKER}/$worker/" -e "s/\${PRODUCER}/$producer/" \
    -e "s/\${MONITOR}/$monitor/" -e "s/\${SCALER}/$scaler/" -e "s/\${ADMIN}/$admin/" \
    "$config/users.acl" >"$run/users.acl"

if [ -e "$secrets/valkey_tls_key" ]; then
    set -- --port 0 --tls-port 6379 --tls-auth-clients no \
        --tls-cert-file "$secrets/valkey_tls_cert" --tls-key-file "$secrets/valkey_tls_key" "$@"
fi
exec valkey-server "$config/valkey.conf" --dir "$data" --aclfile "$run/users.acl" \
    --maxmemory "${MAXMEMORY:-1gb}" "$@"
