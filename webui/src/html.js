/**
 * Markup as tagged templates: `html` makes Preact elements.
 *
 * Rule: text only ever becomes text nodes and attributes. Nothing in this tree sets HTML from a string, and the
 * Content-Security-Policy refuses it.
 */

import htm from "../vendor/htm.js";
import { h } from "../vendor/preact.js";

export const html = htm.bind(h);
