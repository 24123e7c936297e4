// A queue that refuses duplicates, so that a publish can be repeated. The same as duplicates.sh and duplicates.py.
const url = process.env.QRUSTY_URL ?? "http://127.0.0.1:6784"

/** Print the request and its response. Returns the response, parsed. */
async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json" }
  const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) })
  const text = await response.text()
  console.log(`${method} ${path}\n  ${text}`)
  return JSON.parse(text || "null")
}

// Payloads are compared with those that wait or are locked.
await ask("POST", "/create-queue", { name: "once", config: { ordering: "MaxFirst", allow_duplicates: false } })
await ask("POST", "/publish", { queue: "once", priority: 1, payload: "invoice 4711" })

// The response was lost, say. The same publish again does no harm: the code says that the message is there.
await ask("POST", "/publish", { queue: "once", priority: 1, payload: "invoice 4711" })
const first = (await ask("POST", "/consume/once", { consumer_id: "me" })).id

// It is still refused while somebody works on it.
await ask("POST", "/publish", { queue: "once", priority: 9, payload: "invoice 4711" })
await ask("POST", `/ack/once/${first}`, { consumer_id: "me" })

// After the ack, it is a new one.
await ask("POST", "/publish", { queue: "once", priority: 1, payload: "invoice 4711" })

// Tidy up.
await ask("DELETE", "/delete-queue/once")
