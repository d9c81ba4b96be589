// Branches of the detailed gear. A branch is predicted when it issues and resolved when its operands are known. If the prediction was
// wrong and there is time in between, the wrong path is really executed, as a window; the right path then begins after the penalty.
// Out of line: each is called from many places of the executor's switch.
import { findBlock } from "../blocks.ts";
import { executeDetailed } from "../execute-detailed.gen.ts";
import {
  ACCESS_EXECUTE,
  CODE_REGION,
  CPU_GENERATION,
  CPU_HISTORY,
  CPU_NOW,
  CPU_PAGE_BASE,
  CPU_RETIRE,
  CPU_RETURN_COUNT,
  DETAILED_CODE_PAGE,
  DETAILED_COUNT_BRANCHES,
  DETAILED_COUNT_MISPREDICTED,
  DETAILED_FETCHED_LINE,
  DETAILED_GO,
  DETAILED_GO_ADDRESS,
  DETAILED_L1I_BASE,
  DETAILED_L1I_MASK,
  DETAILED_L1I_SHIFT,
  DETAILED_LIMIT,
  DETAILED_RESOLVE,
  DETAILED_TRANSIENT,
  DETAILED_WRONG,
  DETAILED_WRONG_HISTORY,
  DETAILED_WRONG_PAGE,
  LINE_TAG,
  LINE_VALID,
  MODEL_FAULT_WINDOW,
  MODEL_MISPREDICT_PENALTY,
  MODEL_RETURN_UNDERFLOW,
  PHYSICAL_REGION,
  SITE_OFFSET,
  SITES_REGION,
  SOFT_ADDEND,
  SOFT_TLB_ENTRIES,
  SOFT_TLB_REGION,
  UNDERFLOW_STALE,
  UOP_DISP,
  UOP_LINK,
  UOP_NEXT_OFFSET,
} from "../layout.gen.ts";
import { hostAddress } from "../memory.ts";
import { OP_FAR_JUMP } from "../ops.gen.ts";
import { physicalOf } from "../physical.ts";
import { predictDirection, trainDirection } from "./direction-predictor.ts";
import { fetchLine } from "./hierarchy.ts";
import { historyAfter, popReturn, predictTarget, trainTarget } from "./target-predictor.ts";
import { closeWindow, isJournaled, openWindow } from "./window.ts";

/** A branch that resolves this soon after its issue has no wrong path: nothing of it would issue (quarter cycles). */
const LEAST_WINDOW: i64 = 4;

/** Low half of the address of the branch's last byte, as the predictors see it. */
function sourceOf(pc: usize): u32 {
  return (load<u64>(CPU_PAGE_BASE) as u32) + (load<u16>(pc, UOP_NEXT_OFFSET) as u32) - 1;
}

/** Page offset of the instruction that the micro-op at `pc` belongs to, or leads to. */
function offsetOf(pc: usize): u32 {
  return (load<u16>(SITES_REGION + (((pc as u32) - (CODE_REGION as u32)) >> 2), SITE_OFFSET) as u32) & 0xfff;
}

/** Physical line of the code that the micro-op at `pc` comes from; its site says where in the page. */
function codeLine(pc: usize): u32 {
  return (load<u32>(DETAILED_CODE_PAGE) - (PHYSICAL_REGION as u32) + offsetOf(pc)) >> 6;
}

/**
 * Delay of the front end before the micro-op at `pc`, to which a branch leads at `now`: instruction-cache lines are looked up where
 * control arrives, not in the middle of straight code.
 */
export function fetchDelay(pc: usize, now: i64): i64 {
  const line = codeLine(pc);
  if (line === load<u32>(DETAILED_FETCHED_LINE)) return 0;
  if (load<u32>(DETAILED_CODE_PAGE) === 0 || load<u16>(pc) === OP_FAR_JUMP || now >= load<i64>(DETAILED_LIMIT)) return 0;
  store<u32>(DETAILED_FETCHED_LINE, line);
  const entry: usize =
    (load<u32>(DETAILED_L1I_BASE) as usize) + (((line & load<u32>(DETAILED_L1I_MASK)) << load<u32>(DETAILED_L1I_SHIFT)) as usize);
  return load<u32>(entry, LINE_TAG) === ((LINE_VALID as u32) | line) ? 0 : fetchLine(line);
}

/** Notes the host page of `CPU_PAGE_BASE`, which the soft TLB has just translated for a fetch. */
export function noteCodePage(): void {
  const page = load<i64>(CPU_PAGE_BASE);
  const entry: usize = SOFT_TLB_REGION + ((((page >> 12) as u32) & (SOFT_TLB_ENTRIES - 1)) << 5);
  const host = (page as u32) + load<u32>(entry, SOFT_ADDEND);
  store<u32>(DETAILED_CODE_PAGE, host >= (PHYSICAL_REGION as u32) ? host : 0);
}

/** Where the direct branch at `pc` goes when taken: the low bits, which are all that the history takes in. */
function takenTarget(pc: usize): u32 {
  return offsetOf(load<u32>(pc, UOP_LINK + 4));
}

/**
 * The conditional branch at `pc`, issued at `now`, turns out `taken` at `resolved`. Sets GO, and RESOLVE and WRONG if the executor must
 * call `wrongPath`. Returns the issue time of what follows.
 */
export function conditional(pc: usize, taken: u32, resolved: i64, now: i64): i64 {
  const source = sourceOf(pc);
  const history = load<u64>(CPU_HISTORY);
  const predicted: u32 = predictDirection(source, history) ? 1 : 0;
  let go = taken;
  let next = now;
  store<i64>(DETAILED_RESOLVE, 0);
  if (load<u32>(DETAILED_TRANSIENT) === 0) {
    store<u64>(DETAILED_COUNT_BRANCHES, load<u64>(DETAILED_COUNT_BRANCHES) + 1);
    trainDirection(source, history, taken !== 0, predicted !== 0);
    if (predicted !== taken) {
      store<i64>(DETAILED_RESOLVE, resolved);
      store<u32>(DETAILED_WRONG, load<u32>(pc + (predicted << 2), UOP_LINK));
      store<u64>(DETAILED_WRONG_PAGE, load<u64>(CPU_PAGE_BASE));
      store<u64>(DETAILED_WRONG_HISTORY, predicted !== 0 ? historyAfter(history, source, takenTarget(pc)) : history);
    }
  } else if (predicted !== taken) {
    if (resolved < load<i64>(DETAILED_LIMIT)) next = afterResolution(resolved, now);
    else go = predicted;
  }
  if (go !== 0) store<u64>(CPU_HISTORY, historyAfter(history, source, takenTarget(pc)));
  store<u32>(DETAILED_GO, go);
  return next;
}

function afterResolution(resolved: i64, now: i64): i64 {
  return max<i64>(resolved, now) + (load<u32>(MODEL_MISPREDICT_PENALTY) as i64);
}

/** The same for an indirect jump or call. Sets GO_ADDRESS. */
export function indirect(pc: usize, target: u64, resolved: i64, now: i64): i64 {
  const source = sourceOf(pc);
  const history = load<u64>(CPU_HISTORY);
  const predicted = predictTarget(source, history);
  if (load<u32>(DETAILED_TRANSIENT) === 0) trainTarget(source, history, target);
  return follow(source, history, predicted, target, resolved, now);
}

/** The same for a return. */
export function returned(pc: usize, target: u64, resolved: i64, now: i64): i64 {
  const source = sourceOf(pc);
  const history = load<u64>(CPU_HISTORY);
  const isEmpty = load<u32>(CPU_RETURN_COUNT) === 0 && load<u32>(MODEL_RETURN_UNDERFLOW) !== UNDERFLOW_STALE;
  const predicted = popReturn(source, history);
  if (isEmpty && load<u32>(DETAILED_TRANSIENT) === 0) trainTarget(source, history, target);
  return follow(source, history, predicted, target, resolved, now);
}

function follow(source: u32, history: u64, predicted: u64, target: u64, resolved: i64, now: i64): i64 {
  let go = target;
  let next = now;
  store<i64>(DETAILED_RESOLVE, 0);
  if (predicted !== target) {
    if (load<u32>(DETAILED_TRANSIENT) === 0) {
      store<i64>(DETAILED_RESOLVE, resolved);
      store<u64>(DETAILED_WRONG_PAGE, predicted);
      store<u32>(DETAILED_WRONG, 0);
      store<u64>(DETAILED_WRONG_HISTORY, historyAfter(history, source, predicted as u32));
    } else if (resolved < load<i64>(DETAILED_LIMIT)) next = afterResolution(resolved, now);
    else go = predicted;
  }
  store<u64>(CPU_HISTORY, historyAfter(history, source, go as u32));
  store<u64>(DETAILED_GO_ADDRESS, go);
  return next;
}

/** After a mispredicted branch, the executor's locals being spilled: executes the wrong path. Returns when the right one begins. */
export function wrongPath(): i64 {
  store<u64>(DETAILED_COUNT_MISPREDICTED, load<u64>(DETAILED_COUNT_MISPREDICTED) + 1);
  const now = load<i64>(CPU_NOW);
  const resolved = load<i64>(DETAILED_RESOLVE);
  const begin = load<u32>(DETAILED_WRONG);
  const isPredicted = begin !== 0 || load<u64>(DETAILED_WRONG_PAGE) !== 0;
  if (isPredicted && resolved > now + LEAST_WINDOW) runWindow(begin, resolved, true);
  return afterResolution(resolved, now);
}

/**
 * A load at `pc`, its address known at `start`, cannot be translated; the fault is noted in the CPU block. Until the fault retires,
 * its dependents and everything younger execute: the load again, which now forwards what the model says.
 */
export function faultWindow(pc: usize, start: i64): void {
  const retired = load<i64>(CPU_RETIRE);
  const earliest = start + (load<u32>(MODEL_FAULT_WINDOW) as i64);
  store<u64>(DETAILED_WRONG_PAGE, load<u64>(CPU_PAGE_BASE));
  store<u64>(DETAILED_WRONG_HISTORY, load<u64>(CPU_HISTORY));
  const limit = max<i64>(retired, earliest);
  runWindow(pc, limit, false);
  store<i64>(CPU_NOW, limit);
}

/** `begin`: micro-op; 0: the code at the address in WRONG_PAGE, if it can be fetched. `isFetched`: the front end must go there first. */
function runWindow(begin: usize, limit: i64, isFetched: bool): void {
  const codePage = load<u32>(DETAILED_CODE_PAGE);
  const address = load<u64>(DETAILED_WRONG_PAGE);
  openWindow(limit);
  store<u64>(CPU_HISTORY, load<u64>(DETAILED_WRONG_HISTORY));
  const pc: usize = begin !== 0 ? begin : transientCode(address as i64);
  store<u64>(CPU_PAGE_BASE, address & ~0xfff);
  if (begin === 0 && pc !== 0) noteCodePage();
  if (pc !== 0) {
    if (isFetched) store<i64>(CPU_NOW, load<i64>(CPU_NOW) + fetchDelay(pc, load<i64>(CPU_NOW)));
    executeDetailed(pc, i32.MAX_VALUE);
  }
  closeWindow();
  store<u32>(DETAILED_CODE_PAGE, codePage);
  store<u32>(DETAILED_FETCHED_LINE, u32.MAX_VALUE);
}

/** A direct jump or call: it enters the history; its target is known when it is decoded. Returns the issue time of what follows. */
export function direct(pc: usize, now: i64): i64 {
  store<u64>(CPU_HISTORY, historyAfter(load<u64>(CPU_HISTORY), sourceOf(pc), takenTarget(pc)));
  return now;
}

/** The code at `va` for a wrong path, translated if need be; 0: it cannot be fetched, or the wrong path itself has written there. */
export function transientCode(va: i64): u32 {
  if (va === 0) return 0;
  const host = hostAddress(va, ACCESS_EXECUTE, load<u64>(CPU_GENERATION));
  if (host < (PHYSICAL_REGION as u32)) return 0;
  const pa = physicalOf(host);
  if (isJournaled(pa) || isJournaled(pa + 4096)) return 0;
  return findBlock(va, false);
}

/** Where a wrong path goes at a link that was never followed. */
export function transientLink(pc: usize): u32 {
  return transientCode(load<i64>(CPU_PAGE_BASE) + (load<i32>(pc, UOP_DISP) as i64));
}
