/**
 * A modal dialog: the browser keeps the focus inside, closes it on Escape and gives the focus back.
 *
 * Rule: what opens a dialog owns whether it is open; `onClose` is called however it is closed.
 */

import { useEffect, useRef } from "../../vendor/hooks.js";
import { html } from "../html.js";
import { Icon } from "./icon.js";

/**
 * @param {{ title: string, onClose: () => void, children?: any, wide?: boolean }} props
 */
export function Dialog({ title, onClose, children, wide = false }) {
  const element = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const gone = useRef(false);
  useEffect(() => {
    const dialog = element.current;
    dialog?.showModal();
    return () => {
      // Closing gives the focus back. It is no wish of the user's then: another dialog may follow this one.
      gone.current = true;
      dialog?.close();
    };
  }, []);
  return html`
    <dialog
      ref=${element}
      class="dialog ${wide ? "wide" : ""}"
      aria-labelledby="dialog-title"
      onClose=${() => !gone.current && onClose()}
      onClick=${(/** @type {MouseEvent} */ event) => event.target === element.current && onClose()}
    >
      <div class="dialog-body">
        <header class="dialog-header">
          <h2 id="dialog-title">${title}</h2>
          <button type="button" class="button quiet square" aria-label="Close" onClick=${onClose}><${Icon} name="close" /></button>
        </header>
        ${children}
      </div>
    </dialog>
  `;
}
