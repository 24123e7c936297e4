// Why messages died, putting them back, and purging the rest. The same as dead_letters.sh and dead_letters.py.
const url = process.env.QRUSTY_URL ?? "http://127.0.0.1:6784"

/** Print the request and its response. Returns the response, parsed. */
async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json" }
  const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) })
  const text = await response.text()
  console.log(`${method} ${path}\n  ${text}`)
  return JSON.parse(text || "null")
}

// Three messages that get one try each.
await ask("POST", "/publish-batch", { queue: "letters", messages: [{ priority: 3, payload: "to nobody", max_retries: 1 }, { priority: 2, payload: "without a stamp", max_retries: 1 }, { priority: 1, payload: "to someone", max_retries: 1 }] })

// The worker says why it can't do them.
const first = (await ask("POST", "/consume/letters", { consumer_id: "postman" })).id
await ask("POST", `/nack/letters/${first}`, { consumer_id: "postman", error: "no such address" })
const second = (await ask("POST", "/consume/letters", { consumer_id: "postman" })).id
await ask("POST", `/nack/letters/${second}`, { consumer_id: "postman", error: "no stamp" })
const third = (await ask("POST", "/consume/letters", { consumer_id: "postman" })).id
await ask("POST", `/nack/letters/${third}`, { consumer_id: "postman", error: "no such address" })

// All of them, then those of one reason.
await ask("GET", "/queues/letters/dead-letters")
await ask("GET", "/queues/letters/dead-letters?text=no+stamp")

// What a requeue would do. It does nothing yet.
await ask("POST", "/queues/letters/dead-letters/requeue", { filter: { text: "no such address" }, dry_run: true })

// One goes back to its queue, another one to a queue for people.
await ask("POST", "/create-queue", { name: "by-hand", config: { ordering: "Fifo" } })
await ask("POST", "/queues/letters/dead-letters/requeue", { ids: [second] })
await ask("POST", "/queues/letters/dead-letters/requeue", { ids: [third], to: "by-hand", priority: 5 })
await ask("POST", "/consume/letters", { consumer_id: "postman" })
await ask("POST", "/consume/by-hand", { consumer_id: "me" })

// The rest is purged for good.
await ask("POST", "/queues/letters/dead-letters/purge", { all: true })

// Tidy up.
await ask("DELETE", "/delete-queue/letters")
await ask("DELETE", "/delete-queue/by-hand")
