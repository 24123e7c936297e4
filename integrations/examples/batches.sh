#!/usr/bin/env bash
# Many messages in one request: publish, consume, ack, nack, renew. The same as batches.py and batches.mjs.
set -euo pipefail
url="${QRUSTY_URL:-http://127.0.0.1:6784}"

# ask METHOD PATH [JSON]: print the request and its response, and keep the response in $answer.
ask() {
  answer="$(curl -s -X "$1" "$url$2" ${3+-H 'Content-Type: application/json' -d "$3"})"
  printf '%s %s\n  %s\n' "$1" "$2" "$answer"
}

# id [NUMBER]: an id in $answer, the first if not said.
id() { grep -o '"id":"[^"]*"' <<< "$answer" | sed -n "${1:-1}p" | cut -d '"' -f 4; }

# One request, one sync. What the queue refuses is named, and the others are there.
ask POST /create-queue '{"name": "batches", "config": {"ordering": "Fifo"}}'
ask POST /publish-batch '{"queue": "batches", "messages": [{"priority": 0, "payload": "one"}, {"priority": 0, "payload": "two"}, {"priority": "text", "payload": "refused"}, {"priority": 0, "payload": "three"}]}'

# Up to so many at a time, each with its own lock.
ask POST /consume-batch/batches '{"consumer_id": "me", "max_messages": 2, "timeout_seconds": 60}'
first="$(id 1)" second="$(id 2)"

# More time for both.
ask POST /renew-batch/batches '{"consumer_id": "me", "message_ids": ["'"$first"'", "'"$second"'"], "timeout_seconds": 120}'

# The first is done, the second is not.
ask POST /ack-batch/batches '{"consumer_id": "me", "message_ids": ["'"$first"'"]}'
ask POST /nack-batch/batches '{"consumer_id": "me", "message_ids": ["'"$second"'"], "error": "not today"}'

# An id that this consumer does not hold is named, and harms nothing.
ask POST /ack-batch/batches '{"consumer_id": "me", "message_ids": ["'"$first"'"]}'

# The second took its old place.
ask POST /consume-batch/batches '{"consumer_id": "me", "max_messages": 10}'

# Tidy up.
ask DELETE /delete-queue/batches
