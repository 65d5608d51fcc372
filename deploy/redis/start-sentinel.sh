#!/bin/sh
# Starts one Sentinel. ANNOUNCE is its own name, PRIMARY the first primary's. What Sentinel learned survives in /data.
set -eu

: "${ANNOUNCE:?the name of this Sentinel}" "${PRIMARY:?the name of the first primary}"
secret() { cat "/run/secrets/$1"; }
config=/data/sentinel.conf
umask 077
if [ ! -s "$config" ]; then
  {
    # Names must be allowed before one is used.
    grep -E '^sentinel (resolve|announce)-hostnames' /etc/mainstay/sentinel.conf
    echo "sentinel monitor mainstay $PRIMARY 6379 2"
    echo "sentinel auth-user mainstay sentinel"
    echo "sentinel auth-pass mainstay $(secret redis-sentinel-password)"
    echo "sentinel announce-ip $ANNOUNCE"
    echo "sentinel announce-port 26379"
    echo "requirepass $(secret redis-sentinel-password)"
    echo "sentinel sentinel-pass $(secret redis-sentinel-password)"
    grep -vE '^sentinel (resolve|announce)-hostnames|^#' /etc/mainstay/sentinel.conf
    echo "dir /data"
  } >"$config"
fi
exec redis-server "$config" --sentinel
