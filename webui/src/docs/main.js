/**
 * The page at /docs: the API to read and to try.
 *
 * Rule: the address has the operation and the search, so each can be linked: `docs#/publish`, `docs#/?search=dead`.
 */

import { render } from "../../vendor/preact.js";
import { useEffect, useState } from "../../vendor/hooks.js";
import { requests, send } from "../api.js";
import { Banners } from "../components/banner.js";
import { Icon } from "../components/icon.js";
import { Notices } from "../components/notices.js";
import { ThemeButton } from "../components/theme.js";
import { html } from "../html.js";
import { link, route, setParams } from "../router.js";
import { sentence, server, start } from "../store.js";
import { FrameView, Method, OperationView, Words } from "./entry.js";
import { found, isFrame, nameOf, readApi } from "./spec.js";

/** @typedef {import("./spec.js").Api} Api */

const RETRY_MS = 2_000;

/** Where the address leads if it names nothing. */
const START = "overview";

function Header() {
  const environment = server.value?.environment;
  return html`
    <header class="top">
      <a class="brand" href="ui/"><span class="brand-mark" aria-hidden="true"><i></i><i></i><i></i></span>Qrusty</a>
      ${environment && html`<span class="environment ${environment.colour}" title="Environment"><bdi>${environment.name}</bdi></span>`}
      <nav aria-label="Pages"><a href="ui/">Web UI</a><a href=${link(START)} aria-current="page">API</a></nav>
      <div class="top-end">
        <a class="button quiet" href="openapi.json">OpenAPI</a>
        <a class="button quiet" href="asyncapi.json">AsyncAPI</a>
        <${ThemeButton} />
      </div>
    </header>
  `;
}

/** @param {{ api: Api, current: string, search: string }} props */
function List({ api, current, search }) {
  const entries = found(api, search);
  return html`
    <nav class="docs-list" aria-label="Operations">
      <label class="search">
        <${Icon} name="search" />
        <span class="hidden">Search</span>
        <input type="search" data-search placeholder="Path, field, code …  /" value=${search} onInput=${(/** @type {any} */ event) => setParams({ search: event.target.value })} />
      </label>
      <p class="hidden" role="status">${entries.length} found</p>
      ${entries.length === 0 && html`<p class="quiet">Nothing has all these words.</p>`}
      ${api.groups.map((group) => {
        const shown = entries.filter((entry) => entry.group === group);
        return (
          shown.length > 0 &&
          html`
            <h2>${group}</h2>
            <ul>
              ${shown.map(
                (entry) => html`
                  <li key=${entry.id}>
                    <a href=${link(entry.id, { search })} aria-current=${entry.id === current ? "page" : undefined} title=${entry.summary}>
                      <${Method} method=${isFrame(entry) ? "WS" : entry.method} />
                      <span>${isFrame(entry) ? entry.type : entry.path}</span>
                    </a>
                  </li>
                `,
              )}
            </ul>
          `
        );
      })}
    </nav>
  `;
}

/** @param {{ api: Api }} props */
const Start = ({ api }) => html`
  <article class="stack large docs-entry">
    <header class="stack">
      <h1>${api.title} ${api.version}</h1>
      <p class="docs-lead"><${Words} text=${api.about} /></p>
    </header>
    <section class="stack">
      <h2>To begin with</h2>
      <p>
        <a href=${link("create_queue")}>Make a queue</a>, <a href=${link("publish")}>publish a message</a>,
        ${" "}<a href=${link("consume")}>consume it</a>, and <a href=${link("ack")}>ack it</a>. Each page sends what you type to
        this server, and shows the same as a curl command.
      </p>
    </section>
    <section class="stack">
      <h2>For programs</h2>
      <ul class="docs-links">
        <li><a href="openapi.json">OpenAPI 3.1</a>: all HTTP routes. This page is made of it.</li>
        <li><a href="asyncapi.json">AsyncAPI 3</a>: the frames of the WebSocket at <code>/ws</code>.</li>
        <li><a href="metrics">Metrics</a> for Prometheus.</li>
      </ul>
      <p class="quiet">How a connection over WebSocket lives and ends is told in docs/reference/websocket.md, with the source code.</p>
    </section>
  </article>
`;

const Missing = () => html`
  <section class="empty"><h1>There is no such operation</h1><p><a href=${link(START)}>To the beginning</a></p></section>
`;

/** The API once it was read. It goes on asking until then. */
function useApi() {
  const [api, setApi] = useState(/** @type {Api | null} */ (null));
  const [problem, setProblem] = useState("");
  useEffect(() => {
    let gone = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let again;
    async function read() {
      try {
        const [openapi, asyncapi] = await Promise.all([send(requests.openapi()), send(requests.asyncapi())]);
        if (gone) return;
        setApi(readApi(openapi, asyncapi));
        setProblem("");
      } catch (error) {
        if (gone) return;
        setProblem(sentence(error));
        again = setTimeout(read, RETRY_MS);
      }
    }
    void read();
    return () => {
      gone = true;
      clearTimeout(again);
    };
  }, []);
  return { api, problem };
}

function Page() {
  const { api, problem } = useApi();
  const { screen, params } = route.value;
  const entry = api?.entries.find((each) => each.id === screen);
  const title = [entry ? nameOf(entry) : "API", "Qrusty", server.value?.environment?.name].filter(Boolean).join(" · ");
  useEffect(() => {
    document.title = title;
  }, [title]);
  useEffect(() => {
    scrollTo(0, 0);
  }, [screen]);
  useEffect(() => {
    const onKey = (/** @type {KeyboardEvent} */ event) => {
      const target = /** @type {HTMLElement} */ (event.target);
      if (event.key !== "/" || event.ctrlKey || event.altKey || event.metaKey || target.closest?.("input, textarea, select")) return;
      /** @type {HTMLElement | null} */ (document.querySelector("[data-search]"))?.focus();
      event.preventDefault();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  const view = api && (entry ? (isFrame(entry) ? html`<${FrameView} entry=${entry} />` : html`<${OperationView} entry=${entry} />`) : screen === START ? html`<${Start} api=${api} />` : html`<${Missing} />`);
  return html`
    <a class="skip" href="#main" onClick=${skip}>To the content</a>
    <${Header} />
    <${Banners} />
    <div class="docs ${screen === START ? "docs-start" : ""}">
      ${api && html`<${List} api=${api} current=${screen} search=${params.search ?? ""} />`}
      <main id="main" tabindex="-1">
        ${screen !== START && html`<p class="docs-back"><a href=${link(START, { search: params.search ?? "" })}>All operations</a></p>`}
        ${!api && (problem ? html`<p class="problem" role="alert">${problem}</p>` : html`<p class="loading" role="status">Loading …</p>`)}
        ${view}
      </main>
    </div>
    <${Notices} />
  `;
}

/** The address after '#' is the operation's, so this link moves the focus by itself. @param {Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

start();
const root = /** @type {HTMLElement} */ (document.getElementById("app"));
root.replaceChildren();
render(html`<${Page} />`, root);
