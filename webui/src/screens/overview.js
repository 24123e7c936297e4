/** Is all well? The state of the server, the totals, and what needs attention first. */

import { useEffect, useState } from "../../vendor/hooks.js";
import { requests } from "../api.js";
import { Chart } from "../components/chart.js";
import { Icon } from "../components/icon.js";
import { Problem } from "../components/problem.js";
import { Sparkline } from "../components/sparkline.js";
import { TrendPill } from "../components/trend.js";
import { useAnswer } from "../components/use_answer.js";
import { Instant } from "../components/time.js";
import { bytes, count, counted, duration, rate, shortCount } from "../format.js";
import { html } from "../html.js";
import { link } from "../router.js";
import { lost, server } from "../store.js";

/** @typedef {import("../types.js").Totals} Totals */
/** @typedef {import("../types.js").ServerInfo} ServerInfo */

const SHOWN = 8;
const KEPT = 300;

const DEPTH = [
  { label: "Available", colour: "--chart-1", fill: true },
  { label: "Locked", colour: "--chart-2" },
  { label: "Dead letters", colour: "--chart-3" },
];
const RATES = [
  { label: "Published/s", colour: "--chart-1" },
  { label: "Acked/s", colour: "--chart-4" },
  { label: "Nacked/s", colour: "--chart-2" },
];

/** @typedef {{ seconds: number, totals: Totals }} Past */

/** Totals as they came, two seconds apart, kept while the page is open. @type {Past[]} */
let history = [];

export function Overview() {
  const { data, error } = useAnswer(requests.queueList({ sort: "trouble", order: "desc", limit: SHOWN }), 2_000);
  /** @type {import("../types.js").QueueList | null} */
  const list = data;
  const [past, setPast] = useState(history);
  useEffect(() => {
    if (!list) return;
    history = [...history.slice(1 - KEPT), { seconds: Date.now() / 1000, totals: list.totals }];
    setPast(history);
  }, [list]);
  const info = server.value;
  const troubled = list?.queues.filter(isTroubled) ?? [];

  return html`
    <section aria-labelledby="title" class="stack large">
      <h1 id="title" class="hidden">Overview</h1>
      <${Verdict} info=${info} list=${list} />
      <${Problem} error=${error} />
      ${list && html`<${Numbers} totals=${list.totals} past=${past.map((each) => each.totals)} />`}
      <div class="columns">
        <${Attention} queues=${troubled} more=${(list?.totals.troubled ?? 0) - troubled.length} ready=${list !== null} />
        ${info && html`<${Facts} info=${info} />`}
      </div>
      ${past.length > 1 && html`<${Charts} past=${past} />`}
    </section>
  `;
}

/** @param {import("../types.js").QueueRow} row */
const isTroubled = (row) => row.dead > 0 || row.trend === "growing" || row.trend === "stalled";

/** @param {{ info: ServerInfo | null, list: import("../types.js").QueueList | null }} props */
function Verdict({ info, list }) {
  const [kind, title, text] = verdict(info, list);
  return html`
    <div class="verdict ${kind}" role="status">
      <${Icon} name=${kind === "good" ? "good" : kind ? "warn" : "refresh"} />
      <div><strong>${title}</strong><span>${text}</span></div>
    </div>
  `;
}

/**
 * @param {ServerInfo | null} info
 * @param {import("../types.js").QueueList | null} list
 * @returns {[string, string, string]}
 */
function verdict(info, list) {
  if (lost.value) return ["bad", "Lost", "The server does not answer."];
  if (!info || !list) return ["", "Asking …", ""];
  if (info.state === "storage_fault") return ["bad", "The store does not work", "No change is accepted until it does."];
  if (info.memory.publishes_refused) return ["bad", "Publishes are refused", "Memory is critical."];
  if (info.storage.publishes_refused) return ["bad", "Publishes are refused", "The disk has little room."];
  if (info.state === "stopping") return ["warn", "Stopping", "It finishes what is in hand."];
  if (info.state === "starting") return ["warn", "Starting", "Changes are refused until the store is read."];
  if (info.memory.level !== "normal") return ["warn", "Memory is short", "Caches shrink; nothing is refused yet."];
  const { troubled, queues } = list.totals;
  if (troubled) return ["warn", `${counted(troubled, "queue")} may need you`, "Dead letters, growth, or nobody who takes what waits."];
  return ["good", "All is well", queues ? `${counted(queues, "queue")}, none growing or stalled, no dead letters.` : "There are no queues yet."];
}

/** @param {{ totals: Totals, past: Totals[] }} props */
function Numbers({ totals, past }) {
  /** @type {[string, keyof Totals, (value: number) => string, "1" | "2" | "3" | "4"][]} */
  const cards = [
    ["Available", "available", shortCount, "1"],
    ["Locked", "locked", shortCount, "2"],
    ["Dead letters", "dead", shortCount, "3"],
    ["Published/s", "publish_rate_per_sec", rate, "1"],
    ["Acked/s", "ack_rate_per_sec", rate, "4"],
    ["Nacked/s", "nack_rate_per_sec", rate, "2"],
  ];
  return html`
    <dl class="numbers stale-able">
      ${cards.map(
        ([title, key, show, colour]) => html`
          <div class="number-card ${key === "dead" && totals.dead ? "alarming" : ""}">
            <dt>${title}</dt>
            <dd title=${count(totals[key])}>${show(totals[key])}</dd>
            <dd class="drawing"><${Sparkline} values=${past.map((each) => each[key])} label=${`${title}, since the page was opened`} colour=${colour} /></dd>
          </div>
        `,
      )}
    </dl>
  `;
}

/** @param {{ past: Past[] }} props */
function Charts({ past }) {
  const column = (/** @type {keyof Totals} */ name) => past.map((each) => each.totals[name]);
  const seconds = past.map((each) => each.seconds);
  return html`
    <div class="charts stale-able">
      <section class="card">
        <header class="card-header"><h2>Messages</h2><span class="quiet secondary">all queues, since this page was opened</span></header>
        <${Chart} label="Messages of all queues" lines=${DEPTH} show=${shortCount} data=${[seconds, column("available"), column("locked"), column("dead")]} />
      </section>
      <section class="card">
        <header class="card-header"><h2>Rates</h2><span class="quiet secondary">messages a second</span></header>
        <${Chart}
          label="Messages published, acked and nacked a second"
          lines=${RATES}
          show=${rate}
          data=${[seconds, column("publish_rate_per_sec"), column("ack_rate_per_sec"), column("nack_rate_per_sec")]}
        />
      </section>
    </div>
  `;
}

/** @param {{ queues: import("../types.js").QueueRow[], more: number, ready: boolean }} props */
function Attention({ queues, more, ready }) {
  return html`
    <section class="card grow stale-able" aria-labelledby="attention">
      <header class="card-header">
        <h2 id="attention">Needs attention</h2>
        <a href=${link("queues", { sort: "trouble", order: "desc" })}>All queues</a>
      </header>
      ${ready && queues.length === 0 && html`<p class="quiet roomy">Nothing: no dead letters, no queue that grows or stalls.</p>`}
      <ul class="attention">
        ${queues.map(
          (row) => html`
            <li key=${row.name}>
              <a class="attention-name" href=${link("queue", { name: row.name })} title=${row.name}><bdi>${row.name}</bdi></a>
              ${row.dead > 0 &&
              html`<a class="pill bad" href=${link("queue", { name: row.name, tab: "dead" })}>${counted(row.dead, "dead letter")}</a>`}
              <${TrendPill} row=${row} />
              <span class="quiet tabular">${count(row.available)} waiting</span>
              ${row.oldest_age_seconds != null &&
              html`<span class="quiet tabular secondary">oldest ${duration(row.oldest_age_seconds * 1000)}</span>`}
            </li>
          `,
        )}
      </ul>
      ${more > 0 &&
      html`<p class="roomy"><a href=${link("queues", { sort: "trouble", order: "desc" })}>${counted(more, "more queue")}</a></p>`}
    </section>
  `;
}

/** @param {{ info: ServerInfo }} props */
function Facts({ info }) {
  const { storage, connections } = info;
  const safe = storage.mode === "rocksdb" && storage.fsync === "always";
  return html`
    <section class="card stale-able" aria-labelledby="server">
      <header class="card-header"><h2 id="server">Server</h2><span class="quiet">version ${info.version}</span></header>
      <dl class="facts">
        <dt>Up</dt>
        <dd>${duration(info.uptime_seconds * 1000)}<small> since <${Instant} ms=${info.started_at_ms} short /></small></dd>
        <dt>Storage</dt>
        <dd>${storage.mode === "rocksdb" ? "RocksDB, on disk" : html`<span class="pill bad">in memory: lost at a stop</span>`}</dd>
        <dt>Synced</dt>
        <dd>${safe ? `before each answer${storage.fsync_locks ? " and each message" : ""}` : html`<span class="pill warn">${SYNCED[storage.fsync] ?? storage.fsync}</span>`}</dd>
        <dt>Large payloads</dt>
        <dd>${storage.payload_store ? `${bytes(storage.payload_disk_bytes)} in files` : "in the store"}</dd>
        <dt>Connections</dt>
        <dd>${count(connections.open)} <small>of ${count(connections.limit)}</small></dd>
        <dt>Memory</dt>
        <dd><${Memory} memory=${info.memory} /></dd>
      </dl>
    </section>
  `;
}

const SYNCED = /** @type {Record<string, string>} */ ({ everysec: "once a second", never: "when the system likes" });

/** @param {{ memory: import("../types.js").MemoryInfo }} props */
function Memory({ memory }) {
  const share = memory.limit_bytes ? memory.usage_bytes / memory.limit_bytes : 0;
  const percent = (/** @type {number} */ part) => Math.round(part * 1000) / 10;
  const kind = { normal: "good", warning: "warn", critical: "bad" }[memory.level];
  const { warning, critical } = memory.thresholds;
  return html`
    ${bytes(memory.usage_bytes)} <small>of ${bytes(memory.limit_bytes)}, ${memory.level}</small>
    <svg class="meter ${kind}" viewBox="0 0 100 6" preserveAspectRatio="none" role="img"
      aria-label=${`${percent(share)} % used; warning from ${percent(warning)} %, critical from ${percent(critical)} %`}>
      <rect class="meter-back" width="100" height="6" />
      <rect class="meter-fill" width=${percent(Math.min(share, 1))} height="6" />
      <rect class="meter-tick" x=${percent(warning)} width="0.6" height="6" />
      <rect class="meter-tick" x=${percent(critical)} width="0.6" height="6" />
    </svg>
  `;
}
