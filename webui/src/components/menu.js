/** A button that opens a list of actions. Arrow keys move, Escape closes and gives the focus back. */

import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { html } from "../html.js";
import { Icon } from "./icon.js";

/** @typedef {{ label: string, run: () => void, danger?: boolean, disabled?: boolean }} Action */

/** @param {{ label: string, actions: Action[] }} props */
export function Menu({ label, actions }) {
  const [open, setOpen] = useState(false);
  const [up, setUp] = useState(false);
  const root = useRef(/** @type {HTMLDivElement | null} */ (null));
  const button = useRef(/** @type {HTMLButtonElement | null} */ (null));
  const items = () => /** @type {HTMLElement[]} */ ([...(root.current?.querySelectorAll("[role=menuitem]") ?? [])]);

  useEffect(() => {
    if (!open) return undefined;
    items()[0]?.focus();
    const outside = (/** @type {Event} */ event) => {
      if (!root.current?.contains(/** @type {Node} */ (event.target))) setOpen(false);
    };
    document.addEventListener("pointerdown", outside);
    return () => document.removeEventListener("pointerdown", outside);
  }, [open]);

  const close = () => {
    setOpen(false);
    button.current?.focus();
  };
  const toggle = () => {
    const box = button.current?.getBoundingClientRect();
    setUp(!!box && box.bottom + 34 * actions.length + 16 > innerHeight);
    setOpen(!open);
  };
  /** @param {KeyboardEvent} event */
  function onKey(event) {
    const all = items();
    const at = all.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const steps = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 };
    if (event.key === "Escape") close();
    else if (event.key === "Tab") return setOpen(false);
    else if (event.key in steps) all.at(steps[/** @type {keyof typeof steps} */ (event.key)] % all.length)?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  return html`
    <div class="menu" ref=${root} onKeyDown=${open ? onKey : undefined}>
      <button
        type="button"
        ref=${button}
        class="button quiet square"
        aria-label=${label}
        aria-haspopup="menu"
        aria-expanded=${open}
        onClick=${toggle}
      >
        <${Icon} name="more" />
      </button>
      ${open &&
      html`
        <div class="menu-list ${up ? "up" : ""}" role="menu" aria-label=${label}>
          ${actions.map(
            (action) => html`
              <button
                type="button"
                role="menuitem"
                tabindex="-1"
                class="menu-item ${action.danger ? "danger" : ""}"
                disabled=${action.disabled}
                onClick=${() => {
                  close();
                  action.run();
                }}
              >
                ${action.label}
              </button>
            `,
          )}
        </div>
      `}
    </div>
  `;
}
