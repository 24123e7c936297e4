/**
 * Asking the server again and again, without ever having two requests of a kind under way.
 *
 * Rule: the next request is made an interval after the answer to the last one, so a slow server is not pushed. A tab
 * that nobody sees asks every `HIDDEN_MS`.
 */

export const HIDDEN_MS = 30_000;
/** A step faster than this would only load the server. */
export const MINIMUM_MS = 1_000;

/**
 * @typedef {object} Poll
 * @property {() => void} now Ask at once.
 * @property {() => void} stop
 */

/**
 * Call `ask` at once, and then an interval after each of its ends.
 * @param {(signal: AbortSignal) => Promise<unknown>} ask Handles its own errors.
 * @param {number} interval Milliseconds, at least MINIMUM_MS.
 * @returns {Poll}
 */
export function poll(ask, interval) {
  const ending = new AbortController();
  let timer = 0;
  let asking = false;
  let again = false;

  async function step() {
    clearTimeout(timer);
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    again = false;
    try {
      await ask(ending.signal);
    } finally {
      asking = false;
      if (!ending.signal.aborted) {
        const pause = document.hidden ? HIDDEN_MS : Math.max(interval, MINIMUM_MS);
        timer = setTimeout(step, again ? 0 : pause);
      }
    }
  }

  const onVisible = () => {
    if (!document.hidden) void step();
  };
  document.addEventListener("visibilitychange", onVisible);
  void step();
  return {
    now: () => void step(),
    stop() {
      ending.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisible);
    },
  };
}
