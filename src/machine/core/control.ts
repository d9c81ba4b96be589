// What the host asks of the core between runs: reset, the choice of the CPU, changes of control state that need more than a store,
// TLB operations, event delivery, and news of writes to physical memory that did not go through the MMU.
import { codeWritten, discardCode, frameHasCode } from "./blocks.ts";
import { discardSoftTranslations, refreshContext, refreshMode } from "./context.ts";
import { invalidateByType, writeCr3 } from "./control-registers.ts";
import { deliverEvent } from "./events.ts";
import { readFlags, writeFlags } from "./flags.ts";
import {
  CODE_REGION,
  CPU_BYTES,
  CPU_CPU_ID,
  CPU_REGION,
  CPU_REGION_BYTES,
  SAVED_CPUS_REGION,
  SHARED_CODE_TOP,
  SHARED_PHYSICAL_BYTES,
  TLB_EP4TA,
  TLB_PAGE,
  TLB_SHIFT,
  TLB_VPID,
} from "./layout.gen.ts";
import { translate } from "./mmu.ts";
import { portSelectCpu } from "./port.gen.ts";
import { addTrap } from "./system.ts";
import { dropEntry, flushTlb, invalidateAddress, nextTlb, nextTlbAfter, resetTlbs } from "./tlb.ts";

/** Empties TLBs, soft TLB and translations. The CPU blocks are the host's to fill. */
export function resetCaches(): void {
  if (load<u32>(SHARED_CODE_TOP) === 0) store<u32>(SHARED_CODE_TOP, CODE_REGION);
  resetTlbs();
  discardSoftTranslations();
  discardCode();
  refreshContext();
}

/** Makes logical CPU `number` the active one. */
export function selectCpu(number: u32): void {
  const active = load<u32>(CPU_CPU_ID);
  if (active === number) return;
  memory.copy(SAVED_CPUS_REGION + active * CPU_REGION_BYTES, CPU_REGION, CPU_BYTES);
  memory.copy(CPU_REGION, SAVED_CPUS_REGION + number * CPU_REGION_BYTES, CPU_BYTES);
  // Its generations may have been retired, or all discarded, while it waited.
  refreshContext();
  portSelectCpu(number);
}

/** After the host changed CR0, CR3, CR4, EFER, the guest mode, EPTP or VPID in the block. Flushes nothing. */
export function contextChanged(): void {
  refreshContext();
}

/** After the host changed CPL or RFLAGS.AC in the block. */
export function modeChanged(): void {
  refreshMode();
}

/** MOV CR3 by kernel code in TypeScript: `noflush` is bit 63. 0, or LEAVE_FAULT for reserved bits. */
export function hostWriteCr3(value: f64, noflush: bool): i32 {
  return writeCr3((value as u64) | (noflush ? 0x8000000000000000 : 0));
}

export function hostInvlpg(va: f64): void {
  invalidateAddress(va as i64 as u64);
}

/** INVPCID types 0 to 3. False: invalid operands. */
export function hostInvpcid(type: i32, pcid: i32, va: f64): bool {
  return invalidateByType(type as i64, pcid as u64, va as i64);
}

/** INVVPID: 0 address, 1 one VPID, 2 all but VPID 0, 3 one VPID but its globals. False: invalid type. */
export function hostInvvpid(type: i32, vpid: i32, va: f64): bool {
  switch (type) {
    case 0:
      invalidateInAllPcids(va as i64 as u64, vpid as u32);
      return true;
    case 1:
      flushTlb(-1, vpid, -1, false);
      return true;
    case 2:
      flushAllButHost();
      return true;
    case 3:
      flushTlb(-1, vpid, -1, true);
      return true;
    default:
      return false;
  }
}

/** INVVPID by address concerns every PCID of the VPID. */
function invalidateInAllPcids(va: u64, vpid: u32): void {
  for (let entry = nextTlb(0); entry !== 0; entry = nextTlbAfter(entry)) {
    if (load<u16>(entry, TLB_VPID) !== vpid) continue;
    const shift = load<u16>(entry, TLB_SHIFT) as u64;
    if (load<u64>(entry, TLB_PAGE) >> shift === va >> shift) dropEntry(entry);
  }
}

function flushAllButHost(): void {
  for (let entry = nextTlb(0); entry !== 0; entry = nextTlbAfter(entry)) {
    if (load<u16>(entry, TLB_VPID) !== 0) dropEntry(entry);
  }
}

/** INVEPT: 1 one EPT pointer, 2 all. Translations made with EPT go; the host's own stay. */
export function hostInvept(type: i32, eptp: f64): bool {
  if (type !== 1 && type !== 2) return false;
  const ep4ta = ((eptp as u64) >> 12) as u32;
  for (let entry = nextTlb(0); entry !== 0; entry = nextTlbAfter(entry)) {
    const held = load<u32>(entry, TLB_EP4TA);
    if (held !== 0 && (type === 2 || held === ep4ta)) dropEntry(entry);
  }
  return true;
}

/** Flush of everything on this CPU (power-up, MOV CR4). */
export function flushAllTlb(): void {
  flushTlb(-1, -1, -1, false);
}

/** The trap instruction becomes valid at this physical address. False: too many traps. */
export function registerTrap(pa: f64): bool {
  return addTrap(pa as u64);
}

/** Delivers an event to the active CPU through its IDT. 0, or an EXIT_* code (then DELIVERING_* tell what was on its way). */
export function deliver(vector: u32, type: u32, error: u32, length: u32): i32 {
  const code = deliverEvent(vector, type, error, length);
  writeFlags(readFlags());
  return code;
}

/** The host wrote `bytes` of physical memory directly (loading a program, DMA): translations of them go. */
export function physicalWritten(pa: f64, bytes: f64): void {
  const end = min((pa as u64) + (bytes as u64), load<u64>(SHARED_PHYSICAL_BYTES));
  for (let at = pa as u64; at < end; ) {
    const next = min((at & ~(0xfff as u64)) + 4096, end);
    if (frameHasCode(at)) codeWritten(at, (next - at) as u32);
    at = next;
  }
}

/** Physical address of `va` for an access (ACCESS_*) in the current context, or -1 with FAULT_* set. Uses and fills the TLB. */
export function hostTranslate(va: f64, access: i32, mode: u32): f64 {
  return translate(va as i64, access, mode) as f64;
}
