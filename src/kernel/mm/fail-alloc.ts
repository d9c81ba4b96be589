// Allocations that are made to fail (Documentation/fault-injection: fail_page_alloc, failslab), so that every error path can be walked and
// must unwind (S9). Every place that hands out memory asks here first. While nothing is armed that is one load.
import { addVirt, cpu, struct, u32 } from "../../hardware/index.ts";
import { staticStruct } from "../static-data.ts";

/** Only the attempt that `remaining` names fails. */
export const FAIL_ONCE = 0;
/** That one and all behind it fail, until disarmed. */
export const FAIL_FROM_THEN_ON = 1;
export type FailMode = typeof FAIL_ONCE | typeof FAIL_FROM_THEN_ON;

/** More attempts than any run makes: counts without failing one. */
export const FAIL_NEVER = 0x7fffffff;

/** Kernel: struct fault_attr. May be poked from outside: writing `remaining` arms it. */
export const FailAlloc = struct("fault_attr", {
  /** Attempts until one fails, itself counted: 1 is the next. 0: not armed. */
  remaining: u32,
  mode: u32,
  /** Attempts since it was armed. */
  attempts: u32,
  /** Of those, how many were made to fail. */
  failed: u32,
});
export const failAllocState = staticStruct("fail_alloc", FailAlloc);

function bump(offset: number, by: number): number {
  return cpu.rmw("add", addVirt(failAllocState, offset), 4, by >>> 0);
}

export const failAlloc = {
  /** From now on the `nth` attempt fails (1: the next). To count attempts alone: FAIL_NEVER. */
  arm(nth: number, mode: FailMode = FAIL_ONCE): void {
    const view = FailAlloc.at(failAllocState);
    view.remaining = 0; // an interrupt's attempts meanwhile do not count
    view.mode = mode;
    view.attempts = 0;
    view.failed = 0;
    view.remaining = nth;
  },
  /** Nothing fails any more; the counts stay. */
  disarm(): void {
    FailAlloc.at(failAllocState).remaining = 0;
  },
  /** Attempts since it was armed. */
  attempts(): number {
    return FailAlloc.at(failAllocState).attempts;
  },
  /** Attempts that were made to fail since it was armed. */
  failed(): number {
    return FailAlloc.at(failAllocState).failed;
  },
} as const;

/** An attempt to allocate: true when it must fail (kernel: `should_fail_alloc_page()`, `should_failslab()`). Any context. */
export function shouldFailAlloc(): boolean {
  const view = FailAlloc.at(failAllocState);
  if (view.remaining === 0) return false;
  bump(FailAlloc.offset.attempts, 1);
  // One instruction decides, so that of two CPUs exactly one gets the failure.
  const before = bump(FailAlloc.offset.remaining, -1);
  if (before > 1 && before <= FAIL_NEVER) return false;
  if (before === 1 && view.mode === FAIL_ONCE) {
    bump(FailAlloc.offset.failed, 1);
    return true; // remaining is 0 now: disarmed
  }
  if (view.mode === FAIL_ONCE) {
    // Another CPU had the failure between the two steps.
    view.remaining = 0;
    return false;
  }
  view.remaining = 1;
  bump(FailAlloc.offset.failed, 1);
  return true;
}
