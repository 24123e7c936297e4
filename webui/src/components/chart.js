/**
 * Lines over time, by uPlot: drag to zoom, double-click to zoom out, values under the pointer.
 *
 * Rule: the canvas takes its colours from the style sheet, and is drawn again when the theme changes.
 */

import { useEffect, useRef } from "../../vendor/hooks.js";
import uPlot from "../../vendor/uPlot.js";
import { clock } from "../format.js";
import { html } from "../html.js";
import { theme, zone } from "../store.js";

/**
 * @typedef {object} Line
 * @property {string} label
 * @property {string} colour The name of a token, such as `--chart-1`.
 * @property {boolean} [fill]
 * @property {string} [scale]
 */

const HEIGHT = 170;
/** A chart that has just begun shows this much time. */
const LEAST_SECONDS = 60;

/** A token's colour in the present theme. @param {string} token */
function resolved(token) {
  const probe = document.createElement("span");
  probe.style.color = `var(${token})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

/** @param {string} colour rgb(r, g, b) @param {number} alpha */
const faded = (colour, alpha) => colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);

/**
 * @param {Line[]} lines
 * @param {(value: number) => string} show
 * @param {number} width
 * @param {boolean} logarithmic
 * @returns {uPlot.Options}
 */
function options(lines, show, width, logarithmic) {
  const quiet = resolved("--text-quiet");
  const grid = { stroke: resolved("--chart-grid"), width: 1 };
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  return {
    width,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    cursor: { points: { size: 6 }, drag: { x: true, y: false } },
    scales: {
      x: { time: true, range: (_, least, most) => [Math.min(least ?? 0, (most ?? 0) - LEAST_SECONDS), most ?? 0] },
      y: logarithmic
        ? { distr: 3 }
        : { range: (_, least, most) => [Math.min(0, least ?? 0), Math.max(most ?? 0, 1) * 1.08] },
    },
    axes: [
      {
        stroke: quiet,
        grid,
        ticks: grid,
        font,
        values: (_, splits) => splits.map((second) => clock(second * 1000, zone.peek())),
        space: 76,
        size: 30,
      },
      { stroke: quiet, grid, ticks: grid, font, size: 52, values: (_, splits) => splits.map((v) => (v == null ? "" : show(v))) },
    ],
    series: [
      { value: (_, second) => (second == null ? "" : clock(second * 1000, zone.peek())), label: "Time" },
      ...lines.map((line) => {
        const colour = resolved(line.colour);
        return {
          label: line.label,
          stroke: colour,
          width: 1.75,
          points: { show: false },
          spanGaps: false,
          ...(line.fill && { fill: faded(colour, 0.12) }),
          value: (/** @type {uPlot} */ _, /** @type {number | null} */ value) => (value == null ? "–" : show(value)),
        };
      }),
    ],
  };
}

/**
 * @param {object} props
 * @param {string} props.label What the chart shows, in words.
 * @param {Line[]} props.lines
 * @param {(number | null)[][]} props.data Seconds since 1970, then the values of each line.
 * @param {(value: number) => string} props.show A value as text.
 * @param {boolean} [props.logarithmic]
 */
export function Chart({ label, lines, data, show, logarithmic = false }) {
  const place = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {uPlot | null} */ (null));
  const zoomed = useRef(false);
  const latest = useRef(data);
  latest.current = data;

  useEffect(() => {
    const element = place.current;
    if (!element) return undefined;
    const draw = () => {
      plot.current?.destroy();
      const made = options(lines, show, Math.max(element.clientWidth, 200), logarithmic);
      made.hooks = {
        setSelect: [
          (chart) => {
            if (chart.select.width > 0) zoomed.current = true;
          },
        ],
      };
      plot.current = new uPlot(made, /** @type {any} */ (latest.current), element);
      plot.current.over.addEventListener("dblclick", () => {
        zoomed.current = false;
      });
    };
    draw();
    let width = element.clientWidth;
    const sizes = new ResizeObserver(() => {
      if (element.clientWidth === width) return;
      width = element.clientWidth;
      plot.current?.setSize({ width: Math.max(width, 200), height: HEIGHT });
    });
    sizes.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", draw);
    return () => {
      scheme.removeEventListener("change", draw);
      sizes.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [theme.value, zone.value, lines.map((line) => line.label).join(), logarithmic]);

  useEffect(() => {
    // A zoomed chart keeps its section while new values arrive.
    plot.current?.setData(/** @type {any} */ (data), !zoomed.current);
    if (zoomed.current) plot.current?.redraw();
  }, [data]);

  return html`<div class="chart" role="img" aria-label=${label}><div ref=${place}></div></div>`;
}
