#!/bin/sh
# As the official image's: on the first start a database with the user and the password that the environment names.
set -eu
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
mkdir -p "$PGDATA" /run/postgresql
chown postgres:postgres "$PGDATA" /run/postgresql
chmod 700 "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  password=$(mktemp)
  echo "$POSTGRES_PASSWORD" >"$password"
  chown postgres "$password"
  as_postgres initdb --auth scram-sha-256 --username "$POSTGRES_USER" --pwfile "$password"
  rm "$password"
  echo "CREATE DATABASE $POSTGRES_DB" | as_postgres postgres --single -D "$PGDATA" postgres
fi
# On the machine's own network, where the test is, and not on all of its interfaces.
exec setpriv --reuid postgres --regid postgres --clear-groups postgres -D "$PGDATA" -h 127.0.0.1 -p "$PGPORT"
