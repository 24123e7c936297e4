/**
 * The server's log, live over the WebSocket: the last records first, then each as it comes.
 *
 * Rule: at most `KEPT` records are held and `SHOWN` drawn, however fast they come. Pausing stops the drawing, not the
 * receiving.
 */

import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { openSocket } from "../api.js";
import { Copy } from "../components/copy.js";
import { Icon } from "../components/icon.js";
import { count, instant } from "../format.js";
import { html } from "../html.js";
import { setParams } from "../router.js";
import { zone } from "../store.js";

/** @typedef {{ key: number, timestamp: string, level: string, message: string }} LogRecord */

const KEPT = 5_000;
const SHOWN = 1_000;
const AGAIN_MS = 2_000;
const LEVELS = ["error", "warn", "info", "debug"];

/** The records, newest last, and how many came. */
function useLog() {
  const records = useRef(/** @type {LogRecord[]} */ ([]));
  const [came, setCame] = useState(0);
  const [connected, setConnected] = useState(false);
  useEffect(() => {
    let ended = false;
    let frame = 0;
    let timer = 0;
    let key = 0;
    /** @type {WebSocket | null} */
    let socket = null;
    const draw = () => {
      frame = 0;
      setCame(key);
    };
    const connect = () => {
      socket = openSocket();
      socket.onopen = () => {
        // What is repeated after a lost connection would be there twice.
        records.current = [];
        setConnected(true);
        socket?.send(JSON.stringify({ type: "subscribe-logs" }));
      };
      socket.onmessage = ({ data }) => {
        const frame_ = JSON.parse(data);
        if (frame_.type !== "log") return;
        const { timestamp, level, message } = frame_;
        records.current.push({ key: ++key, timestamp, level: String(level).toLowerCase(), message });
        if (records.current.length > KEPT + SHOWN) records.current = records.current.slice(-KEPT);
        frame ||= requestAnimationFrame(draw);
      };
      socket.onclose = () => {
        setConnected(false);
        if (!ended) timer = setTimeout(connect, AGAIN_MS);
      };
    };
    connect();
    return () => {
      ended = true;
      clearTimeout(timer);
      cancelAnimationFrame(frame);
      socket?.close();
    };
  }, []);
  return { records: records.current, came, connected };
}

/** @param {{ params: Record<string, string> }} props */
export function LogScreen({ params }) {
  const { records, came, connected } = useLog();
  const [paused, setPaused] = useState(/** @type {{ records: LogRecord[], came: number } | null} */ (null));
  const level = LEVELS.includes(params.level ?? "") ? /** @type {string} */ (params.level) : "debug";
  const text = params.text ?? "";
  const wanted = text.toLowerCase();
  const levels = LEVELS.slice(0, LEVELS.indexOf(level) + 1);
  const passing = (paused?.records ?? records).filter(
    (record) => levels.includes(known(record.level)) && (!wanted || record.message.toLowerCase().includes(wanted)),
  );
  const shown = passing.slice(-SHOWN);
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const atEnd = useRef(true);
  useEffect(() => {
    const element = box.current;
    if (element && atEnd.current && !paused) element.scrollTop = element.scrollHeight;
  });

  return html`
    <section class="fill" aria-labelledby="title">
      <div class="toolbar">
        <h1 id="title">Log</h1>
        <label class="search">
          <${Icon} name="search" />
          <span class="hidden">Text in a record</span>
          <input type="search" data-search placeholder="Filter" value=${text} onInput=${(/** @type {any} */ event) => setParams({ text: event.target.value })} />
        </label>
        <span class="segments" role="group" aria-label="Least severe level">
          ${LEVELS.map(
            (each) => html`<button type="button" aria-pressed=${each === level} onClick=${() => setParams({ level: each })}>${each}</button>`,
          )}
        </span>
        <span class="quiet" role="status">
          ${connected ? `${count(shown.length)} of ${count(records.length)} shown` : "not connected, trying again"}
          ${paused && ` · paused, ${count(came - paused.came)} new`}
        </span>
        <div class="toolbar-end">
          <${Copy} label="Copy" title="Copy what is shown" text=${() => shown.map(line).join("\n")} />
          <button type="button" class="button" aria-pressed=${paused !== null} onClick=${() => setPaused(paused ? null : { records: [...records], came })}>
            <${Icon} name=${paused ? "play" : "pause"} />${paused ? "Go on" : "Pause"}
          </button>
        </div>
      </div>
      <div
        class="table-box log"
        ref=${box}
        tabindex="0"
        role="log"
        aria-label="Log records"
        aria-live="off"
        onScroll=${(/** @type {any} */ event) => {
          const { scrollHeight, scrollTop, clientHeight } = event.target;
          atEnd.current = scrollHeight - scrollTop - clientHeight < 40;
        }}
      >
        ${shown.map(
          (record) => html`
            <div key=${record.key} class="record ${known(record.level)}">
              <time datetime=${record.timestamp} title=${instant(Date.parse(record.timestamp), zone.value)}>
                ${instant(Date.parse(record.timestamp), zone.value).slice(5, 23)}
              </time>
              <b>${record.level}</b>
              <span dir="auto">${record.message}</span>
            </div>
          `,
        )}
        ${shown.length === 0 && html`<div class="empty"><p>${records.length ? "No record passes the filter." : "Nothing was logged yet."}</p></div>`}
      </div>
    </section>
  `;
}

/** The level by which a record is filtered. @param {string} level */
function known(level) {
  if (level.startsWith("warn")) return "warn";
  if (level === "critical") return "error";
  return LEVELS.includes(level) ? level : "info";
}

/** @param {LogRecord} record */
const line = (record) => `${record.timestamp} ${record.level.toUpperCase()} ${record.message}`;
