/** The login: a token is shown once, and the browser gets the cookie of a session, which no script can read. */

import { useState } from "../../vendor/hooks.js";
import { requests, send } from "../api.js";
import { html } from "../html.js";
import { sentence, signedOut } from "../store.js";

export function Login() {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);

  /** @param {Event} event */
  async function submit(event) {
    event.preventDefault();
    setBusy(true);
    setProblem("");
    try {
      await send(requests.login(token));
      signedOut.value = false;
    } catch (error) {
      setProblem(sentence(error));
      setBusy(false);
    }
  }

  return html`
    <section class="empty">
      <h1>Log in</h1>
      <p>This server asks for a token.</p>
      <form class="stack" onSubmit=${submit}>
        <label class="field">
          <span>Token</span>
          <input
            name="token"
            type="password"
            autocomplete="current-password"
            required
            value=${token}
            onInput=${(/** @type {any} */ event) => setToken(event.target.value)}
          />
        </label>
        ${problem && html`<p class="wrong" role="alert">${problem}</p>`}
        <button type="submit" class="button primary" disabled=${busy}>Log in</button>
      </form>
    </section>
  `;
}
