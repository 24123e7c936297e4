/** One queue: how it is doing, and in tabs what is in it. */

import { useState } from "../../vendor/hooks.js";
import { requests } from "../api.js";
import { Chart } from "../components/chart.js";
import { CopyCurl } from "../components/copy.js";
import { Icon } from "../components/icon.js";
import { Menu } from "../components/menu.js";
import { Problem } from "../components/problem.js";
import { Publish } from "../components/publish.js";
import { DeleteQueue, PurgeQueue, QueueForm } from "../components/queue_dialogs.js";
import { QueueTags } from "../components/queue_tags.js";
import { TrendPill } from "../components/trend.js";
import { useAnswer } from "../components/use_answer.js";
import { columns, useHistory } from "../components/use_history.js";
import { count, duration, rate, shortCount } from "../format.js";
import { html } from "../html.js";
import { go, link } from "../router.js";
import { readOnly } from "../store.js";
import { DeadLetters } from "./dead_letters.js";
import { QueueLocks } from "./queue_locks.js";
import { QueueMessages } from "./queue_messages.js";
import { QueuePriorities } from "./queue_priorities.js";
import { TryOut } from "./queue_try.js";

/** @typedef {import("../types.js").QueueRow} QueueRow */

const TABS = [
  { id: "next", title: "Next", view: QueueMessages, count: (/** @type {QueueRow} */ row) => row.available },
  { id: "locked", title: "Locked", view: QueueLocks, count: (/** @type {QueueRow} */ row) => row.locked },
  { id: "dead", title: "Dead letters", view: DeadLetters, count: (/** @type {QueueRow} */ row) => row.dead },
  { id: "priorities", title: "Priorities", view: QueuePriorities, count: null },
  { id: "try", title: "Try out", view: TryOut, count: null },
];

const DEPTH = [
  { label: "Available", colour: "--chart-1", fill: true },
  { label: "Locked", colour: "--chart-2" },
];
const RATES = [
  { label: "Published/s", colour: "--chart-1" },
  { label: "Acked/s", colour: "--chart-4" },
  { label: "Nacked/s", colour: "--chart-2" },
];

/** @param {{ params: Record<string, string> }} props */
export function QueueScreen({ params }) {
  const name = params.name ?? "";
  const request = requests.queueList({ name });
  const { data, error, refresh } = useAnswer(name === "" ? null : request, 2_000);
  /** @type {QueueRow | undefined} */
  const row = data?.queues[0];
  if (name === "" || (data && !row)) return html`<${Missing} name=${name} />`;
  return html`
    <section class="stack large" aria-labelledby="title">
      <${Title} name=${name} row=${row} request=${request} refresh=${refresh} />
      <${Problem} error=${error} />
      ${row && html`<${Figures} row=${row} />`}
      <${Charts} name=${name} />
      ${row && html`<${Tabs} row=${row} params=${params} refresh=${refresh} />`}
    </section>
  `;
}

/** @param {{ name: string }} props */
const Missing = ({ name }) => html`
  <section class="empty">
    <h1>There is no queue <bdi class="typed">${name}</bdi></h1>
    <p>It may have been renamed or deleted. <a href=${link("queues")}>All queues</a></p>
  </section>
`;

/** @param {{ name: string, row: QueueRow | undefined, request: import("../curl.js").Request, refresh: () => void }} props */
function Title({ name, row, request, refresh }) {
  const [open, setOpen] = useState("");
  const close = () => setOpen("");
  const kept = !!row?.config.protected;
  const actions = [
    { label: "Edit …", run: () => setOpen("edit"), disabled: readOnly.value },
    { label: "Purge …", run: () => setOpen("purge"), disabled: readOnly.value || kept, danger: true },
    { label: "Delete …", run: () => setOpen("delete"), disabled: readOnly.value || kept, danger: true },
  ];
  return html`
    <div class="toolbar flush">
      <nav class="crumbs" aria-label="Place"><a href=${link("queues")}>Queues</a><span aria-hidden="true">/</span></nav>
      <h1 id="title" class="queue-name"><bdi>${name}</bdi></h1>
      ${row && html`<${QueueTags} config=${row.config} all />`}
      <div class="toolbar-end">
        <${CopyCurl} request=${request} />
        <button type="button" class="button primary" data-new disabled=${!row || readOnly.value} onClick=${() => setOpen("publish")}>
          <${Icon} name="send" />Publish
        </button>
        ${row && html`<${Menu} label="Actions for this queue" actions=${actions} />`}
      </div>
      ${row && open === "publish" && html`<${Publish} queue=${row} onClose=${close} onDone=${refresh} />`}
      ${row &&
      open === "edit" &&
      html`<${QueueForm} queue=${row} onClose=${close} onDone=${(/** @type {string} */ now) => (now === name ? refresh() : go("queue", { name: now }))} />`}
      ${row && open === "purge" && html`<${PurgeQueue} queue=${row} onClose=${close} onDone=${refresh} />`}
      ${row && open === "delete" && html`<${DeleteQueue} queue=${row} onClose=${close} onDone=${() => go("queues")} />`}
    </div>
  `;
}

/** @param {{ row: QueueRow }} props */
function Figures({ row }) {
  const age = row.oldest_age_seconds;
  /** @type {[string, any][]} */
  const figures = [
    ["Available", count(row.available)],
    ["Locked", count(row.locked)],
    ["Dead letters", html`<span class=${row.dead ? "bad-text" : ""}>${count(row.dead)}</span>`],
    ["Oldest", age == null ? "–" : `${row.oldest_age_exact ? "" : "≥ "}${duration(age * 1000)}`],
    ["In/s", rate(row.publish_rate_per_sec)],
    ["Out/s", rate(row.ack_rate_per_sec)],
    ["Nacked/s", rate(row.nack_rate_per_sec)],
    ["Forecast", html`<${TrendPill} row=${row} />`],
  ];
  return html`<dl class="figures card">${figures.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** @param {{ name: string }} props */
function Charts({ name }) {
  const points = useHistory(name);
  const depth = columns(points, [(point) => point.total - point.locked, (point) => point.locked]);
  const rates = columns(points, [
    (point) => point.publish_rate_per_sec,
    (point) => point.ack_rate_per_sec,
    (point) => point.nack_rate_per_sec,
  ]);
  return html`
    <div class="charts">
      <section class="card">
        <header class="card-header"><h2>Depth</h2><span class="quiet secondary">drag to zoom, double-click to zoom out</span></header>
        <${Chart} label="Available and locked messages over the last ten minutes" lines=${DEPTH} data=${depth} show=${shortCount} />
      </section>
      <section class="card">
        <header class="card-header"><h2>Rates</h2><span class="quiet secondary">messages a second</span></header>
        <${Chart} label="Messages published, acked and nacked a second over the last ten minutes" lines=${RATES} data=${rates} show=${rate} />
      </section>
    </div>
  `;
}

/** @param {{ row: QueueRow, params: Record<string, string>, refresh: () => void }} props */
function Tabs({ row, params, refresh }) {
  const open = TABS.find((tab) => tab.id === params.tab) ?? /** @type {typeof TABS[number]} */ (TABS[0]);
  /** @param {KeyboardEvent} event */
  function onKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    const next = TABS.at((TABS.indexOf(open) + step) % TABS.length);
    if (next) {
      go("queue", { name: row.name, tab: next.id });
      document.getElementById(`tab-${next.id}`)?.focus();
    }
    event.preventDefault();
  }
  return html`
    <section class="card">
      <div class="tabs" role="tablist" aria-label="What is in the queue" onKeyDown=${onKey}>
        ${TABS.map(
          (tab) => html`
            <a
              id="tab-${tab.id}"
              class="tab"
              role="tab"
              href=${link("queue", { name: row.name, tab: tab.id })}
              aria-selected=${tab === open ? "true" : "false"}
              aria-controls=${tab === open ? "panel" : undefined}
              tabindex=${tab === open ? 0 : -1}
            >
              ${tab.title}${tab.count && html`<span class="pill ${tab.id === "dead" && row.dead ? "bad" : ""}">${shortCount(tab.count(row))}</span>`}
            </a>
          `,
        )}
      </div>
      <div id="panel" role="tabpanel" aria-labelledby="tab-${open.id}">
        <${open.view} key=${open.id} row=${row} params=${params} refresh=${refresh} />
      </div>
    </section>
  `;
}
