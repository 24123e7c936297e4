/** The button that changes the theme: as the system, light, dark. */

import { html } from "../html.js";
import { theme } from "../store.js";
import { Icon } from "./icon.js";

/** @type {Record<import("../store.js").Theme, import("../store.js").Theme>} */
const NEXT = { system: "light", light: "dark", dark: "system" };

export const ThemeButton = () => html`
  <button
    type="button"
    class="button quiet square"
    title=${`Theme: ${theme.value}`}
    aria-label=${`Theme: ${theme.value}; change`}
    onClick=${() => (theme.value = NEXT[theme.value])}
  >
    <${Icon} name=${theme.value} />
  </button>
`;
