// Event delivery of FRED (Intel, "Flexible Return and Event Delivery (FRED) Specification", 5): no gates. Every event from ring 3 goes to one
// entry, every event from ring 0 to another, with a frame of 64 bytes that says what happened, on the stack of a level.
import { CR4_FRED, refreshMode } from "./context.ts";
import { fault } from "./faults.ts";
import { RF, readFlags, writeFlags } from "./flags.ts";
import {
  CPU_CONTEXT_BASE,
  CPU_CPL,
  CPU_CR4,
  CPU_DR,
  CPU_FAULT_ADDRESS,
  CPU_FAULT_VECTOR,
  CPU_GS_BASE,
  CPU_MSR_FRED_CONFIG,
  CPU_MSR_FRED_RSP,
  CPU_MSR_FRED_STKLVLS,
  CPU_MSR_KERNEL_GS_BASE,
  CPU_MSR_STAR,
  CPU_NMI_BLOCKED,
  CPU_REGS,
  CPU_RIP,
  CPU_RIP_ABSENT,
  CPU_SEG_SELECTOR,
  CPU_SHADOW,
  EVENT_EXCEPTION,
  EVENT_INTERRUPT,
  EVENT_NMI,
  EVENT_OTHER,
  EVENT_SOFTWARE_INTERRUPT,
  SEG_CS,
  SEG_SS,
} from "./layout.gen.ts";
import { storeAs } from "./memory.ts";
import { VECTOR_DB, VECTOR_DF, VECTOR_GP, VECTOR_PF, VECTOR_SS } from "./mmu.ts";
import { setFlatSegment } from "./segments.ts";
import { codeBase, isCompat } from "./stack.ts";

const RSP = CPU_REGS + 32;
const CODE64_KERNEL: u32 = 0xa09b;
const DATA_KERNEL: u32 = 0xc093;
/** IA32_FRED_CONFIG: current stack level, bytes below the stack pointer that stay free, level of interrupts, entry. */
const CONFIG_LEVEL: u64 = 3;
const CONFIG_RED_ZONE: u64 = 0x1c0;
const CONFIG_INTERRUPT_LEVEL_SHIFT: u64 = 9;
const CONFIG_ENTRY: u64 = ~(0xfff as u64);
/** From the entry of ring 3 to that of ring 0. */
const RING0_ENTRY: u64 = 256;
const FRAME_ALIGNMENT: u64 = 0x3f;
/** Above SS in its word. */
const INFO_STI: u64 = 1 << 16;
const INFO_SOFTWARE: u64 = 1 << 17;
const INFO_NMI: u64 = 1 << 18;
const INFO_LONG: u64 = (1 as u64) << 57;
const INFO_NESTED: u64 = (1 as u64) << 58;

export function isFred(): bool {
  return (load<u64>(CPU_CR4) & CR4_FRED) !== 0;
}

/** Selector of the kernel's code: that of SYSCALL. */
export function fredCs(): u32 {
  return ((load<u64>(CPU_MSR_STAR) >> 32) as u32) & 0xfffc;
}

export function swapGsBase(): void {
  const base = load<u64>(CPU_GS_BASE);
  store<u64>(CPU_GS_BASE, load<u64>(CPU_MSR_KERNEL_GS_BASE));
  store<u64>(CPU_MSR_KERNEL_GS_BASE, base);
}

/** Stack level that the event asks for. */
function levelOf(vector: u32, type: u32): u64 {
  if (type === EVENT_INTERRUPT) return (load<u64>(CPU_MSR_FRED_CONFIG) >> CONFIG_INTERRUPT_LEVEL_SHIFT) & CONFIG_LEVEL;
  if (type === EVENT_SOFTWARE_INTERRUPT || type === EVENT_OTHER || vector > 31) return 0;
  return (load<u64>(CPU_MSR_FRED_STKLVLS) >> ((vector * 2) as u64)) & CONFIG_LEVEL;
}

function eventData(vector: u32, type: u32): u64 {
  if (type !== EVENT_EXCEPTION) return 0;
  if (vector === VECTOR_PF) return load<u64>(CPU_FAULT_ADDRESS);
  // As DR6, but bits say what happened and not what did not.
  return vector === VECTOR_DB ? load<u64>(CPU_DR + 48) & 0xe00f : 0;
}

function push(at: u64, value: u64): bool {
  if (storeAs(at as i64, 8, value as i64, load<u32>(CPU_CONTEXT_BASE) as u64)) return true;
  if (load<u32>(CPU_FAULT_VECTOR) === VECTOR_GP) fault(VECTOR_SS, 0);
  return false;
}

/** False with a fault recorded. `length`: of the instruction, for events that it raised itself. `isNested`: met while delivering another. */
export function fredDeliver(vector: u32, type: u32, error: u32, length: u32, isSoftware: bool, isNested: bool): bool {
  const config = load<u64>(CPU_MSR_FRED_CONFIG);
  const isUser = load<u32>(CPU_CPL) === 3;
  const oldLevel = isUser ? 0 : config & CONFIG_LEVEL;
  const asked = levelOf(vector, type);
  const isException = type === EVENT_EXCEPTION;
  const staysLow = isUser && !isNested && !(isException && vector === VECTOR_DF);
  const level = staysLow ? 0 : max<u64>(oldLevel, asked);
  let top: u64 = 0;
  if (isUser || level > oldLevel) top = load<u64>(CPU_MSR_FRED_RSP + ((level as u32) << 3));
  else top = load<u64>(RSP) - (config & CONFIG_RED_ZONE);
  top &= ~FRAME_ALIGNMENT;

  const flags = readFlags();
  const isFault = isException && vector !== VECTOR_DB && vector !== VECTOR_DF;
  const rip = (load<u64>(CPU_RIP) + (isSoftware ? (length as u64) : 0) - codeBase()) & ~load<u64>(CPU_RIP_ABSENT);
  let info = (load<u32>(CPU_SEG_SELECTOR + SEG_SS * 4) as u64) | ((vector as u64) << 32) | ((type as u64) << 48) | ((length as u64) << 60);
  if (load<u32>(CPU_SHADOW) !== 0) info |= INFO_STI;
  if (type === EVENT_SOFTWARE_INTERRUPT || type === EVENT_OTHER) info |= INFO_SOFTWARE;
  if (type === EVENT_NMI) info |= INFO_NMI;
  if (!isCompat()) info |= INFO_LONG;
  if (isNested && vector !== VECTOR_DF) info |= INFO_NESTED;
  if (!push(top - 8, 0)) return false;
  if (!push(top - 16, eventData(vector, type))) return false;
  if (!push(top - 24, info)) return false;
  if (!push(top - 32, load<u64>(RSP))) return false;
  if (!push(top - 40, isFault ? flags | (RF as u64) : flags)) return false;
  if (!push(top - 48, (load<u32>(CPU_SEG_SELECTOR + SEG_CS * 4) as u64) | (oldLevel << 16))) return false;
  if (!push(top - 56, rip)) return false;
  if (!push(top - 64, error as u64)) return false;
  // From here nothing can fail.
  if (isUser) swapGsBase();
  store<u64>(CPU_MSR_FRED_CONFIG, (config & ~CONFIG_LEVEL) | level);
  writeFlags(2);
  setFlatSegment(SEG_CS, fredCs(), CODE64_KERNEL);
  setFlatSegment(SEG_SS, fredCs() + 8, DATA_KERNEL);
  store<u32>(CPU_CPL, 0);
  refreshMode();
  store<u64>(RSP, top - 64);
  store<u64>(CPU_RIP, (config & CONFIG_ENTRY) + (isUser ? 0 : RING0_ENTRY));
  if (type === EVENT_NMI) store<u32>(CPU_NMI_BLOCKED, 1);
  return true;
}
