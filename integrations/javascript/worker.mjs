// A worker over HTTP, with nothing but Node 18 or newer. Put your work into `handle`.
//
// node worker.mjs QUEUE
//
// It waits for messages, renews the lock of each while `handle` runs, acks it when `handle` is done, and nacks it with the
// error when `handle` throws. On SIGTERM and Ctrl-C it finishes the messages in hand, and ends.
import { hostname } from "node:os"
import { setTimeout as sleep } from "node:timers/promises"

const url = process.env.QRUSTY_URL ?? "http://127.0.0.1:6784"
/** Who holds the messages. Each worker needs a name of its own. */
const worker = `${hostname()}-${process.pid}`
/** How many messages are worked on at a time. */
const concurrency = 4
const lockSeconds = 30
/** How long to wait for a message. */
const waitSeconds = 30
/** Time between two attempts while the server is away, or accepts no requests. */
const restSeconds = 1

/** The work. Whatever it throws makes the message come back, until it is a dead letter. */
async function handle(payload) {
  if (payload === "impossible") throw new Error("this can't be done")
  console.log("done:", payload)
}

const stopping = new AbortController()
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => stopping.abort())

/** One request. Returns status and JSON. Throws if the server is away, starting, or short of something. */
async function ask(path, fields, signal) {
  const headers = { "Content-Type": "application/json" }
  const body = JSON.stringify({ consumer_id: worker, ...fields })
  const response = await fetch(url + path, { method: "POST", headers, body, signal })
  const text = await response.text()
  if (response.status >= 500) throw new Error(text)
  return { status: response.status, answer: text ? JSON.parse(text) : null }
}

/** Ack or nack, for as long as the lock may last. A 404 says that it has ended: the message is another worker's. */
async function settle(path, fields = {}) {
  const end = Date.now() + lockSeconds * 1000
  while (Date.now() < end) {
    try {
      return await ask(path, fields)
    } catch {
      await sleep(restSeconds * 1000)
    }
  }
}

/** Handle one message, and settle it. */
async function workOn(name, message) {
  const renewal = setInterval(
    () => ask(`/renew/${name}/${message.id}`, { timeout_seconds: lockSeconds }).catch(() => {}),
    (lockSeconds / 3) * 1000,
  )
  try {
    await handle(message.payload)
    await settle(`/ack/${name}/${message.id}`)
  } catch (error) {
    await settle(`/nack/${name}/${message.id}`, { error: String(error.message ?? error).slice(0, 250) })
  } finally {
    clearInterval(renewal)
  }
}

/**
 * Take and handle messages until it is time to stop. That breaks off a wait. A message that was handed out at that very
 * moment comes back when its lock ends.
 */
async function work(queue) {
  const name = encodeURIComponent(queue)
  const terms = { timeout_seconds: lockSeconds, wait_seconds: waitSeconds }
  while (!stopping.signal.aborted) {
    let taken
    try {
      taken = await ask(`/consume/${name}`, terms, stopping.signal)
    } catch {
      if (!stopping.signal.aborted) await sleep(restSeconds * 1000)
      continue
    }
    if (taken.status !== 200) throw new Error(`the server refused to hand out messages: ${taken.answer?.error}`)
    if (taken.answer) await workOn(name, taken.answer)
  }
}

await Promise.all(Array.from({ length: concurrency }, () => work(process.argv[2])))
