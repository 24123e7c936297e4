// Many messages in one request: publish, consume, ack, nack, renew. The same as batches.sh and batches.py.
const url = process.env.QRUSTY_URL ?? "http://127.0.0.1:6784"

/** Print the request and its response. Returns the response, parsed. */
async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json" }
  const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) })
  const text = await response.text()
  console.log(`${method} ${path}\n  ${text}`)
  return JSON.parse(text || "null")
}

// One request, one sync. What the queue refuses is named, and the others are there.
await ask("POST", "/create-queue", { name: "batches", config: { ordering: "Fifo" } })
await ask("POST", "/publish-batch", { queue: "batches", messages: [{ priority: 0, payload: "one" }, { priority: 0, payload: "two" }, { priority: "text", payload: "refused" }, { priority: 0, payload: "three" }] })

// Up to so many at a time, each with its own lock.
const taken = (await ask("POST", "/consume-batch/batches", { consumer_id: "me", max_messages: 2, timeout_seconds: 60 })).messages
const [first, second] = taken.map((message) => message.id)

// More time for both.
await ask("POST", "/renew-batch/batches", { consumer_id: "me", message_ids: [first, second], timeout_seconds: 120 })

// The first is done, the second is not.
await ask("POST", "/ack-batch/batches", { consumer_id: "me", message_ids: [first] })
await ask("POST", "/nack-batch/batches", { consumer_id: "me", message_ids: [second], error: "not today" })

// An id that this consumer does not hold is named, and harms nothing.
await ask("POST", "/ack-batch/batches", { consumer_id: "me", message_ids: [first] })

// The second took its old place.
await ask("POST", "/consume-batch/batches", { consumer_id: "me", max_messages: 10 })

// Tidy up.
await ask("DELETE", "/delete-queue/batches")
