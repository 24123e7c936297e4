/** The bar at the top: where you are, which server this is, whether it answers, and how the page looks. */

import { requests, send } from "../api.js";
import { html } from "../html.js";
import { duration } from "../format.js";
import { link, route } from "../router.js";
import { answeredAt, lost, notify, now, sentence, server, signedOut, zone } from "../store.js";
import { helpOpen } from "./shortcuts.js";
import { ThemeButton } from "./theme.js";

/** @type {[string, string][]} */
const SCREENS = [
  ["overview", "Overview"],
  ["queues", "Queues"],
  ["find", "Find"],
  ["log", "Log"],
  ["timings", "Timings"],
  ["audit", "Audit"],
];

async function logOut() {
  try {
    await send(requests.logout());
    server.value = null;
    signedOut.value = true;
  } catch (error) {
    notify(sentence(error), true);
  }
}

export function Header() {
  const info = server.value;
  const here = route.value.screen === "queue" ? "queues" : route.value.screen;
  const environment = info?.environment;
  const age = now.value - answeredAt.value;
  return html`
    <header class="top">
      <a class="brand" href=${link("overview")}><span class="brand-mark" aria-hidden="true"><i></i><i></i><i></i></span>Qrusty</a>
      ${environment && html`<span class="environment ${environment.colour}" title="Environment"><bdi>${environment.name}</bdi></span>`}
      <nav aria-label="Screens">
        ${SCREENS.map(
          ([screen, title]) =>
            html`<a href=${link(screen)} aria-current=${here === screen ? "page" : undefined}>${title}</a>`,
        )}
        <a href="../docs">API</a>
      </nav>
      <div class="top-end">
        <span class="pulse ${lost.value ? "bad" : ""}" title="Since the server last answered">
          <i aria-hidden="true"></i>${lost.value ? "lost" : info ? "live" : "…"}${age > 2500 && ` · ${duration(age)}`}
        </span>
        <button
          type="button"
          class="button quiet"
          title="Zone of times"
          aria-label=${`Times are ${zone.value === "utc" ? "UTC" : "local"}; change`}
          onClick=${() => (zone.value = zone.value === "utc" ? "local" : "utc")}
        >
          ${zone.value === "utc" ? "UTC" : "Local"}
        </button>
        ${info?.token &&
        html`<button type="button" class="button quiet" title=${`Log out ${info.token.name}: ${info.token.grants.join(", ")}`} onClick=${logOut}>
          <bdi>${info.token.name}</bdi> · Log out
        </button>`}
        <${ThemeButton} />
        <button type="button" class="button quiet square" title="Keys (?)" aria-label="Keys" onClick=${() => (helpOpen.value = true)}>?</button>
      </div>
    </header>
  `;
}
