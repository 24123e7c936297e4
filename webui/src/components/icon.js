/** Small line icons. Decoration only: what a button does is said by its text or its label. */

import { html } from "../html.js";

/** Icon -> paths on a grid of 16 by 16. */
const PATHS = {
  add: ["M8 3v10", "M3 8h10"],
  close: ["M4 4l8 8", "M12 4l-8 8"],
  copy: ["M6 6h7v7H6z", "M10 6V3H3v7h3"],
  dark: ["M13 9.5A5.5 5.5 0 0 1 6.5 3 5.5 5.5 0 1 0 13 9.5z"],
  down: ["M4 6l4 4 4-4"],
  download: ["M8 2.5v8", "M4.5 7.5L8 11l3.5-3.5", "M3 13.5h10"],
  edit: ["M3 13l.7-3L10.5 3.2l2.3 2.3L6 12.3z"],
  good: ["M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8z", "M5.3 8.2l1.9 1.9 3.5-3.9"],
  light: [
    "M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6z",
    "M8 1.5v1.3M8 13.2v1.3M1.5 8h1.3M13.2 8h1.3M3.4 3.4l.9.9M11.7 11.7l.9.9M3.4 12.6l.9-.9M11.7 4.3l.9-.9",
  ],
  lock: ["M4 7.2h8v6H4z", "M5.6 7V5.2a2.4 2.4 0 0 1 4.8 0V7"],
  more: ["M3.4 8h.2", "M7.9 8h.2", "M12.4 8h.2"],
  pause: ["M5.5 3.5v9", "M10.5 3.5v9"],
  play: ["M5 3.2l7.5 4.8L5 12.8z"],
  refresh: ["M13 8a5 5 0 1 1-1.6-3.7", "M13.2 2.2v2.9h-2.9"],
  search: ["M7 2.8a4.2 4.2 0 1 0 0 8.4 4.2 4.2 0 0 0 0-8.4z", "M10.2 10.2l3.2 3.2"],
  send: ["M2.5 8L13.5 3l-3 10-3-4z", "M7.5 9l6-6"],
  shield: ["M8 1.8l5 1.8v4c0 3.200-2.200 5.400-5 6.600-2.800-1.200-5-3.400-5-6.600v-4z"],
  system: ["M2.5 3h11v7.500h-11z", "M6 13.200h4"],
  up: ["M4 10l4-4 4 4"],
  warn: ["M8 2.200l6.200 11H1.800z", "M8 6.500v3.200", "M8 11.500v.1"],
};

/** @param {{ name: keyof typeof PATHS }} props */
export const Icon = ({ name }) => html`
  <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
    ${PATHS[name].map((path) => html`<path d=${path} />`)}
  </svg>
`;
