/**
 * What the address says: the screen and its parameters, all after the '#'.
 *
 * Rule: filters, sorting and the open tab live in the address and nowhere else, so a reload or a link shows the same.
 * `#/queues?search=mail&sort=depth` is the screen `queues` with two parameters.
 */

import { signal } from "../vendor/signals.js";

/** @typedef {{ screen: string, params: Record<string, string> }} Route */

/** @returns {Route} */
function read() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { screen: path || "overview", params: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

export const route = signal(read());

addEventListener("hashchange", () => {
  route.value = read();
});

/**
 * The address of a screen. Empty parameters are left out.
 * @param {string} screen
 * @param {Record<string, string>} [params]
 */
export function link(screen, params = {}) {
  const given = Object.entries(params).filter(([, value]) => value !== "");
  return `#/${screen}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

/**
 * @param {string} screen
 * @param {Record<string, string>} [params]
 */
export function go(screen, params) {
  location.hash = link(screen, params);
}

/**
 * Change parameters of the current screen, without a step in the history.
 * @param {Record<string, string>} changes
 */
export function setParams(changes) {
  const { screen, params } = route.value;
  history.replaceState(null, "", link(screen, { ...params, ...changes }));
  route.value = read();
}
