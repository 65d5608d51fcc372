#!/bin/sh
# Starts one Sentinel. ANNOUNCE is its own address, PRIMARY the first primary's. What Sentinel learned survives in /data.
set -eu

: "${ANNOUNCE:?the address of this Sentinel}" "${PRIMARY:?the address of the first primary}"
secret() { cat "/run/secrets/$1"; }
config=/data/sentinel.conf
umask 077
if [ ! -s "$config" ]; then
  {
    echo "sentinel monitor mainstay $PRIMARY 6379 2"
    echo "sentinel auth-user mainstay sentinel"
    echo "sentinel auth-pass mainstay $(secret redis-sentinel-password)"
    echo "sentinel announce-ip $ANNOUNCE"
    echo "sentinel announce-port 26379"
    echo "requirepass $(secret redis-sentinel-password)"
    echo "sentinel sentinel-pass $(secret redis-sentinel-password)"
    grep -v '^#' /etc/mainstay/sentinel.conf
    echo "dir /data"
  } >"$config"
fi
exec redis-server "$config" --sentinel
