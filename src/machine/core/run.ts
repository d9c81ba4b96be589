// The dispatcher: from block to block, from fault to handler, until the budget is used up or the host is needed. It runs single
// steps in an interrupt shadow, under the trap flag, and close to the end of the budget, so that every run ends on the exact instruction.
import { findBlock, siteOf } from "./blocks.ts";
import { nextRipOf, raiseFault, ripOf } from "./events.ts";
import { fault } from "./faults.ts";
import { IF, readFlags, TF, writeFlags } from "./flags.ts";
import {
  BLOCK_BYTES,
  BLOCK_FRAME,
  CPU_DR,
  CPU_EXIT,
  CPU_EXIT_LENGTH,
  CPU_FAULT_NONCANONICAL,
  CPU_FAULT_VECTOR,
  CPU_INTERRUPT_PENDING,
  CPU_LINK_PC,
  CPU_LINK_SLOT,
  CPU_NMI_BLOCKED,
  CPU_PAGE_BASE,
  CPU_PC,
  CPU_RFLAGS,
  CPU_RIP,
  CPU_RIP_ABSENT,
  CPU_SHADOW,
  CPU_SPENT,
  EXIT_BUDGET,
  EXIT_NMI_WINDOW,
  EXIT_WINDOW,
  LEAVE_DISPATCH,
  LEAVE_EXIT,
  LEAVE_EXIT_AFTER,
  LEAVE_FAULT,
  LEAVE_LINK,
  LEAVE_NEXT,
  LEAVE_REPEAT,
  LEAVE_SLICE,
  LEAVE_STALE,
  PENDING_INTERRUPT,
  PENDING_NMI,
  SHARED_CODE_EPOCH,
  SITE_LENGTH,
  UOP_DISP,
  UOP_FLAG_STACK,
  UOP_FLAGS,
  UOP_KEY,
  UOP_OP,
} from "./layout.gen.ts";
import { VECTOR_DB, VECTOR_GP, VECTOR_SS } from "./mmu.ts";
import { OP_FAR_JUMP, OP_LINK_STUB } from "./ops.gen.ts";
import { portMustStep, portRun } from "./port.gen.ts";

/** DR6.BS: a single step. */
const DR6_BS: u64 = 0x4000;

/** Runs the active CPU for `budget` and returns an EXIT_* code. All state is in the CPU block, flags materialized. */
export function run(budget: i32): i32 {
  let left = budget;
  let linkPc: u32 = 0;
  let linkEpoch: u32 = 0;
  while (true) {
    const window = openWindow();
    if (window !== 0) return finish(window);
    if (left <= 0) return finish(EXIT_BUDGET);

    const traced = (load<u64>(CPU_RFLAGS) & (TF as u64)) !== 0;
    const step = load<u32>(CPU_SHADOW) !== 0 || traced || portMustStep(left);
    const rip = load<u64>(CPU_RIP) & ~load<u64>(CPU_RIP_ABSENT);
    store<u64>(CPU_RIP, rip);
    const pc = findBlock(rip as i64, step);
    if (pc === 0) {
      // A delivery costs one unit, so that a handler that cannot be fetched does not loop for ever.
      left -= 1;
      linkPc = 0;
      const code = raiseFault();
      if (code !== 0) return finish(code);
      continue;
    }
    if (linkPc !== 0 && !step && load<u32>(SHARED_CODE_EPOCH) === linkEpoch) fillLink(linkPc, pc);
    linkPc = 0;

    store<u64>(CPU_PAGE_BASE, rip & ~(0xfff as u64));
    store<u32>(CPU_SHADOW, 0);
    const code = portRun(pc, left, step);
    left -= load<i32>(CPU_SPENT);
    if (code < LEAVE_DISPATCH) {
      // An instruction that delivers an event itself ended in an exit; RIP is at it.
      store<u32>(CPU_EXIT_LENGTH, load<u8>(siteOf(load<u32>(CPU_PC)), SITE_LENGTH));
      return finish(code);
    }
    if (code === LEAVE_EXIT || code === LEAVE_EXIT_AFTER) {
      store<u64>(CPU_RIP, code === LEAVE_EXIT ? ripOf(load<u32>(CPU_PC)) : nextRipOf(load<u32>(CPU_PC)));
      return finish(load<i32>(CPU_EXIT));
    }
    if (code === LEAVE_LINK) {
      linkPc = load<u32>(CPU_LINK_PC);
      linkEpoch = load<u32>(SHARED_CODE_EPOCH);
    }
    settleRip(code);
    if (code === LEAVE_FAULT) {
      left -= 1;
      if (isStackFault()) store<u32>(CPU_FAULT_VECTOR, VECTOR_SS);
      const exit = raiseFault();
      if (exit !== 0) return finish(exit);
    } else if (traced && code !== LEAVE_STALE) {
      store<u64>(CPU_DR + 48, load<u64>(CPU_DR + 48) | DR6_BS);
      fault(VECTOR_DB, 0);
      const exit = raiseFault();
      if (exit !== 0) return finish(exit);
    }
  }
}

/** EXIT_WINDOW or EXIT_NMI_WINDOW when the host waits for one and it is open; else 0. */
function openWindow(): i32 {
  const pending = load<u32>(CPU_INTERRUPT_PENDING);
  if (pending === 0 || load<u32>(CPU_SHADOW) !== 0) return 0;
  if (pending & PENDING_NMI && load<u32>(CPU_NMI_BLOCKED) === 0) return EXIT_NMI_WINDOW;
  if (pending & PENDING_INTERRUPT && load<u64>(CPU_RFLAGS) & (IF as u64)) return EXIT_WINDOW;
  return 0;
}

/** Where the executor left, as an address. */
function settleRip(code: i32): void {
  const pc = load<u32>(CPU_PC);
  switch (code) {
    case LEAVE_SLICE:
      store<u64>(CPU_RIP, addressOf(pc));
      return;
    case LEAVE_NEXT:
      store<u64>(CPU_RIP, nextRipOf(pc));
      return;
    case LEAVE_FAULT:
    case LEAVE_STALE:
    case LEAVE_REPEAT:
      store<u64>(CPU_RIP, ripOf(pc));
      return;
    default:
      // LEAVE_DISPATCH, LEAVE_LINK, LEAVE_STEPPED: set already.
      return;
  }
}

/** Address that a micro-op stands for: of the translator's own jumps, their target. */
export function addressOf(pc: u32): u64 {
  const op = load<u16>(pc, UOP_OP);
  if (op === OP_LINK_STUB || op === OP_FAR_JUMP) return load<u64>(CPU_PAGE_BASE) + (load<i32>(pc, UOP_DISP) as i64 as u64);
  return ripOf(pc);
}

/** The branch that met link_stub goes to its target directly from now on, if the target lies in the same frame. */
/** Of the micro-op at PC: its address was not canonical, and its segment is SS (SDM vol. 2, "Exceptions" of any instruction: #SS(0)). */
function isStackFault(): bool {
  if (load<u32>(CPU_FAULT_VECTOR) !== VECTOR_GP || load<u32>(CPU_FAULT_NONCANONICAL) === 0) return false;
  return (load<u8>(load<u32>(CPU_PC), UOP_FLAGS) & (UOP_FLAG_STACK as u8)) !== 0;
}

function fillLink(source: u32, target: u32): void {
  const stub = load<u32>(source + load<u32>(CPU_LINK_SLOT));
  if (load<u16>(stub, UOP_OP) !== OP_LINK_STUB) return;
  if (load<u32>(stub, UOP_KEY) !== load<u32>(target - BLOCK_BYTES, BLOCK_FRAME)) return;
  store<u32>(source + load<u32>(CPU_LINK_SLOT), target);
}

function finish(code: i32): i32 {
  writeFlags(readFlags());
  store<i32>(CPU_EXIT, code);
  return code;
}
