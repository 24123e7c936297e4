/** A list in pages by cursor: what is on the screen stays until the next page is asked for. */

import { useEffect, useState } from "../../vendor/hooks.js";
import { html } from "../html.js";

/**
 * The cursors of the pages up to the present one.
 * @param {string} key Changes with the filter; then the list begins anew.
 */
export function usePages(key) {
  const [state, setState] = useState({ key, cursors: /** @type {string[]} */ ([""]) });
  const cursors = state.key === key ? state.cursors : [""];
  useEffect(() => setState({ key, cursors: [""] }), [key]);
  return {
    cursor: cursors.at(-1) ?? "",
    page: cursors.length,
    /** @param {string} cursor */
    next: (cursor) => setState({ key, cursors: [...cursors, cursor] }),
    previous: () => setState({ key, cursors: cursors.slice(0, -1) }),
    restart: () => setState({ key, cursors: [""] }),
  };
}

/** @param {{ pages: ReturnType<typeof usePages>, further: string | null | undefined, children?: any }} props */
export const Pager = ({ pages, further, children }) => html`
  <nav class="pager" aria-label="Pages">
    <span class="quiet">${children}</span>
    <button type="button" class="button" disabled=${pages.page === 1} onClick=${pages.previous}>Previous</button>
    <span class="quiet tabular">page ${pages.page}</span>
    <button type="button" class="button" disabled=${!further} onClick=${() => further && pages.next(further)}>Next</button>
  </nav>
`;
