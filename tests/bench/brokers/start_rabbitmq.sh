#!/bin/sh
# start_rabbitmq.sh PORT [STATE]   (re)start a private, empty RabbitMQ node on loopback; prints the
# pid of its beam.smp. Stops only the node this script started before on the same port.
set -e
PORT=$1
S=${2:-${TMPDIR:-/tmp}/leveret-bench}/rabbitmq-$PORT
NODE=bench$PORT@localhost
SERVER=/usr/lib/rabbitmq/bin/rabbitmq-server
[ -x "$SERVER" ] || { echo "RabbitMQ is not installed: apt-get install rabbitmq-server" >&2; exit 1; }
if [ -f "$S/pid" ] && [ -d "/proc/$(cat "$S/pid")" ] && tr '\0' '\n' < "/proc/$(cat "$S/pid")/environ" 2> /dev/null | grep -q "^RABBITMQ_NODENAME=$NODE$"; then
    OLD=$(cat "$S/pid")
    kill "$OLD" 2> /dev/null || true
    i=0
    while [ -d "/proc/$OLD" ] && [ $i -lt 25 ]; do sleep 0.2; i=$((i + 1)); done
    [ -d "/proc/$OLD" ] && kill -9 "$OLD" && sleep 0.5
fi
rm -rf "$S"
mkdir -p "$S/home" "$S/mnesia" "$S/log"
cat > "$S/rabbitmq.conf" << CONF
listeners.tcp.1 = 127.0.0.1:$PORT
management.tcp.ip = 127.0.0.1
management.tcp.port = $((PORT + 10000))
CONF
echo '[rabbitmq_management].' > "$S/enabled_plugins"
: > "$S/rabbitmq-env.conf"
ulimit -n "$(ulimit -Hn)"
cd "$S"
export HOME="$S/home" RABBITMQ_NODENAME=$NODE RABBITMQ_BASE="$S" RABBITMQ_MNESIA_BASE="$S/mnesia" \
    RABBITMQ_LOG_BASE="$S/log" RABBITMQ_CONFIG_FILE="$S/rabbitmq.conf" \
    RABBITMQ_ADVANCED_CONFIG_FILE="$S/none.config" RABBITMQ_CONF_ENV_FILE="$S/rabbitmq-env.conf" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$S/enabled_plugins" RABBITMQ_DIST_PORT=$((PORT + 20000)) \
    RABBITMQ_NODE_PORT=$PORT RABBITMQ_PID_FILE="$S/pid"
"$SERVER" -detached > "$S/start.out" 2>&1 < /dev/null
# the log says when the node is complete; the listener opens a little earlier
i=0
while ! grep -q 'Server startup complete' "$S"/log/*.log 2> /dev/null; do
    sleep 0.2
    i=$((i + 1))
    [ $i -gt 300 ] && { echo "RabbitMQ did not start; see $S/log" >&2; exit 1; }
done
cat "$S/pid"
echo
