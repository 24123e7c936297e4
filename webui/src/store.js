/**
 * What all screens share: the server's state, whether it answers, and the user's choices.
 *
 * Rule: a signal here is written by this file only. One heartbeat a second asks for the server's state. When it fails,
 * the page says so at once and keeps asking; the numbers on the screen are greyed until an answer comes.
 */

import { computed, effect, signal } from "../vendor/signals.js";
import { HEARTBEAT_TIMEOUT_MS, Refused, Unreachable, requests, send } from "./api.js";
import { poll } from "./poll.js";

/** @typedef {import("./types.js").ServerInfo} ServerInfo */
/** @typedef {import("./format.js").Zone} Zone */
/** @typedef {"light" | "dark" | "system"} Theme */

const HEARTBEAT_MS = 1_000;

export const server = signal(/** @type {ServerInfo | null} */ (null));
export const lost = signal(false);
/** The server has tokens, and nobody is logged in. */
export const signedOut = signal(false);
/** When the last heartbeat was answered, by the page's clock. */
export const answeredAt = signal(Date.now());
/** The page's clock, once a second. */
export const now = signal(Date.now());
/** The server's clock minus the page's, in ms: locks end by the server's. */
const skew = signal(0);
export const serverNow = computed(() => now.value + skew.value);
export const readOnly = computed(() => server.value?.read_only ?? false);
/** Seconds for which a purge or delete of this page can be undone. In memory mode nothing is kept aside. */
export const undoSeconds = computed(() => (server.value?.storage.mode === "rocksdb" ? 600 : 0));
/** What the dialogs say of that. */
export const undoing = computed(() =>
  undoSeconds.value ? `It can be put back for ${undoSeconds.value / 60} minutes.` : "This can't be undone.",
);

export const theme = signal(/** @type {Theme} */ (remembered("theme", ["light", "dark", "system"]) ?? "system"));
export const zone = signal(/** @type {Zone} */ (remembered("zone", ["local", "utc"]) ?? "local"));

/** What is kept aside. @typedef {{ id: number, expires_at: number }} Undo */
/** Sentences shown for a moment. @type {import("../vendor/signals.js").Signal<{ id: number, text: string, bad: boolean, undo: Undo | null }[]>} */
export const notices = signal([]);
const NOTICE_MS = 6_000;
let notice = 0;

/**
 * @param {string} text
 * @param {boolean} [bad]
 * @param {Undo | null} [undo] What can be put back. The sentence stays as long as that.
 */
export function notify(text, bad = false, undo = null) {
  const id = ++notice;
  notices.value = [...notices.value.slice(-3), { id, text, bad, undo }];
  setTimeout(() => dismiss(id), undo ? undo.expires_at - serverNow.value : bad ? 2 * NOTICE_MS : NOTICE_MS);
}

/** @param {number} id */
export function dismiss(id) {
  notices.value = notices.value.filter((each) => each.id !== id);
}

/** The sentence for an error of `send`. @param {unknown} error */
export function sentence(error) {
  if (error instanceof Refused && error.status === 404 && error.code === "not_found") {
    return "This server does not have this route yet.";
  }
  if (error instanceof Refused || error instanceof Unreachable) return error.message;
  return `The page failed: ${error instanceof Error ? error.message : String(error)}`;
}

/** @param {string} name @param {string[]} allowed */
function remembered(name, allowed) {
  try {
    const value = localStorage.getItem(`qrusty-${name}`);
    return value !== null && allowed.includes(value) ? value : null;
  } catch {
    return null; // storage is forbidden in this browser
  }
}

/** @param {string} name @param {string} value */
function remember(name, value) {
  try {
    localStorage.setItem(`qrusty-${name}`, value);
  } catch {
    // It is forgotten with the page then.
  }
}

/** Start the heartbeat and the clock, and carry the user's choices to the document. */
export function start() {
  effect(() => {
    remember("theme", theme.value);
    if (theme.value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme.value;
  });
  effect(() => remember("zone", zone.value));
  effect(() => {
    document.documentElement.toggleAttribute("data-lost", lost.value);
  });
  effect(() => {
    const environment = server.value?.environment ?? null;
    const icon = /** @type {HTMLLinkElement} */ (document.getElementById("icon"));
    const wanted = new URL(`../icons/${environment?.colour ?? "grey"}.svg`, import.meta.url).href;
    if (icon.href !== wanted) icon.href = wanted;
  });
  setInterval(() => {
    now.value = Date.now();
  }, 1000);
  poll(async (signal) => {
    try {
      const info = await send(requests.server(), { signal, timeout: HEARTBEAT_TIMEOUT_MS });
      server.value = info;
      skew.value = info.now_ms - Date.now();
      lost.value = false;
      signedOut.value = false;
      answeredAt.value = Date.now();
    } catch (error) {
      lost.value = !(error instanceof Refused);
      if (error instanceof Refused && error.status === 401) {
        signedOut.value = true;
        server.value = null;
        answeredAt.value = Date.now();
      }
    }
  }, HEARTBEAT_MS);
}
