// A long job: renew its lock, see who holds it, lose it. The same as locks.sh and locks.py.
const url = process.env.QRUSTY_URL ?? "http://127.0.0.1:6784"

/** Print the request and its response. Returns the response, parsed. */
async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json" }
  const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) })
  const text = await response.text()
  console.log(`${method} ${path}\n  ${text}`)
  return JSON.parse(text || "null")
}

// A message, locked for 10 seconds.
await ask("POST", "/publish", { queue: "locks", priority: 1, payload: "a long job" })
const first = (await ask("POST", "/consume/locks", { consumer_id: "worker-1", timeout_seconds: 10 })).id

// The work takes longer: 60 seconds from now.
await ask("POST", `/renew/locks/${first}`, { consumer_id: "worker-1", timeout_seconds: 60 })

// Who holds what?
await ask("GET", "/queues/locks/locks")

// Nobody else gets it, and nobody else can ack it.
await ask("POST", "/consume/locks", { consumer_id: "worker-2" })
await ask("POST", `/ack/locks/${first}`, { consumer_id: "worker-2" })

// The worker is known to be dead: take its messages away. They do not count as failed.
await ask("POST", "/force-unlock/locks", { consumer_id: "worker-1" })
await ask("POST", "/consume/locks", { consumer_id: "worker-2" })

// If it was not dead, its ack comes too late. Its work was done twice, so it must be safe to repeat.
await ask("POST", `/ack/locks/${first}`, { consumer_id: "worker-1" })
await ask("POST", `/ack/locks/${first}`, { consumer_id: "worker-2" })

// Tidy up.
await ask("DELETE", "/delete-queue/locks")
