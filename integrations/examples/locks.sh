#!/usr/bin/env bash
# A long job: renew its lock, see who holds it, lose it. The same as locks.py and locks.mjs.
set -euo pipefail
url="${QRUSTY_URL:-http://127.0.0.1:6784}"

# ask METHOD PATH [JSON]: print the request and its response, and keep the response in $answer.
ask() {
  answer="$(curl -s -X "$1" "$url$2" ${3+-H 'Content-Type: application/json' -d "$3"})"
  printf '%s %s\n  %s\n' "$1" "$2" "$answer"
}

# id [NUMBER]: an id in $answer, the first if not said.
id() { grep -o '"id":"[^"]*"' <<< "$answer" | sed -n "${1:-1}p" | cut -d '"' -f 4; }

# A message, locked for 10 seconds.
ask POST /publish '{"queue": "locks", "priority": 1, "payload": "a long job"}'
ask POST /consume/locks '{"consumer_id": "worker-1", "timeout_seconds": 10}'
first="$(id)"

# The work takes longer: 60 seconds from now.
ask POST "/renew/locks/$first" '{"consumer_id": "worker-1", "timeout_seconds": 60}'

# Who holds what?
ask GET /queues/locks/locks

# Nobody else gets it, and nobody else can ack it.
ask POST /consume/locks '{"consumer_id": "worker-2"}'
ask POST "/ack/locks/$first" '{"consumer_id": "worker-2"}'

# The worker is known to be dead: take its messages away. They do not count as failed.
ask POST /force-unlock/locks '{"consumer_id": "worker-1"}'
ask POST /consume/locks '{"consumer_id": "worker-2"}'

# If it was not dead, its ack comes too late. Its work was done twice, so it must be safe to repeat.
ask POST "/ack/locks/$first" '{"consumer_id": "worker-1"}'
ask POST "/ack/locks/$first" '{"consumer_id": "worker-2"}'

# Tidy up.
ask DELETE /delete-queue/locks
