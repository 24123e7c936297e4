/** The newest answer to a request, asked again and again while the component is on the screen. */

import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { signal } from "../../vendor/signals.js";
import { address } from "../curl.js";
import { send } from "../api.js";
import { poll } from "../poll.js";

const HERE = new URL("http://here/");

/** Counts the user's wishes for fresh numbers; every poll asks at once when it changes. */
export const refreshes = signal(0);

/**
 * The last answer stays until the next one.
 * @param {import("../curl.js").Request | null} request Null asks nothing.
 * @param {number} [interval] Milliseconds.
 * @param {boolean} [keep] Whether the answer to the last request stays until that to a changed one comes.
 * @returns {{ data: any, error: unknown, refresh: () => void }}
 */
export function useAnswer(request, interval = 2_000, keep = false) {
  const key = request ? address(request, HERE).href : "";
  const [state, setState] = useState({ key: "", data: /** @type {any} */ (null), error: /** @type {unknown} */ (null) });
  const polling = useRef(/** @type {import("../poll.js").Poll | null} */ (null));
  const wish = refreshes.value;
  useEffect(() => {
    if (!request) return undefined;
    const current = poll(async (signal) => {
      try {
        const data = await send(request, { signal });
        if (!signal.aborted) setState({ key, data, error: null });
      } catch (error) {
        if (!signal.aborted) setState((before) => ({ key, data: keep || before.key === key ? before.data : null, error }));
      }
    }, interval);
    polling.current = current;
    return current.stop;
  }, [key, interval]);
  useEffect(() => {
    if (wish) polling.current?.now();
  }, [wish]);
  const fresh = state.key === key;
  return {
    data: fresh || keep ? state.data : null,
    error: fresh ? state.error : null,
    refresh: () => polling.current?.now(),
  };
}
