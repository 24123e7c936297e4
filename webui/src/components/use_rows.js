/**
 * Which rows of a long list are on the screen, so that only those are asked for and drawn.
 *
 * Rule: every row has the same height. The rest of the list is two empty spaces, above and below.
 */

import { useEffect, useRef, useState } from "../../vendor/hooks.js";

export const ROW_PX = 36;
/** Rows are asked for in whole pages, so a small scroll asks for nothing new. */
const PAGE = 50;
/** Rows drawn above and below what is visible. */
const AROUND = 8;

/**
 * @param {number} total Rows of the whole list.
 */
export function useRows(total) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [view, setView] = useState({ top: 0, height: 800 });
  useEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    let frame = 0;
    const read = () => {
      frame = 0;
      setView({ top: element.scrollTop, height: element.clientHeight });
    };
    const soon = () => {
      frame ||= requestAnimationFrame(read);
    };
    element.addEventListener("scroll", soon, { passive: true });
    const sizes = new ResizeObserver(soon);
    sizes.observe(element);
    read();
    return () => {
      element.removeEventListener("scroll", soon);
      sizes.disconnect();
      cancelAnimationFrame(frame);
    };
  }, []);
  const first = Math.max(0, Math.floor(view.top / ROW_PX) - AROUND);
  const last = Math.min(total, Math.ceil((view.top + view.height) / ROW_PX) + AROUND);
  const offset = Math.floor(first / PAGE) * PAGE;
  return {
    box,
    first: Math.min(first, last),
    last,
    offset,
    limit: Math.max(PAGE, Math.ceil((last - offset) / PAGE) * PAGE),
  };
}
