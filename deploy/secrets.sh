#!/bin/sh
# Makes the passwords that docker-compose.yml and deploy/kubernetes read; keeps those that are there.
# Argument: the folder, by default secrets.
set -eu
folder=${1:-secrets}
# The folder keeps other people of this machine out; the files are read by containers under other user ids.
mkdir -p "$folder"
chmod 700 "$folder"
for user in worker producer monitor scaler admin grafana; do
    file=$folder/${user}_password
    if [ ! -e "$file" ]; then
        head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' >"$file"
        chmod 444 "$file"
        echo "$file is new"
    fi
done
