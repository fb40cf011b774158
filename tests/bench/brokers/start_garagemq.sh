#!/bin/sh
# start_garagemq.sh PORT [STATE]   (re)start an empty GarageMQ on loopback; prints its pid.
# Stops only the instance this script started before on the same port.
set -e
PORT=$1
S=${2:-${TMPDIR:-/tmp}/leveret-bench}/garagemq-$PORT
command -v garagemq > /dev/null || { echo "garagemq is not installed: apt-get install garagemq" >&2; exit 1; }
if [ -f "$S/pid" ] && [ -d "/proc/$(cat "$S/pid")" ] && tr '\0' ' ' < "/proc/$(cat "$S/pid")/cmdline" 2> /dev/null | grep -q "$S/config.yaml"; then
    OLD=$(cat "$S/pid")
    kill -9 "$OLD" 2> /dev/null || true
    i=0
    while [ -d "/proc/$OLD" ] && [ $i -lt 50 ]; do sleep 0.1; i=$((i + 1)); done
fi
rm -rf "$S"
mkdir -p "$S"
# the packaged configuration, with only ports, data folder and nodelay changed: with Nagle's
# algorithm it would look forty milliseconds slow
sed -e "s/port: 5672/port: $PORT/; s/port: 15672/port: $((PORT + 10000))/; s#/var/lib/garagemq/db#$S/db#" \
    -e "s/nodelay: false/nodelay: true/" /etc/garagemq/config.yaml > "$S/config.yaml"
ulimit -n "$(ulimit -Hn)"
cd "$S"
setsid garagemq --config "$S/config.yaml" --log-level warning > "$S/log" 2>&1 < /dev/null &
echo $! > "$S/pid"
i=0
while ! ss -Hltn "sport = :$PORT" | grep -q LISTEN; do
    sleep 0.1
    i=$((i + 1))
    [ $i -gt 100 ] && { echo "garagemq did not start; see $S/log" >&2; exit 1; }
done
cat "$S/pid"
