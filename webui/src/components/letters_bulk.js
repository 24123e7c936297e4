/**
 * Requeues or purges dead letters: counts first, then asks.
 *
 * Rule: the dry run has the target of the real request, so what that queue would refuse is known before. Its bound goes
 * with the real request. A changed target is counted anew, and until then the button is off.
 */

import { useEffect, useState } from "../../vendor/hooks.js";
import { requests, send } from "../api.js";
import { count, counted } from "../format.js";
import { html } from "../html.js";
import { sentence } from "../store.js";
import { Confirm } from "./confirm.js";
import { Dialog } from "./dialog.js";
import { PayloadLine } from "./message.js";

/** @typedef {import("../types.js").Message} Message */
/** @typedef {import("../types.js").QueueRow} QueueRow */
/** @typedef {{ verb: "requeue" | "purge", which: Record<string, unknown>, what: string }} Bulk */
/** @typedef {{ to: string, priority: string }} Target Empty: where it came from, and its own. */

const TYPING_MS = 300;

/** @param {{ row: QueueRow, bulk: Bulk, onClose: () => void, onDone: () => void }} props */
export function LettersBulk({ row, bulk, onClose, onDone }) {
  const [target, setTarget] = useState(/** @type {Target} */ ({ to: "", priority: "" }));
  const [counting, setCounting] = useState(/** @type {{ which: Record<string, unknown>, answer: any } | null} */ (null));
  const [problem, setProblem] = useState("");
  const make = bulk.verb === "requeue" ? requests.requeue : requests.purgeDeadLetters;
  useEffect(() => {
    const ending = new AbortController();
    const timer = setTimeout(
      async () => {
        try {
          const which = { ...bulk.which, ...(await changes(row, target, ending.signal)) };
          const answer = await send(make(row.name, { ...which, dry_run: true }), { signal: ending.signal });
          setProblem("");
          setCounting({ which, answer });
        } catch (error) {
          if (!ending.signal.aborted) setProblem(error instanceof RangeError ? error.message : sentence(error));
        }
      },
      counting === null ? 0 : TYPING_MS,
    );
    return () => {
      clearTimeout(timer);
      ending.abort();
    };
  }, [target]);
  const title = bulk.verb === "requeue" ? "Requeue dead letters" : "Purge dead letters";
  if (counting === null) {
    return html`
      <${Dialog} title=${title} onClose=${onClose}>
        ${problem ? html`<p class="problem" role="alert">${problem}</p>` : html`<p class="quiet" role="status">Counting …</p>`}
      <//>
    `;
  }
  const { which, answer } = counting;
  const current = problem === "" && (which.to ?? "") === target.to && String(which.priority ?? "") === target.priority;
  const letters = counted(answer.count, "dead letter");
  const many = answer.count - answer.samples.length;
  const verb = bulk.verb === "requeue" ? "Requeue" : "Purge";
  return html`
    <${Confirm}
      title=${title}
      action=${`${verb} ${letters}`}
      danger=${bulk.verb === "purge"}
      typed=${bulk.verb === "purge" ? row.name : undefined}
      ready=${current}
      request=${make(row.name, { ...which, up_to: answer.up_to })}
      done=${(/** @type {any} */ result) => outcome(bulk.verb, result)}
      onClose=${onClose}
      onDone=${onDone}
    >
      <p class="object"><bdi>${row.name}</bdi></p>
      <p>
        ${letters}: ${bulk.what}.
        ${bulk.verb === "requeue"
          ? " Each goes to its place in the order, with its deliveries counted from zero."
          : " They are removed with their payloads. This can't be undone."}
        ${" "}Those that die from now on are not touched.
      </p>
      ${bulk.verb === "requeue" && html`<${TargetFields} row=${row} target=${target} set=${setTarget} />`}
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <ul class="samples">
        ${answer.samples.map((/** @type {Message} */ letter) => html`<li key=${letter.id}><code>${letter.id.slice(-8)}</code> <${PayloadLine} message=${letter} /></li>`)}
        ${many > 0 && html`<li class="quiet">and ${count(many)} more</li>`}
      </ul>
      ${answer.not_eligible?.length > 0 &&
      html`<p class="problem">${counted(answer.refused, "dead letter")} can't be requeued. The first: ${answer.not_eligible[0].error}</p>`}
    <//>
  `;
}

/** @param {{ row: QueueRow, target: Target, set: (target: Target) => void }} props */
const TargetFields = ({ row, target, set }) => html`
  <div class="fields">
    <label class="field">
      <span>To queue</span>
      <input
        dir="auto"
        value=${target.to}
        placeholder=${row.name}
        autocomplete="off"
        spellcheck=${false}
        onInput=${(/** @type {any} */ event) => set({ ...target, to: event.target.value })}
      />
      <small>empty: where they came from</small>
    </label>
    <label class="field">
      <span>Priority</span>
      <input
        value=${target.priority}
        autocomplete="off"
        spellcheck=${false}
        onInput=${(/** @type {any} */ event) => set({ ...target, priority: event.target.value })}
      />
      <small>empty: each keeps its own</small>
    </label>
  </div>
`;

/**
 * What the target adds to a request. Throws RangeError if it can't be, and what `send` throws.
 * @param {QueueRow} row
 * @param {Target} target
 * @param {AbortSignal} signal
 */
async function changes(row, target, signal) {
  const to = target.to === "" ? {} : { to: target.to };
  if (target.priority === "") return to;
  /** @type {QueueRow | undefined} */
  const queue = target.to === "" ? row : (await send(requests.queueList({ name: target.to }), { signal })).queues[0];
  if (queue?.config.priority_kind !== "Numeric") return { ...to, priority: target.priority };
  if (!/^\d{1,20}$/.test(target.priority)) throw new RangeError("The priority must be a number from 0 to 2⁶⁴ − 1");
  return { ...to, priority: BigInt(target.priority) };
}

/** @param {string} verb @param {any} answer */
function outcome(verb, answer) {
  if (verb === "purge") return `${counted(answer.purged, "dead letter")} purged`;
  const refused = answer.refused ? `, ${count(answer.refused)} refused` : "";
  return `${counted(answer.requeued, "dead letter")} requeued${refused}`;
}
