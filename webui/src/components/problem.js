/** Why an answer is missing, in a sentence. Nothing while the server is lost: the banner says that. */

import { Unreachable } from "../api.js";
import { html } from "../html.js";
import { sentence } from "../store.js";

/** @param {{ error: unknown }} props */
export const Problem = ({ error }) =>
  error && !(error instanceof Unreachable) ? html`<p class="problem" role="alert">${sentence(error)}</p>` : null;
