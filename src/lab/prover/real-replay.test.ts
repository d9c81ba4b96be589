import { deepEqual, equal, match } from "node:assert/strict";
import { test } from "node:test";
import { type EventCode, encodeInjection, encodeStart } from "./event-code.ts";
import { INJECTION_KINDS } from "./injection.ts";
import { type RealReplay, replayReal } from "./real-replay.ts";
import { replayEvents } from "./replay-file.ts";
import type { Found } from "./search.ts";
import { FORGOTTEN_TRAINING, FORGOTTEN_TRAINING_SIGNATURE } from "./testing-configuration.ts";

const RUN_GUEST = encodeStart(0, 1);
const YIELD = encodeStart(0, 2);
const NMI = INJECTION_KINDS.indexOf("nmi sensitive");

function real(path: readonly EventCode[], signature = FORGOTTEN_TRAINING_SIGNATURE): RealReplay {
  const found: Found = { path, finding: { signature, message: "" } };
  return replayReal({ configuration: FORGOTTEN_TRAINING, events: replayEvents(FORGOTTEN_TRAINING, path), found });
}

test("a counterexample of S1 is reproduced with real code, its injection at the same place, and the entries that leak are shown", () => {
  const result = real([[YIELD], [RUN_GUEST, encodeInjection(60, NMI)]]);
  deepEqual([result.isReproduced, result.injected], [true, 1]);
  match(result.why, /^event 2: S1 .* task pid 2 \(process-1\), branch target buffer of mm 2 /);
  match(
    result.leaked[0] ?? "",
    /^branch target buffer: an entry that leads to 0x4008[0-9a-f]+, trained by process-0 \(pid 1\) in user mode$/,
  );
});

test("what is not real says so: no such finding, a place that only the abstract machine has", () => {
  const other = real([[YIELD]]);
  equal(other.isReproduced, false);
  match(
    other.why,
    /^it does not come again on the abstract machine either: nothing was found, but while the processes set up what they need: S1 /,
  );
  // The first steps of a system call are those of its entry stub: the finding comes without that injection, which is said.
  const inside = real([[YIELD], [RUN_GUEST, encodeInjection(3, NMI)]]);
  deepEqual([inside.isReproduced, inside.injected], [true, 0]);
  match(inside.why, /^event 2, before the injection "nmi sensitive" at step \d+ of register_word: S1 /);
});
