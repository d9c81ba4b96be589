// The simulated core as a runner of cases.
import { DEFAULT_CPU_MODEL } from "../../src/hardware/index.ts";
import { FLAT_PHYSICAL_BYTES, FlatMachine, type Gear, GearedCore } from "../../src/machine/index.ts";
import { type Case, CODE_BASE, CODE_BYTES, DATA_BASE, DATA_BYTES, GS_BASE, HOT_OFFSET, NO_FAULT, newState, startState } from "./case.ts";
import type { Outcome, Runner } from "./compare.ts";

export type { Gear };

/** More than any case executes; in the detailed gear these are cycles. */
const BUDGET = 1_000_000;

export function coreRunner(gear: Gear): Runner {
  const { core } = new GearedCore(DEFAULT_CPU_MODEL, FLAT_PHYSICAL_BYTES, 1, gear);
  const ranges = [
    { base: CODE_BASE, bytes: CODE_BYTES, isWritable: true },
    { base: DATA_BASE, bytes: DATA_BYTES, isWritable: true },
  ];
  const flat = new FlatMachine(core, ranges, GS_BASE);
  const data = flat.memory(DATA_BASE, DATA_BYTES);
  const state = newState();
  const outcome = { outcome: 0, ripOffset: 0, errorCode: 0, cr2: 0, registers: flat.registers, flags: 0, data };
  const run = (c: Case): Outcome => {
    startState(c.seed, c.classes, state);
    flat.registers.set(state.registers);
    data.fill(0);
    data.set(state.hot, HOT_OFFSET);
    const start = CODE_BASE + c.codeOffset;
    flat.writeCode(start, c.code);
    const result = flat.run(start, state.flags, BUDGET);
    outcome.outcome = result.vector < 0 ? NO_FAULT : result.vector;
    outcome.ripOffset = result.vector < 0 ? 0 : result.rip - start;
    outcome.errorCode = result.errorCode;
    outcome.cr2 = result.cr2;
    outcome.flags = result.flags;
    return outcome;
  };
  return { name: `${gear} gear`, run };
}
