/** What is special about a queue: only what differs from the default is shown. */

import { html } from "../html.js";

/** @param {{ config: import("../types.js").QueueConfig, all?: boolean }} props `all`: the default order, too. */
export const QueueTags = ({ config, all = false }) => html`
  <span class="tags">
    ${(all || config.ordering !== "MaxFirst") && html`<span class="tag">${config.ordering}</span>`}
    ${(all || config.priority_kind !== "Numeric") && html`<span class="tag">${config.priority_kind}</span>`}
    ${!config.allow_duplicates && html`<span class="tag" title="Refuses duplicates">unique</span>`}
    ${config.protected && html`<span class="tag" title="Refuses purge, delete, rename and stricter limits">protected</span>`}
  </span>
`;
