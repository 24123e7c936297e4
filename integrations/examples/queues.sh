#!/usr/bin/env bash
# Queues are made, looked at, renamed, protected, emptied and deleted. The same as queues.py and queues.mjs.
set -euo pipefail
url="${QRUSTY_URL:-http://127.0.0.1:6784}"

# ask METHOD PATH [JSON]: print the request and its response, and keep the response in $answer.
ask() {
  answer="$(curl -s -X "$1" "$url$2" ${3+-H 'Content-Type: application/json' -d "$3"})"
  printf '%s %s\n  %s\n' "$1" "$2" "$answer"
}

# A queue that refuses duplicates, and keeps dead letters for two weeks.
ask POST /create-queue \
  '{"name": "mail", "config": {"ordering": "MaxFirst", "allow_duplicates": false, "dead_letter_ttl_seconds": 1209600}}'
ask POST /publish '{"queue": "mail", "priority": 5, "payload": "dear reader"}'
ask POST /publish '{"queue": "mail", "priority": 9, "payload": "dear reader"}'

# Look: all queues, those in trouble first, one of them, and its next messages.
ask GET /queues
ask GET '/queue-list?sort=trouble&order=desc&limit=1'
ask GET /queue-stats/mail
ask GET '/queues/mail/messages?limit=10'

# Rename it. The message is still there.
ask POST /update-queue '{"name": "mail", "config": {"name": "letters"}}'
ask GET /queue-stats/letters

# Protect it. A purge is refused until that is lifted.
ask POST /update-queue '{"name": "letters", "config": {"protected": true}}'
ask POST /purge-queue/letters
ask POST /update-queue '{"name": "letters", "config": {"protected": false}}'
ask POST /purge-queue/letters

# Delete it. A queue that does not exist can be deleted, too.
ask DELETE /delete-queue/letters
ask DELETE /delete-queue/letters

# A name that no path can carry goes into the query.
ask POST /publish '{"queue": "eu/orders", "priority": 1, "payload": "one"}'
ask POST '/consume?queue=eu%2Forders' '{"consumer_id": "me"}'
ask DELETE '/delete-queue?queue=eu%2Forders'
