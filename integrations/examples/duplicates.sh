#!/usr/bin/env bash
# A queue that refuses duplicates, so that a publish can be repeated. The same as duplicates.py and duplicates.mjs.
set -euo pipefail
url="${QRUSTY_URL:-http://127.0.0.1:6784}"

# ask METHOD PATH [JSON]: print the request and its response, and keep the response in $answer.
ask() {
  answer="$(curl -s -X "$1" "$url$2" ${3+-H 'Content-Type: application/json' -d "$3"})"
  printf '%s %s\n  %s\n' "$1" "$2" "$answer"
}

# id [NUMBER]: an id in $answer, the first if not said.
id() { grep -o '"id":"[^"]*"' <<< "$answer" | sed -n "${1:-1}p" | cut -d '"' -f 4; }

# Payloads are compared with those that wait or are locked.
ask POST /create-queue '{"name": "once", "config": {"ordering": "MaxFirst", "allow_duplicates": false}}'
ask POST /publish '{"queue": "once", "priority": 1, "payload": "invoice 4711"}'

# The response was lost, say. The same publish again does no harm: the code says that the message is there.
ask POST /publish '{"queue": "once", "priority": 1, "payload": "invoice 4711"}'
ask POST /consume/once '{"consumer_id": "me"}'
first="$(id)"

# It is still refused while somebody works on it.
ask POST /publish '{"queue": "once", "priority": 9, "payload": "invoice 4711"}'
ask POST "/ack/once/$first" '{"consumer_id": "me"}'

# After the ack, it is a new one.
ask POST /publish '{"queue": "once", "priority": 1, "payload": "invoice 4711"}'

# Tidy up.
ask DELETE /delete-queue/once
