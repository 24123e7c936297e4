// Importance, deadlines, text, and two queues of different weight. The same as priorities.sh and priorities.py.
const url = process.env.QRUSTY_URL ?? "http://127.0.0.1:6784"

/** Print the request and its response. Returns the response, parsed. */
async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json" }
  const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) })
  const text = await response.text()
  console.log(`${method} ${path}\n  ${text}`)
  return JSON.parse(text || "null")
}

// Importance: the highest number first, and among equals the oldest.
await ask("POST", "/create-queue", { name: "importance", config: { ordering: "MaxFirst" } })
await ask("POST", "/publish-batch", { queue: "importance", messages: [{ priority: 1, payload: "report" }, { priority: 9, payload: "alarm" }, { priority: 1, payload: "cleaning" }] })
await ask("POST", "/consume-batch/importance", { consumer_id: "me", max_messages: 10 })

// Deadlines: the earliest time first.
await ask("POST", "/create-queue", { name: "deadlines", config: { ordering: "MinFirst" } })
await ask("POST", "/publish", { queue: "deadlines", priority: 1800003600, payload: "within the hour" })
await ask("POST", "/publish", { queue: "deadlines", priority: 1800000060, payload: "within the minute" })
await ask("POST", "/consume/deadlines", { consumer_id: "me" })

// Text: compared by its bytes.
await ask("POST", "/create-queue", { name: "days", config: { ordering: "MinFirst", priority_kind: "Text" } })
await ask("POST", "/publish", { queue: "days", priority: "2027-01-02", payload: "later" })
await ask("POST", "/publish", { queue: "days", priority: "2027-01-01", payload: "sooner" })
await ask("POST", "/consume/days", { consumer_id: "me" })

// How many of each there are.
await ask("GET", "/queues/deadlines/priorities")

// Two queues: the urgent one is asked first.
await ask("POST", "/publish", { queue: "bulk", priority: 1, payload: "newsletter" })
await ask("POST", "/publish", { queue: "urgent", priority: 1, payload: "password mail" })
await ask("POST", "/consume", { consumer_id: "me", queues: ["urgent", "bulk"] })

// Tidy up.
await ask("DELETE", "/delete-queue/importance")
await ask("DELETE", "/delete-queue/deadlines")
await ask("DELETE", "/delete-queue/days")
await ask("DELETE", "/delete-queue/bulk")
await ask("DELETE", "/delete-queue/urgent")
