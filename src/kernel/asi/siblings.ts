// Option core_sched: the threads of a core never hold each other's secrets within reach. Each says which space it is in; user and guest code
// passes a gate that opens only while the sibling is in the same domain or quiet (in tables that map nobody's secrets, all that it brought in
// cleared), and who is about to leave that state first brings the sibling's user or guest code into the kernel and waits until it is there
// (what was published as stunning). Who waits has let no such code of its own in, so two that leave at once do not wait for one another.
import { cpu, NULL, type Ptr, perCpu, perCpuInteger, SPEC_CTRL_STIBP, type VirtAddr, virtual } from "../../hardware/index.ts";
import { sendIpi } from "../entry/ipi.ts";
import { RESCHEDULE_VECTOR } from "../entry/vectors.ts";
import { bootCpuHas, isSmtPossible } from "../mitigations/cpu-features.ts";
import { initMm } from "../mm/mm-struct.ts";
import { nrCpuIds, perCpuBase } from "../mm/percpu.ts";
import { staticStruct } from "../static-data.ts";
import { staticKey } from "../static-key.ts";
import { printk } from "../trace.ts";
import { coreSched, ephmap } from "./asi-options.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled, currAsi, staticPolicy } from "./asi-state.ts";
import { ASI_CLASS_KVM, ASI_TAINTS_CONTROL_MASK, ASI_TAINTS_DATA_MASK, Asi, AsiTaintPolicy } from "./asi-struct.ts";

/** The option is in force. Patched at boot. */
export const siblingsApart = staticKey("asi_core_sched");

// What `space` holds. Of a domain: its number, from FIRST_DOMAIN on.
/** In the quiet domain: everything that it brought in is cleared, and it reaches nobody's data. Or not started. */
const QUIET = 0;
/** May touch anything. */
const UNRESTRICTED = 1;
const FIRST_DOMAIN = 8;

/** Where idle threads and those that wait are: what every domain maps, and nothing else. */
export const quietDomain: Ptr<"asi"> = staticStruct("asi_quiet", Asi);
const quietPolicy = staticPolicy("asi_quiet_policy");

/** Where this thread is. Written before it goes somewhere with more in reach, after it has come from there. */
const space = perCpuInteger("core_space", 4);
/** Domain whose user or guest code this thread runs or is about to run, else 0 (kernel: rq->core->core_cookie). */
const untrusted = perCpuInteger("core_untrusted", 4);
/** Domain for which the gate was passed since the last entry from outside: handlers nested behind the gate go through it again. */
const passed = perCpuInteger("core_passed", 4);
/** Domain for which this thread waits before the gate, else 0. */
const waiting = perCpuInteger("core_waiting", 4);
/** Of the first thread of a core: which thread goes first if both want to run, 1 or 2. */
const turn = perCpuInteger("core_turn", 4);
/** 1 or 2. */
const thread = perCpuInteger("core_thread", 4);
/** How often this thread had to stop its sibling, and how often it waited before the gate. */
export const coreStuns = perCpuInteger("core_stuns", 4);
export const coreWaits = perCpuInteger("core_waits", 4);
/** Area of the sibling, 0 without one; of the core's first thread. */
const siblingArea = perCpu("core_sibling", virtual);
const firstArea = perCpu("core_first", virtual);

/** What stands against the option on this CPU with these choices, or undefined. */
export function coreSchedRefused(hasUserspace: boolean, hasEphmap: boolean, hasStibp: boolean): string | undefined {
  if (!hasUserspace) return "processes have no restricted address space (asi=on and asi_userspace=on are needed)";
  if (hasEphmap) return "what ephemeral mappings (cordon.ephmap) bring in is not told to siblings";
  if (!hasStibp) return "the CPU has no STIBP: what a sibling trains cannot be kept out";
  return undefined;
}

/** Puts the option into force. After the classes, before the CPUs start. */
export function selectSiblingsApart(hasUserspace: boolean): void {
  if (!coreSched.key.isEnabled() || !isSmtPossible()) return;
  const refused = coreSchedRefused(asiEnabled() && hasUserspace, ephmap.key.isEnabled(), bootCpuHas("STIBP"));
  if (refused === undefined) siblingsApart.set(1);
  else printk(`cordon.core_sched=on is not available: ${refused}`);
}

/** What the option adds to IA32_SPEC_CTRL, of the kernel, of processes and of guests. */
export function siblingsSpecCtrl(): number {
  return siblingsApart.isEnabled() ? SPEC_CTRL_STIBP : 0;
}

/** Makes the quiet domain. What every domain maps is there; no CPU is idle yet. */
export function siblingsInitQuiet(): void {
  if (!siblingsApart.isEnabled()) return;
  const policy = AsiTaintPolicy.at(quietPolicy);
  policy.preventControl = ASI_TAINTS_CONTROL_MASK;
  policy.protectData = ASI_TAINTS_DATA_MASK;
  policy.set = 0;
  const quiet = Asi.at(quietDomain);
  quiet.mm = initMm;
  quiet.policy = quietPolicy;
  quiet.classId = ASI_CLASS_KVM;
  quiet.refCount = 1;
  quiet.pgd = Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd;
}

/** CPU `id` is about to be started, and may touch anything from then on. */
export function siblingsBeforeStart(id: number): void {
  if (!siblingsApart.isEnabled()) return;
  const other = id ^ 1;
  const base = perCpuBase(id);
  const sibling = other < nrCpuIds() ? perCpuBase(other) : (0 as VirtAddr); // 0: none
  const isFirst = (id & 1) === 0;
  cpu.store(thread.at(base), 4, isFirst ? 1 : 2);
  cpu.storeWord(firstArea.at(base), isFirst ? base : sibling);
  cpu.storeWord(siblingArea.at(base), sibling);
  if (isFirst) cpu.store(turn.at(base), 4, 1);
  // It went as it was idle: in the quiet domain, of which its registers know nothing any more.
  if (id !== cpu.id) cpu.storeWord(currAsi.at(base), NULL);
  cpu.rmw("exchange", space.at(base), 4, UNRESTRICTED);
  if (sibling !== 0) stop(sibling, other, UNRESTRICTED);
}

/** The number by which `space` names a domain; its `id` is never used twice. */
function spaceOf(domain: Ptr<"asi">): number {
  return domain === quietDomain ? QUIET : FIRST_DOMAIN + Asi.at(domain).id;
}

function ofSibling(variable: { readonly at: (base: VirtAddr) => VirtAddr }, base: VirtAddr): number {
  return cpu.load(variable.at(base), 4);
}

/** If the sibling runs user or guest code that must not see where this thread is, brings it into the kernel and waits. Any context. */
function stopSibling(mine: number): void {
  const base = siblingArea.get();
  if (base !== 0 && stop(base, cpu.id ^ 1, mine)) coreStuns.add(1);
}

/** The same for the CPU `id`, whose area is at `base`. @returns true if it was running */
function stop(base: VirtAddr, id: number, allowed: number): boolean {
  let isAsked = false;
  for (;;) {
    const running = ofSibling(untrusted, base);
    if (running === 0 || running === allowed) return isAsked;
    if (!isAsked) sendIpi(id, RESCHEDULE_VECTOR);
    isAsked = true;
    cpu.pause();
  }
}

/** Before everything comes into reach: in asi_exit(). Any context. */
export function siblingsBeforeUnrestricted(): void {
  if (!siblingsApart.isEnabled()) return;
  // Its own first: in the window between gate and user code, an NMI of either thread may wait here for the other.
  untrusted.set(0);
  space.exchange(UNRESTRICTED);
  stopSibling(UNRESTRICTED);
}

/**
 * Before the tables of `domain` are loaded. From another domain, until what this one must not see is cleared, everything may be in the
 * core's caches and buffers; from the quiet one nothing is.
 */
export function siblingsBeforeEnter(from: Ptr<"asi">, domain: Ptr<"asi">): void {
  if (!siblingsApart.isEnabled()) return;
  if (from !== quietDomain) {
    siblingsBeforeUnrestricted();
    return;
  }
  const here = spaceOf(domain);
  space.exchange(here);
  stopSibling(here);
}

/** The tables are the domain's and what it must not see is cleared. */
export function siblingsAfterEnter(domain: Ptr<"asi">): void {
  if (!siblingsApart.isEnabled()) return;
  const here = spaceOf(domain);
  space.exchange(here);
  const base = siblingArea.get();
  if (base === 0) return;
  const wanted = ofSibling(waiting, base);
  if (wanted !== 0 && (here === QUIET || here === wanted)) sendIpi(cpu.id ^ 1, RESCHEDULE_VECTOR);
}

/** First act of every handler: user code no longer runs here. */
export function siblingsHandlerEnter(): void {
  if (siblingsApart.isEnabled()) untrusted.set(0);
}

/** First act behind a system call or VM exit. */
export function siblingsLeftOutside(): void {
  if (!siblingsApart.isEnabled()) return;
  passed.set(0);
  untrusted.set(0);
}

/** Code of the domain `mine` could run here now, as far as the sibling goes. */
function canRun(mine: number): boolean {
  const base = siblingArea.get();
  if (base === 0) return true;
  const there = ofSibling(space, base);
  if (there !== QUIET && there !== mine) return false;
  const wanted = ofSibling(waiting, base);
  return wanted === 0 || wanted === mine || isOurTurn();
}

function isOurTurn(): boolean {
  return cpu.load(turn.at(firstArea.get()), 4) === thread.get();
}

/** True when code of `domain` has to wait: before asi_enter(), where interrupts can be let in. */
export function siblingsMustWait(domain: Ptr<"asi">): boolean {
  return siblingsApart.isEnabled() && !canRun(spaceOf(domain));
}

/** This thread waits before the gate of `domain` from now on. */
export function siblingsWaitFor(domain: Ptr<"asi">): void {
  coreWaits.add(1);
  passed.set(0);
  waiting.exchange(spaceOf(domain));
}

/** It is this thread's turn: the sibling is to come by and see that somebody waits. */
export function siblingsAskForTurn(): void {
  if (isOurTurn()) sendIpi(cpu.id ^ 1, RESCHEDULE_VECTOR);
}

/** Something else than what waits or has passed the gate comes next here. */
export function siblingsNotWaiting(): void {
  if (!siblingsApart.isEnabled()) return;
  passed.set(0);
  waiting.set(0);
}

/**
 * The gate: behind asi_enter(), before user code or a guest. If the sibling is elsewhere by now the way back is an interrupt to oneself, which
 * comes before the first instruction out there, and leads to the place where waiting is done. Interrupts off.
 */
export function siblingsGate(domain: Ptr<"asi">): void {
  if (!siblingsApart.isEnabled()) return;
  const mine = spaceOf(domain);
  passed.set(mine);
  passGate(mine);
}

/**
 * On the way back from a handler that interrupted user code: the end of the handler will go back to the domain, and pass the gate behind that.
 * Not here: a handler nested in an enter at this depth would leave the domain and not come back.
 */
export function siblingsGateAtHandlerExit(domain: Ptr<"asi">): void {
  passed.set(spaceOf(domain));
}

/** The end of the outermost handler on top of a critical section: what passed the gate before it passes again, or not. */
export function siblingsHandlerExit(): void {
  if (!siblingsApart.isEnabled()) return;
  const mine = passed.get();
  if (mine !== 0 && untrusted.get() !== mine) passGate(mine);
}

function passGate(mine: number): void {
  if (space.get() === mine) {
    untrusted.exchange(mine);
    const base = siblingArea.get();
    const there = base === 0 ? QUIET : ofSibling(space, base);
    if (there === QUIET || there === mine) {
      waiting.set(0);
      return;
    }
    untrusted.set(0);
  }
  sendIpi(cpu.id, RESCHEDULE_VECTOR);
}

/** Timer interrupt: the other thread goes first from now on. */
export function siblingsTick(): void {
  if (siblingsApart.isEnabled() && isOurTurn()) cpu.store(turn.at(firstArea.get()), 4, 3 - thread.get());
}

/** The domain number that the sibling runs code of or waits for, 0 for none: what to prefer while it is its turn. */
export function siblingsPreferred(): number {
  const base = siblingArea.get();
  if (base === 0 || isOurTurn()) return 0;
  const running = ofSibling(untrusted, base);
  return running !== 0 ? running : ofSibling(waiting, base);
}

/** `domain` is what siblingsPreferred() named. */
export function siblingsIsSpace(domain: Ptr<"asi">, named: number): boolean {
  const { pgd, id } = Asi.at(domain);
  return pgd !== 0 && FIRST_DOMAIN + id === named;
}
