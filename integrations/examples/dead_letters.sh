#!/usr/bin/env bash
# Why messages died, putting them back, and purging the rest. The same as dead_letters.py and dead_letters.mjs.
set -euo pipefail
url="${QRUSTY_URL:-http://127.0.0.1:6784}"

# ask METHOD PATH [JSON]: print the request and its response, and keep the response in $answer.
ask() {
  answer="$(curl -s -X "$1" "$url$2" ${3+-H 'Content-Type: application/json' -d "$3"})"
  printf '%s %s\n  %s\n' "$1" "$2" "$answer"
}

# id [NUMBER]: an id in $answer, the first if not said.
id() { grep -o '"id":"[^"]*"' <<< "$answer" | sed -n "${1:-1}p" | cut -d '"' -f 4; }

# Three messages that get one try each.
ask POST /publish-batch '{"queue": "letters", "messages": [{"priority": 3, "payload": "to nobody", "max_retries": 1}, {"priority": 2, "payload": "without a stamp", "max_retries": 1}, {"priority": 1, "payload": "to someone", "max_retries": 1}]}'

# The worker says why it can't do them.
ask POST /consume/letters '{"consumer_id": "postman"}'
first="$(id)"
ask POST "/nack/letters/$first" '{"consumer_id": "postman", "error": "no such address"}'
ask POST /consume/letters '{"consumer_id": "postman"}'
second="$(id)"
ask POST "/nack/letters/$second" '{"consumer_id": "postman", "error": "no stamp"}'
ask POST /consume/letters '{"consumer_id": "postman"}'
third="$(id)"
ask POST "/nack/letters/$third" '{"consumer_id": "postman", "error": "no such address"}'

# All of them, then those of one reason.
ask GET /queues/letters/dead-letters
ask GET "/queues/letters/dead-letters?text=no+stamp"

# What a requeue would do. It does nothing yet.
ask POST /queues/letters/dead-letters/requeue '{"filter": {"text": "no such address"}, "dry_run": true}'

# One goes back to its queue, another one to a queue for people.
ask POST /create-queue '{"name": "by-hand", "config": {"ordering": "Fifo"}}'
ask POST /queues/letters/dead-letters/requeue '{"ids": ["'"$second"'"]}'
ask POST /queues/letters/dead-letters/requeue '{"ids": ["'"$third"'"], "to": "by-hand", "priority": 5}'
ask POST /consume/letters '{"consumer_id": "postman"}'
ask POST /consume/by-hand '{"consumer_id": "me"}'

# The rest is purged for good.
ask POST /queues/letters/dead-letters/purge '{"all": true}'

# Tidy up.
ask DELETE /delete-queue/letters
ask DELETE /delete-queue/by-hand
