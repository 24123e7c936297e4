// The life of two messages: one is acked, one fails and is requeued. The same as api.sh and api.py.
const url = process.env.QRUSTY_URL ?? "http://127.0.0.1:6784"

/** Print the request and its response. Returns the response, parsed. */
async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json" }
  const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) })
  const text = await response.text()
  console.log(`${method} ${path}\n  ${text}`)
  return JSON.parse(text || "null")
}

// Make a queue, and publish: the response has the id.
await ask("POST", "/create-queue", { name: "api", config: { ordering: "MaxFirst" } })
await ask("POST", "/publish", { queue: "api", priority: 1, payload: "sweep the yard", max_retries: 1 })
await ask("POST", "/publish", { queue: "api", priority: 9, payload: "put out the fire" })

// Consume: the highest priority comes first, and is locked for 60 seconds.
const fire = (await ask("POST", "/consume/api", { consumer_id: "me", timeout_seconds: 60 })).id

// It takes longer than that: renew the lock. Then ack.
await ask("POST", `/renew/api/${fire}`, { consumer_id: "me", timeout_seconds: 60 })
await ask("POST", `/ack/api/${fire}`, { consumer_id: "me" })

// The next one can't be done. It has one try, so a nack makes it a dead letter.
const yard = (await ask("POST", "/consume/api", { consumer_id: "me" })).id
await ask("POST", `/nack/api/${yard}`, { consumer_id: "me", error: "no broom" })
await ask("GET", "/queues/api/dead-letters")

// Requeue it, and do it.
await ask("POST", "/queues/api/dead-letters/requeue", { ids: [yard] })
await ask("POST", "/consume/api", { consumer_id: "me" })
await ask("POST", `/ack/api/${yard}`, { consumer_id: "me" })

// Nothing is left: wait half a second for a message, in vain.
await ask("POST", "/consume/api", { consumer_id: "me", wait_seconds: 0.5 })

// Many messages in a request.
await ask("POST", "/publish-batch", { queue: "api", messages: [{ priority: 1, payload: "a" }, { priority: 2, payload: "b" }] })
await ask("POST", "/consume-batch/api", { consumer_id: "me", max_messages: 10 })
await ask("GET", "/queue-stats/api")
await ask("DELETE", "/delete-queue/api")
