/** All queues in a table. The server searches, sorts and pages; only the rows on the screen are asked for and drawn. */

import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { requests, send } from "../api.js";
import { CopyCurl } from "../components/copy.js";
import { Icon } from "../components/icon.js";
import { Menu } from "../components/menu.js";
import { Problem } from "../components/problem.js";
import { DeleteQueue, PurgeQueue, QueueForm } from "../components/queue_dialogs.js";
import { QueueTags } from "../components/queue_tags.js";
import { QueuesBulk, matching, named } from "../components/queues_bulk.js";
import { Sparkline } from "../components/sparkline.js";
import { Trash } from "../components/trash.js";
import { TrendPill } from "../components/trend.js";
import { useAnswer } from "../components/use_answer.js";
import { ROW_PX, useRows } from "../components/use_rows.js";
import { count, counted, duration, rate } from "../format.js";
import { html } from "../html.js";
import { go, link, setParams } from "../router.js";
import { notify, readOnly, sentence, undoSeconds } from "../store.js";

/** @typedef {import("../types.js").QueueRow} QueueRow */
/** @typedef {{ kind: "new" | "edit" | "purge" | "delete" | "trash", row?: QueueRow }} Open */

/** Queues that can be checked, and so touched at once. It is the server's largest page. */
const MAX_CHECKED = 200;
const COLUMNS = [
  { sort: "", title: "", first: "", className: "check" },
  { sort: "name", title: "Queue", first: "asc", className: "name" },
  { sort: "available", title: "Available", first: "desc", className: "number" },
  { sort: "locked", title: "Locked", first: "desc", className: "number secondary" },
  { sort: "dead", title: "Dead", first: "desc", className: "number" },
  { sort: "oldest", title: "Oldest", first: "desc", className: "number secondary" },
  { sort: "publish_rate", title: "In/s", first: "desc", className: "number tertiary" },
  { sort: "ack_rate", title: "Out/s", first: "desc", className: "number tertiary" },
  { sort: "", title: "10 s", first: "", className: "secondary" },
  { sort: "trouble", title: "Forecast", first: "desc", className: "" },
  { sort: "", title: "", first: "", className: "actions" },
];
const SEARCH_MS = 150;
const TRASH_MS = 5_000;
const MESSAGE_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** @param {{ params: Record<string, string> }} props */
export function Queues({ params }) {
  const search = params.search ?? "";
  const sort = params.sort ?? "name";
  const order = params.order ?? "asc";
  const [total, setTotal] = useState(0);
  const [open, setOpen] = useState(/** @type {Open | null} */ (null));
  const [chosen, setChosen] = useState(/** @type {Set<string>} */ (new Set()));
  /** Whether all that match are chosen, those that have no check box on the page among them. */
  const [everything, setEverything] = useState(false);
  const [bulk, setBulk] = useState(/** @type {"purge" | "delete" | null} */ (null));
  const rows = useRows(total);
  const kept = useAnswer(undoSeconds.value ? requests.trash() : null, TRASH_MS).data?.trash.length ?? 0;
  const request = requests.queueList({ search, sort, order, offset: rows.offset, limit: rows.limit });
  const { data, error, refresh } = useAnswer(request, 2_000, true);
  /** @type {import("../types.js").QueueList | null} */
  const list = data;
  const matched = list?.totals.queues ?? 0;
  useEffect(() => setTotal(matched), [matched]);
  useEffect(() => {
    rows.box.current?.scrollTo({ top: 0 });
  }, [search, sort, order]);

  useEffect(() => setEverything(false), [search]);

  const first = list ? Math.max(rows.first, list.offset) : 0;
  const shown = list ? list.queues.slice(first - list.offset, Math.max(0, rows.last - list.offset)) : [];
  const close = () => setOpen(null);
  /** @param {string} name */
  const toggle = (name) => {
    setEverything(false);
    const next = new Set(chosen);
    if (!next.delete(name)) next.add(name);
    if (next.size > MAX_CHECKED) return notify(`At most ${count(MAX_CHECKED)} queues can be checked`, true);
    setChosen(next);
  };
  const checkAll = async () => {
    try {
      /** @type {import("../types.js").QueueList} */
      const all = await send(requests.queueList({ search, sort, order, limit: MAX_CHECKED }));
      setChosen(new Set(all.queues.map((row) => row.name)));
    } catch (error) {
      notify(sentence(error), true);
    }
  };
  const uncheck = () => {
    setEverything(false);
    setChosen(new Set());
  };
  const checks = { some: chosen.size > 0, all: matched > 0 && chosen.size >= Math.min(matched, MAX_CHECKED), check: checkAll, uncheck };
  const picked = everything ? matched : chosen.size;

  return html`
    <section class="fill" aria-labelledby="title">
      <div class="toolbar">
        <h1 id="title">Queues</h1>
        <${Search} value=${search} />
        <span class="quiet" role="status">${list && summary(list.totals, search)}</span>
        <div class="toolbar-end">
          ${chosen.size > 0 &&
          html`
            ${checks.all &&
            matched > chosen.size &&
            !everything &&
            html`<button type="button" class="button quiet" onClick=${() => setEverything(true)}>Check all ${count(matched)} that match</button>`}
            <button type="button" class="button quiet" onClick=${uncheck}>Uncheck ${count(picked)}</button>
            <button type="button" class="button" disabled=${readOnly.value} onClick=${() => setBulk("purge")}>Purge ${count(picked)} …</button>
            <button type="button" class="button" disabled=${readOnly.value} onClick=${() => setBulk("delete")}>Delete ${count(picked)} …</button>
          `}
          ${kept > 0 && html`<button type="button" class="button quiet" onClick=${() => setOpen({ kind: "trash" })}>Trash ${count(kept)}</button>`}
          <${CopyCurl} request=${request} />
          <button type="button" class="button primary" data-new disabled=${readOnly.value} onClick=${() => setOpen({ kind: "new" })}>
            <${Icon} name="add" />New queue
          </button>
        </div>
      </div>
      <${Problem} error=${error} />
      <div class="table-box" ref=${rows.box} tabindex="0" role="region" aria-label="Table of queues">
        <table class="table fixed" aria-rowcount=${total + 1}>
          <thead>
            <tr>
              ${COLUMNS.map((column) => html`<${Heading} column=${column} sort=${sort} order=${order} checks=${checks} />`)}
            </tr>
          </thead>
          <tbody>
            <${Space} rows=${first} />
            ${shown.map((row, index) => html`<${Row} key=${row.name} row=${row} index=${first + index} open=${setOpen} checked=${everything || chosen.has(row.name)} toggle=${toggle} />`)}
            <${Space} rows=${Math.max(0, total - first - shown.length)} />
          </tbody>
        </table>
        ${list && matched === 0 && html`<${Nothing} search=${search} />`}
      </div>
      ${bulk &&
      html`
        <${QueuesBulk}
          verb=${bulk}
          look=${everything ? matching(search) : named([...chosen])}
          onClose=${() => setBulk(null)}
          onDone=${(/** @type {Set<string>} */ done) => {
            setEverything(false);
            setChosen(new Set([...chosen].filter((name) => !done.has(name))));
            refresh();
          }}
        />
      `}
      ${open?.kind === "new" &&
      html`<${QueueForm} onClose=${close} onDone=${(/** @type {string} */ name) => go("queue", { name })} />`}
      ${open?.kind === "trash" && html`<${Trash} onClose=${close} />`}
      ${open?.kind === "edit" && html`<${QueueForm} queue=${open.row} onClose=${close} onDone=${refresh} />`}
      ${open?.kind === "purge" && html`<${PurgeQueue} queue=${open.row} onClose=${close} onDone=${refresh} />`}
      ${open?.kind === "delete" && html`<${DeleteQueue} queue=${open.row} onClose=${close} onDone=${refresh} />`}
    </section>
  `;
}

/** @param {import("../types.js").Totals} totals @param {string} search */
function summary(totals, search) {
  const queues = `${counted(totals.queues, "queue")}${search && " match"}`;
  return `${queues} · ${count(totals.available)} available · ${count(totals.locked)} locked · ${count(totals.dead)} dead`;
}

/** @param {{ value: string }} props */
function Search({ value }) {
  const [text, setText] = useState(value);
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  // The address may change by other means than typing, such as a step back.
  useEffect(() => {
    if (!timer.current) setText(value);
  }, [value]);
  return html`
    <label class="search">
      <${Icon} name="search" />
      <span class="hidden">Search queues</span>
      <input
        type="search"
        data-search
        placeholder="Search"
        value=${text}
        onInput=${(/** @type {any} */ event) => {
          const typed = event.target.value;
          setText(typed);
          clearTimeout(timer.current);
          timer.current = setTimeout(() => {
            timer.current = 0;
            setParams({ search: typed });
          }, SEARCH_MS);
        }}
      />
    </label>
  `;
}

/** @typedef {{ some: boolean, all: boolean, check: () => void, uncheck: () => void }} Checks */

/** @param {{ column: typeof COLUMNS[number], sort: string, order: string, checks: Checks }} props */
function Heading({ column, sort, order, checks }) {
  if (column.className === "check") {
    return html`
      <th scope="col" class="check">
        <input
          type="checkbox"
          aria-label="Check all queues that match"
          checked=${checks.all}
          indeterminate=${checks.some && !checks.all}
          onChange=${checks.some ? checks.uncheck : checks.check}
        />
      </th>
    `;
  }
  if (!column.sort) {
    return html`<th scope="col" class=${column.className}>${column.title || html`<span class="hidden">Actions</span>`}</th>`;
  }
  const active = column.sort === sort;
  const next = active ? (order === "asc" ? "desc" : "asc") : column.first;
  const state = active ? (order === "asc" ? "ascending" : "descending") : undefined;
  return html`
    <th scope="col" class=${column.className} aria-sort=${state}>
      <button type="button" class="sort" onClick=${() => setParams({ sort: column.sort, order: next })}>
        ${column.title}${active && html`<${Icon} name=${order === "asc" ? "up" : "down"} />`}
      </button>
    </th>
  `;
}

/** @param {{ rows: number }} props */
const Space = ({ rows }) =>
  rows > 0 && html`<tr class="space" aria-hidden="true"><td colspan=${COLUMNS.length} style=${{ height: `${rows * ROW_PX}px` }}></td></tr>`;

/** @param {{ row: QueueRow, index: number, open: (open: Open) => void, checked: boolean, toggle: (name: string) => void }} props */
function Row({ row, index, open, checked, toggle }) {
  const locked = readOnly.value;
  const kept = !!row.config.protected;
  const actions = [
    { label: "Edit …", run: () => open({ kind: "edit", row }), disabled: locked },
    { label: "Purge …", run: () => open({ kind: "purge", row }), disabled: locked || kept, danger: true },
    { label: "Delete …", run: () => open({ kind: "delete", row }), disabled: locked || kept, danger: true },
  ];
  const age = row.oldest_age_seconds;
  return html`
    <tr aria-rowindex=${index + 2}>
      <td class="check">
        <input type="checkbox" aria-label=${`Check ${row.name}`} checked=${checked} onChange=${() => toggle(row.name)} />
      </td>
      <th scope="row" class="name">
        <a href=${link("queue", { name: row.name })} title=${row.name}><bdi>${row.name}</bdi></a><${QueueTags} config=${row.config} />
      </th>
      <td class="number">${count(row.available)}</td>
      <td class="number secondary">${count(row.locked)}</td>
      <td class="number ${row.dead ? "bad" : ""}">
        ${row.dead ? html`<a href=${link("queue", { name: row.name, tab: "dead" })}>${count(row.dead)}</a>` : "0"}
      </td>
      <td class="number secondary">${age == null ? "–" : html`${row.oldest_age_exact ? "" : "≥ "}${duration(age * 1000)}`}</td>
      <td class="number tertiary">${rate(row.publish_rate_per_sec)}</td>
      <td class="number tertiary">${rate(row.ack_rate_per_sec)}</td>
      <td class="secondary"><${Sparkline} values=${row.recent} label="Depth over the last ten seconds" /></td>
      <td><${TrendPill} row=${row} /></td>
      <td class="actions"><${Menu} label=${`Actions for ${row.name}`} actions=${actions} /></td>
    </tr>
  `;
}

/** @param {{ search: string }} props */
const Nothing = ({ search }) =>
  search
    ? html`
        <div class="empty">
          <p>No queue has <bdi class="typed">${search}</bdi> in its name.</p>
          ${MESSAGE_ID.test(search.trim()) && html`<p><a href=${link("find", { id: search.trim() })}>Find the message with this id</a></p>`}
        </div>
      `
    : html`<div class="empty"><h2>There are no queues yet</h2><p>Make one here, or publish: that makes its queue.</p></div>`;
