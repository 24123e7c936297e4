/** The page: the header, what concerns everything, and the screen that the address names. */

import { render } from "../vendor/preact.js";
import { useEffect } from "../vendor/hooks.js";
import { Banners } from "./components/banner.js";
import { Header } from "./components/header.js";
import { Notices } from "./components/notices.js";
import { Shortcuts } from "./components/shortcuts.js";
import { html } from "./html.js";
import { link, route } from "./router.js";
import { AuditScreen } from "./screens/audit.js";
import { Find } from "./screens/find.js";
import { Login } from "./screens/login.js";
import { LogScreen } from "./screens/log.js";
import { Overview } from "./screens/overview.js";
import { QueueScreen } from "./screens/queue.js";
import { Queues } from "./screens/queues.js";
import { TimingsScreen } from "./screens/timings.js";
import { server, signedOut, start } from "./store.js";

/** @type {Record<string, { title: (params: Record<string, string>) => string, view: import("../vendor/preact.js").FunctionComponent<any> }>} */
const SCREENS = {
  overview: { title: () => "Overview", view: Overview },
  queues: { title: () => "Queues", view: Queues },
  queue: { title: (params) => params.name ?? "Queue", view: QueueScreen },
  find: { title: () => "Find", view: Find },
  log: { title: () => "Log", view: LogScreen },
  timings: { title: () => "Timings", view: TimingsScreen },
  audit: { title: () => "Audit", view: AuditScreen },
};

const Missing = () => html`
  <section class="empty"><h1>There is no such screen</h1><p><a href=${link("overview")}>To the overview</a></p></section>
`;

function Page() {
  const { screen, params } = route.value;
  const shown = SCREENS[screen];
  const environment = server.value?.environment?.name;
  const title = [shown?.title(params) ?? "Qrusty", "Qrusty", environment].filter(Boolean).join(" · ");
  useEffect(() => {
    document.title = title;
  }, [title]);
  if (signedOut.value) return html`<main id="main" tabindex="-1"><${Login} /></main><${Notices} />`;
  return html`
    <a class="skip" href="#main" onClick=${skip}>To the content</a>
    <${Header} />
    <${Banners} />
    <main id="main" tabindex="-1"><${shown?.view ?? Missing} key=${screen + (params.name ?? "")} params=${params} /></main>
    <${Notices} />
    <${Shortcuts} />
  `;
}

/** The address after '#' is the screen's, so this link moves the focus by itself. @param {Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

start();
const root = /** @type {HTMLElement} */ (document.getElementById("app"));
root.replaceChildren();
render(html`<${Page} />`, root);
