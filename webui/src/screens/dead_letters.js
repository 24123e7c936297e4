/**
 * The dead letters of a queue: filter, inspect, requeue, purge.
 *
 * Rule: whatever touches many is first asked for as a dry run. Its count and its samples are shown, and its bound
 * (`up_to`) goes with the real request, so letters that arrive meanwhile are left alone. A filter is sent as a filter,
 * never as the list of what the page shows.
 */

import { useEffect, useState } from "../../vendor/hooks.js";
import { requests } from "../api.js";
import { CopyCurl } from "../components/copy.js";
import { LettersBulk } from "../components/letters_bulk.js";
import { Export } from "../components/export.js";
import { Icon } from "../components/icon.js";
import { MessageDialog, PayloadLine, REASONS, priorityOf } from "../components/message.js";
import { Pager, usePages } from "../components/pages.js";
import { Problem } from "../components/problem.js";
import { Time } from "../components/time.js";
import { useAnswer } from "../components/use_answer.js";
import { count, counted } from "../format.js";
import { html } from "../html.js";
import { setParams } from "../router.js";
import { readOnly } from "../store.js";

/** @typedef {import("../types.js").Message} Message */
/** @typedef {import("../types.js").QueueRow} QueueRow */
/** @typedef {import("../components/letters_bulk.js").Bulk} Bulk */

const LIMIT = 50;

/** @param {{ row: QueueRow, params: Record<string, string>, refresh: () => void }} props */
export function DeadLetters({ row, params, refresh }) {
  const filter = { reason: params.reason ?? "", text: params.text ?? "" };
  const filtered = filter.reason !== "" || filter.text !== "";
  const pages = usePages(JSON.stringify([row.name, filter]));
  const request = requests.deadLetters(row.name, { ...filter, limit: LIMIT, cursor: pages.cursor });
  const { data, error, refresh: again } = useAnswer(request, 3_000, true);
  const [chosen, setChosen] = useState(/** @type {Set<string>} */ (new Set()));
  const [open, setOpen] = useState(/** @type {Message | null} */ (null));
  const [bulk, setBulk] = useState(/** @type {Bulk | null} */ (null));
  /** @type {Message[] | null} */
  const letters = data?.messages ?? null;
  const done = () => {
    setChosen(new Set());
    pages.restart();
    again();
    refresh();
  };
  const ids = [...chosen];
  /** What the buttons act on: the checked ones, or all that match. @type {Omit<Bulk, "verb">} */
  const target = ids.length
    ? { which: { ids }, what: counted(ids.length, "checked dead letter") }
    : filtered
      ? { which: { filter: Object.fromEntries(Object.entries(filter).filter(([, value]) => value)) }, what: "every dead letter that matches the filter" }
      : { which: { all: true }, what: "every dead letter of this queue" };
  const scope = ids.length ? count(ids.length) : filtered ? "matching" : "all";
  const nothing = readOnly.value || (row.dead === 0 && ids.length === 0);

  return html`
    <div class="toolbar in-panel">
      <${TextFilter} value=${filter.text} />
      <label>
        <span class="hidden">Reason</span>
        <select value=${filter.reason} onChange=${(/** @type {any} */ event) => setParams({ reason: event.target.value })}>
          <option value="">Any reason</option>
          ${Object.entries(REASONS).map(([reason, words]) => html`<option value=${reason}>${words}</option>`)}
        </select>
      </label>
      <div class="toolbar-end">
        ${ids.length > 0 && html`<button type="button" class="button quiet" onClick=${() => setChosen(new Set())}>Uncheck ${count(ids.length)}</button>`}
        <button type="button" class="button" disabled=${nothing} onClick=${() => setBulk({ verb: "requeue", ...target })}>Requeue ${scope} …</button>
        <button type="button" class="button" disabled=${nothing} onClick=${() => setBulk({ verb: "purge", ...target })}>Purge ${scope} …</button>
      </div>
    </div>
    <${Problem} error=${error} />
    ${letters?.length === 0 &&
    html`<div class="empty"><p>${filtered ? "No dead letter matches among those read so far." : "There are no dead letters."}</p></div>`}
    ${letters !== null && letters.length > 0 && html`<${Letters} letters=${letters} chosen=${chosen} choose=${setChosen} open=${setOpen} />`}
    ${letters !== null &&
    html`
      <${Pager} pages=${pages} further=${data.cursor}>
        ${filtered && `${counted(data.looked_at ?? 0, "letter")} read of ${count(data.dead_letters ?? row.dead)}, ${count(letters.length)} found`}
        <${Export} request=${request} name=${`${row.name} dead letters`} /><${CopyCurl} request=${request} />
      <//>
    `}
    ${open &&
    html`
      <${MessageDialog} message=${open} request=${requests.deadLetter(row.name, open.id)} onClose=${() => setOpen(null)}>
        <button
          type="button"
          class="button primary"
          disabled=${readOnly.value}
          onClick=${() => {
            setBulk({ verb: "requeue", which: { ids: [open.id] }, what: "this dead letter" });
            setOpen(null);
          }}
        >
          Requeue …
        </button>
      <//>
    `}
    ${bulk && html`<${LettersBulk} row=${row} bulk=${bulk} onClose=${() => setBulk(null)} onDone=${done} />`}
  `;
}

/** @param {{ value: string }} props */
function TextFilter({ value }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  return html`
    <form
      class="search"
      role="search"
      onSubmit=${(/** @type {Event} */ event) => {
        event.preventDefault();
        setParams({ text });
      }}
    >
      <${Icon} name="search" />
      <label>
        <span class="hidden">Text in the payload or the reason</span>
        <input
          type="search"
          data-search
          placeholder="Text, then Enter"
          value=${text}
          onInput=${(/** @type {any} */ event) => {
            setText(event.target.value);
            if (event.target.value === "") setParams({ text: "" });
          }}
        />
      </label>
    </form>
  `;
}

/** @param {{ letters: Message[], chosen: Set<string>, choose: (chosen: Set<string>) => void, open: (letter: Message) => void }} props */
function Letters({ letters, chosen, choose, open }) {
  const all = letters.every((letter) => chosen.has(letter.id));
  const toggle = (/** @type {string[]} */ ids, /** @type {boolean} */ on) => {
    const next = new Set(chosen);
    for (const id of ids) on ? next.add(id) : next.delete(id);
    choose(next);
  };
  return html`
    <div class="scroll">
      <table class="table">
        <thead>
          <tr>
            <th scope="col" class="check">
              <input
                type="checkbox"
                aria-label="Check all on this page"
                checked=${all}
                onChange=${() => toggle(letters.map((letter) => letter.id), !all)}
              />
            </th>
            <th scope="col">Died</th>
            <th scope="col">Because</th>
            <th scope="col" class="wide">Payload</th>
            <th scope="col" class="number secondary">Deliveries</th>
            <th scope="col" class="number secondary">Priority</th>
          </tr>
        </thead>
        <tbody>
          ${letters.map(
            (letter) => html`
              <tr key=${letter.id}>
                <td class="check">
                  <input
                    type="checkbox"
                    aria-label=${`Check ${letter.id}`}
                    checked=${chosen.has(letter.id)}
                    onChange=${() => toggle([letter.id], !chosen.has(letter.id))}
                  />
                </td>
                <td>${letter.died_at ? html`<${Time} ms=${letter.died_at} />` : "–"}</td>
                <td title=${letter.error ?? ""}>
                  ${letter.reason ?? "–"}${letter.requeues ? html` <span class="pill warn" title="Requeued before, and came back">↻ ${count(letter.requeues)}</span>` : ""}
                </td>
                <td class="wide">
                  <button type="button" class="row-button" onClick=${() => open(letter)}><${PayloadLine} message=${letter} /></button>
                </td>
                <td class="number secondary">${count(letter.deliveries ?? 0)}</td>
                <td class="number secondary"><bdi>${priorityOf(letter)}</bdi></td>
              </tr>
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}
