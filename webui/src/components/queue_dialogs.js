/** The dialogs that make, change, empty and remove a queue. */

import { useState } from "../../vendor/hooks.js";
import { requests, send } from "../api.js";
import { counted } from "../format.js";
import { html } from "../html.js";
import { notify, readOnly, sentence, undoSeconds, undoing } from "../store.js";
import { Confirm } from "./confirm.js";
import { Copy, CopyCurl } from "./copy.js";
import { Dialog } from "./dialog.js";

/** @typedef {import("../types.js").QueueRow} QueueRow */

const ORDERINGS = [
  ["MaxFirst", "Highest priority first"],
  ["MinFirst", "Lowest priority first"],
  ["Fifo", "First in, first out; priorities are ignored"],
];
const KINDS = [
  ["Numeric", "Numbers, 0 to 2⁶⁴ − 1"],
  ["Text", "Text, compared byte by byte"],
];

/** A field's number; null if it is empty. @param {string} text */
const limit = (text) => (text === "" ? null : Number(text));

/**
 * Make a queue, or change one.
 * @param {{ queue?: QueueRow, onClose: () => void, onDone: (name: string) => void }} props Without `queue`, a new one.
 */
export function QueueForm({ queue, onClose, onDone }) {
  const old = queue?.config;
  const [name, setName] = useState(queue?.name ?? "");
  const [ordering, setOrdering] = useState(old?.ordering ?? "MaxFirst");
  const [kind, setKind] = useState(old?.priority_kind ?? "Numeric");
  const [duplicates, setDuplicates] = useState(old?.allow_duplicates ?? true);
  const [kept, setKept] = useState(old?.protected ?? false);
  const [seconds, setSeconds] = useState(String(old?.dead_letter_ttl_seconds ?? ""));
  const [most, setMost] = useState(String(old?.dead_letter_max ?? ""));
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);

  const request = queue
    ? requests.updateQueue(queue.name, {
        ...(name !== queue.name && { name }),
        ...(duplicates !== old?.allow_duplicates && { allow_duplicates: duplicates }),
        ...(kept !== (old?.protected ?? false) && { protected: kept }),
        ...(seconds !== String(old?.dead_letter_ttl_seconds ?? "") && { dead_letter_ttl_seconds: limit(seconds) }),
        ...(most !== String(old?.dead_letter_max ?? "") && { dead_letter_max: limit(most) }),
      })
    : requests.createQueue(name, {
        ordering,
        priority_kind: kind,
        allow_duplicates: duplicates,
        ...(kept && { protected: true }),
        ...(seconds && { dead_letter_ttl_seconds: limit(seconds) }),
        ...(most && { dead_letter_max: limit(most) }),
      });

  /** @param {Event} event */
  async function submit(event) {
    event.preventDefault();
    setBusy(true);
    setProblem("");
    try {
      await send(request);
      notify(queue ? "The queue was changed" : "The queue was created");
      onDone(name);
      onClose();
    } catch (error) {
      setProblem(sentence(error));
      setBusy(false);
    }
  }

  /** @param {string} title @param {string[][]} choices @param {string} value @param {(value: any) => void} set @param {string} group */
  const radios = (title, choices, value, set, group) => html`
    <fieldset class="field">
      <legend>${title}</legend>
      ${choices.map(
        ([choice, meaning]) => html`
          <label class="choice">
            <input type="radio" name=${group} checked=${value === choice} onChange=${() => set(choice)} />
            <span>${choice}<small>${meaning}</small></span>
          </label>
        `,
      )}
    </fieldset>
  `;
  /** @param {string} title @param {string} meaning @param {boolean} value @param {(value: boolean) => void} set */
  const check = (title, meaning, value, set) => html`
    <label class="choice">
      <input type="checkbox" checked=${value} onChange=${(/** @type {any} */ event) => set(event.target.checked)} />
      <span>${title}<small>${meaning}</small></span>
    </label>
  `;
  /** @param {string} title @param {string} meaning @param {string} value @param {(value: string) => void} set */
  const number = (title, meaning, value, set) => html`
    <label class="field">
      <span>${title}</span>
      <input
        value=${value}
        inputmode="numeric"
        pattern="[1-9][0-9]{0,9}"
        autocomplete="off"
        onInput=${(/** @type {any} */ event) => set(event.target.value)}
      />
      <small>${meaning}</small>
    </label>
  `;
  const refusing = queue && old?.allow_duplicates && !duplicates;

  return html`
    <${Dialog} title=${queue ? "Edit queue" : "New queue"} onClose=${onClose}>
      <form class="stack" onSubmit=${submit}>
        <label class="field">
          <span>Name</span>
          <input
            name="name"
            dir="auto"
            value=${name}
            required
            autofocus
            autocomplete="off"
            spellcheck=${false}
            onInput=${(/** @type {any} */ event) => setName(event.target.value)}
          />
        </label>
        ${!queue && radios("Order", ORDERINGS, ordering, setOrdering, "ordering")}
        ${!queue && radios("Priorities", KINDS, kind, setKind, "kind")}
        ${check("Duplicates", "Messages with equal payloads may be in the queue together", duplicates, setDuplicates)}
        ${check("Protected", "Refuses purge, delete, rename and stricter limits until this is lifted", kept, setKept)}
        <div class="fields">
          ${number("Dead letters kept for", "seconds; empty: for ever", seconds, setSeconds)}
          ${number("Dead letters at most", "the oldest go; empty: any number", most, setMost)}
        </div>
        ${refusing &&
        html`<p class="problem">Of equal messages in the queue, only the first in order is kept. That can't be undone.</p>`}
        ${problem && html`<p class="problem" role="alert">${problem}</p>`}
        <footer class="dialog-footer">
          <${CopyCurl} request=${request} />
          <button type="button" class="button" onClick=${onClose}>Cancel</button>
          <button type="submit" class="button primary" disabled=${busy || readOnly.value || name === ""}>
            ${queue ? "Save" : "Create"}
          </button>
        </footer>
      </form>
    <//>
  `;
}

/** @param {{ name: string }} props */
const NameToCopy = ({ name }) => html`
  <p class="object"><bdi>${name}</bdi><${Copy} compact text=${() => name} label="Copy the name" /></p>
`;

/** @param {{ queue: QueueRow, onClose: () => void, onDone?: () => void }} props */
export function PurgeQueue({ queue, onClose, onDone }) {
  const total = queue.available + queue.locked;
  return html`
    <${Confirm}
      title="Purge queue"
      action=${`Purge ${counted(total, "message")}`}
      typed=${queue.name}
      request=${requests.purgeQueue(queue.name, undoSeconds.value)}
      done=${(/** @type {any} */ answer) => `${counted(answer.purged_messages, "message")} purged`}
      onClose=${onClose}
      onDone=${onDone}
    >
      <${NameToCopy} name=${queue.name} />
      <p>
        ${counted(queue.available, "available message")} and ${counted(queue.locked, "locked one")} are removed, and what
        arrives until then. ${queue.dead > 0 && `Its ${counted(queue.dead, "dead letter")} stay.`} ${undoing.value}
      </p>
    <//>
  `;
}

/** @param {{ queue: QueueRow, onClose: () => void, onDone?: () => void }} props */
export function DeleteQueue({ queue, onClose, onDone }) {
  const total = queue.available + queue.locked + queue.dead;
  return html`
    <${Confirm}
      title="Delete queue"
      action=${total ? `Delete the queue and ${counted(total, "message")}` : "Delete the queue"}
      typed=${queue.name}
      request=${requests.deleteQueue(queue.name, undoSeconds.value)}
      done=${() => "The queue was deleted"}
      onClose=${onClose}
      onDone=${onDone}
    >
      <${NameToCopy} name=${queue.name} />
      <p>
        The queue is removed with ${counted(queue.available, "available message")}, ${counted(queue.locked, "locked one")}
        ${" "}and ${counted(queue.dead, "dead letter")}. ${undoing.value}
      </p>
    <//>
  `;
}
