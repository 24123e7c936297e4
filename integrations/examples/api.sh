#!/usr/bin/env bash
# The life of two messages: one is acked, one fails and is requeued. The same as api.py and api.mjs.
set -euo pipefail
url="${QRUSTY_URL:-http://127.0.0.1:6784}"

# ask METHOD PATH [JSON]: print the request and its response, and keep the response in $answer.
ask() {
  answer="$(curl -s -X "$1" "$url$2" ${3+-H 'Content-Type: application/json' -d "$3"})"
  printf '%s %s\n  %s\n' "$1" "$2" "$answer"
}

# The id of the message in the last response.
id() {
  sed -n 's/.*"id":"\([^"]*\)".*/\1/p' <<< "$answer"
}

# Make a queue, and publish: the response has the id.
ask POST /create-queue '{"name": "api", "config": {"ordering": "MaxFirst"}}'
ask POST /publish '{"queue": "api", "priority": 1, "payload": "sweep the yard", "max_retries": 1}'
ask POST /publish '{"queue": "api", "priority": 9, "payload": "put out the fire"}'

# Consume: the highest priority comes first, and is locked for 60 seconds.
ask POST /consume/api '{"consumer_id": "me", "timeout_seconds": 60}'
fire="$(id)"

# It takes longer than that: renew the lock. Then ack.
ask POST "/renew/api/$fire" '{"consumer_id": "me", "timeout_seconds": 60}'
ask POST "/ack/api/$fire" '{"consumer_id": "me"}'

# The next one can't be done. It has one try, so a nack makes it a dead letter.
ask POST /consume/api '{"consumer_id": "me"}'
yard="$(id)"
ask POST "/nack/api/$yard" '{"consumer_id": "me", "error": "no broom"}'
ask GET /queues/api/dead-letters

# Requeue it, and do it.
ask POST /queues/api/dead-letters/requeue '{"ids": ["'"$yard"'"]}'
ask POST /consume/api '{"consumer_id": "me"}'
ask POST "/ack/api/$yard" '{"consumer_id": "me"}'

# Nothing is left: wait half a second for a message, in vain.
ask POST /consume/api '{"consumer_id": "me", "wait_seconds": 0.5}'

# Many messages in a request.
ask POST /publish-batch \
  '{"queue": "api", "messages": [{"priority": 1, "payload": "a"}, {"priority": 2, "payload": "b"}]}'
ask POST /consume-batch/api '{"consumer_id": "me", "max_messages": 10}'
ask GET /queue-stats/api
ask DELETE /delete-queue/api
