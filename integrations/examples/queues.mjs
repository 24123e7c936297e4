// Queues are made, looked at, renamed, protected, emptied and deleted. The same as queues.sh and queues.py.
const url = process.env.QRUSTY_URL ?? "http://127.0.0.1:6784"

/** Print the request and its response. Returns the response, parsed. */
async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json" }
  const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) })
  const text = await response.text()
  console.log(`${method} ${path}\n  ${text}`)
  return JSON.parse(text || "null")
}

// A queue that refuses duplicates, and keeps dead letters for two weeks.
await ask("POST", "/create-queue", { name: "mail", config: { ordering: "MaxFirst", allow_duplicates: false, dead_letter_ttl_seconds: 1209600 } })
await ask("POST", "/publish", { queue: "mail", priority: 5, payload: "dear reader" })
await ask("POST", "/publish", { queue: "mail", priority: 9, payload: "dear reader" })

// Look: all queues, those in trouble first, one of them, and its next messages.
await ask("GET", "/queues")
await ask("GET", "/queue-list?sort=trouble&order=desc&limit=1")
await ask("GET", "/queue-stats/mail")
await ask("GET", "/queues/mail/messages?limit=10")

// Rename it. The message is still there.
await ask("POST", "/update-queue", { name: "mail", config: { name: "letters" } })
await ask("GET", "/queue-stats/letters")

// Protect it. A purge is refused until that is lifted.
await ask("POST", "/update-queue", { name: "letters", config: { protected: true } })
await ask("POST", "/purge-queue/letters")
await ask("POST", "/update-queue", { name: "letters", config: { protected: false } })
await ask("POST", "/purge-queue/letters")

// Delete it. A queue that does not exist can be deleted, too.
await ask("DELETE", "/delete-queue/letters")
await ask("DELETE", "/delete-queue/letters")

// A name that no path can carry goes into the query.
await ask("POST", "/publish", { queue: "eu/orders", priority: 1, payload: "one" })
await ask("POST", "/consume?queue=eu%2Forders", { consumer_id: "me" })
await ask("DELETE", "/delete-queue?queue=eu%2Forders")
