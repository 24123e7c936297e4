/** Puts back what a purge or delete has kept aside. */

import { Refused, requests, send } from "../api.js";
import { counted } from "../format.js";
import { notify, sentence } from "../store.js";
import { refreshes } from "./use_answer.js";

/** A million messages take this long, and it goes on where it was when it is asked for again. */
const TIMEOUT_MS = 120_000;

/**
 * @param {number} id
 * @param {string} [to] The name of a new queue for it.
 * @returns {Promise<{ problem: string, named: boolean }>} What was wrong ("" for nothing), and whether another name helps.
 */
export async function putBack(id, to) {
  try {
    const { queue, restored_messages: restored, refused } = await send(requests.restore(id, to), { timeout: TIMEOUT_MS });
    notify(`${counted(restored, "message")} put back into ${queue}`);
    refreshes.value += 1;
    if (!refused) return { problem: "", named: false };
    return { problem: `${counted(refused, "message")} not put back, as ${queue} has equal ones and refuses duplicates.`, named: true };
  } catch (error) {
    refreshes.value += 1;
    if (error instanceof Refused && error.status === 404) return { problem: "It is not kept any more.", named: false };
    return { problem: sentence(error), named: error instanceof Refused && error.status === 409 };
  }
}
