#!/bin/sh
# Starts one Redis node: start-redis.sh primary|replica. Secrets come from /run/secrets, the rest from redis.conf.
# ANNOUNCE is the address at which the others reach this node; PRIMARY is the first primary's.
set -eu

: "${ANNOUNCE:?the address of this node}"
role=$1
secret() { cat "/run/secrets/$1"; }
digest() { printf %s "$(secret "$1")" | sha256sum | cut -d' ' -f1; }

users=/run/redis/users.acl
umask 077
cat >"$users" <<ACL
user default off
user mainstay on #$(digest redis-password) ~* &* +@all -@admin -@dangerous +info +role +client|setname +client|id
user replicator on #$(digest redis-replication-password) +psync +replconf +ping
user sentinel on #$(digest redis-sentinel-password) &* +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info +client|setname +client|kill +script|kill
user monitor on #$(digest redis-monitor-password) +info +ping
user operator on #$(digest redis-sentinel-password) ~* &* +@all -flushall -flushdb -debug -shutdown -module
ACL

# The role lives in this file: Sentinel changes it at a failover and has it rewritten (CONFIG REWRITE), so that a node
# that comes back does not take itself for what it was at the first start.
config=/data/redis.conf
if [ ! -s "$config" ]; then
  echo "include /etc/mainstay/redis.conf" >"$config"
  [ "$role" = primary ] || echo "replicaof ${PRIMARY:?the address of the first primary} 6379" >>"$config"
fi

set -- "$config" \
  --aclfile "$users" \
  --masteruser replicator --masterauth "$(secret redis-replication-password)" \
  --replica-announce-ip "$ANNOUNCE" --replica-announce-port 6379
if [ "$role" = primary ]; then
  # The first primary takes writes only while a replica follows closely: what it acknowledged is then on two machines.
  # The other does not ask for this, so that it can take writes alone after a failover.
  set -- "$@" --min-replicas-to-write 1 --min-replicas-max-lag 1
fi
exec redis-server "$@"
