/**
 * The shapes of the server's answers, as far as the page reads them.
 *
 * @typedef {object} ServerInfo
 * @property {string} version
 * @property {"ok" | "starting" | "stopping" | "storage_fault"} state
 * @property {string | null} message
 * @property {{ name: string, colour: string } | null} environment
 * @property {boolean} read_only
 * @property {StorageInfo} storage
 * @property {number} now_ms
 * @property {number} started_at_ms
 * @property {number} uptime_seconds
 * @property {{ open: number, limit: number }} connections
 * @property {MemoryInfo} memory
 * @property {Record<string, number>} limits
 * @property {{ name: string, grants: string[] }} [token] Who is logged in, where the server has tokens.
 *
 * @typedef {object} Kept What is kept aside.
 * @property {number} id
 * @property {string} queue
 * @property {"purged" | "deleted"} what
 * @property {number} kept_at
 * @property {number} expires_at
 * @property {number} messages
 * @property {number} dead_letters
 *
 * @typedef {object} StorageInfo
 * @property {string} mode
 * @property {string} fsync
 * @property {boolean} fsync_locks
 * @property {boolean} payload_store
 * @property {number} payload_disk_bytes
 * @property {boolean} publishes_refused
 *
 * @typedef {object} MemoryInfo
 * @property {"normal" | "warning" | "critical"} level
 * @property {boolean} publishes_refused
 * @property {number} usage_bytes
 * @property {number} limit_bytes
 * @property {{ exit: number, warning: number, critical: number }} thresholds Shares of the limit.
 *
 * @typedef {object} QueueConfig
 * @property {"MaxFirst" | "MinFirst" | "Fifo"} ordering
 * @property {boolean} allow_duplicates
 * @property {"Numeric" | "Text"} priority_kind
 * @property {boolean} [protected]
 * @property {number} [dead_letter_ttl_seconds]
 * @property {number} [dead_letter_max]
 *
 * @typedef {"empty" | "steady" | "draining" | "growing" | "stalled"} Trend
 *
 * @typedef {object} QueueRow
 * @property {string} name
 * @property {number} available
 * @property {number} locked
 * @property {number} dead
 * @property {QueueConfig} config
 * @property {number} publish_rate_per_sec
 * @property {number} ack_rate_per_sec
 * @property {number} nack_rate_per_sec
 * @property {number | null} oldest_age_seconds
 * @property {boolean} oldest_age_exact False: there may be an older one.
 * @property {Trend} trend
 * @property {number | null} drain_seconds
 * @property {number[]} recent Messages in the queue, a second apart, oldest first.
 *
 * @typedef {object} Totals Sums over the queues that match.
 * @property {number} queues
 * @property {number} troubled
 * @property {number} available
 * @property {number} locked
 * @property {number} dead
 * @property {number} publish_rate_per_sec
 * @property {number} ack_rate_per_sec
 * @property {number} nack_rate_per_sec
 *
 * @typedef {object} QueueList
 * @property {number} offset
 * @property {Totals} totals
 * @property {QueueRow[]} queues
 *
 * @typedef {object} MetricPoint
 * @property {number} t_ms
 * @property {number} total
 * @property {number} locked
 * @property {number} publish_rate_per_sec
 * @property {number} ack_rate_per_sec
 * @property {number} nack_rate_per_sec
 *
 * @typedef {object} TimingPoint
 * @property {number} t_epoch_s
 * @property {number} count
 * @property {number} min_us
 * @property {number} max_us
 * @property {number} total_us
 *
 * @typedef {object} Histogram Durations of an operation since the server started.
 * @property {number} count
 * @property {number} total_ns
 * @property {[number, number][]} buckets Upper bound in ns, a power of two; how many are under it and not under the one before.
 *
 * @typedef {number | bigint | string} Priority
 *
 * @typedef {object} Message A message as lists and details show it; what a state has not is left out.
 * @property {string} id
 * @property {Priority} [priority]
 * @property {string} [priority_text]
 * @property {number} [created_at]
 * @property {number} [deliveries]
 * @property {number} [retry_count]
 * @property {number} [max_retries]
 * @property {string | null} [payload]
 * @property {string} [payload_preview]
 * @property {number} [payload_bytes]
 * @property {string} [payload_error]
 * @property {string | null} [state]
 * @property {number} [before] Messages of its queue that come before it.
 * @property {string | null} [consumer]
 * @property {number | null} [locked_since]
 * @property {number | string} [lock_until]
 * @property {number} [died_at]
 * @property {string} [reason]
 * @property {string | null} [error]
 * @property {number} [requeues]
 */

/**
 * @typedef {object} AuditRecord Who did what.
 * @property {number} number
 * @property {string} time
 * @property {string} who
 * @property {string} operation
 * @property {string | null} queue
 * @property {string} outcome
 */

export {};
