// What a load that is going to fault hands to its dependents before the fault is taken: the heart of Meltdown, L1TF and MDS. The walk
// has noted why it ended and which physical address it had in hand. Sources: Intel's advisories INTEL-SA-00088, -00161, -00233.
import {
  BUG_L1TF,
  BUG_MDS,
  BUG_MELTDOWN,
  CORE_BYTES,
  CORE_FILL_NEXT,
  CORES_REGION,
  CPU_EXIT_PHYSICAL,
  CPU_FAULT_ENTRY,
  CPU_FAULT_ERROR,
  CPU_FAULT_LEVEL,
  CPU_FAULT_PHYSICAL,
  CPU_FAULT_TERMINAL,
  CPU_FAULT_VECTOR,
  CPU_STORE_BUFFER,
  DETAILED_ACCESS_TIME,
  DETAILED_CORE,
  DETAILED_COUNT_FORWARDED,
  DETAILED_FILL_BUFFERS,
  DETAILED_FORWARD_DATA,
  DETAILED_FORWARD_SOURCE,
  DETAILED_L1D_LATENCY,
  DETAILED_LIMIT,
  FILL_BYTES,
  FILL_DATA,
  FILL_TAG,
  FORWARD_FILL_BUFFER,
  FORWARD_L1D_SUPERVISOR,
  FORWARD_L1D_TERMINAL,
  FORWARD_NOTHING,
  FORWARD_STORE_BUFFER,
  MODEL_BUGS,
  MODEL_FILL_BUFFERS,
  PHYSICAL_REGION,
  SHARED_PHYSICAL_BYTES,
  SHARED_PHYSICAL_MASK_BITS,
  STORE_BUFFER_SLOTS,
  STORE_BYTES,
  STORE_DATA,
  STORE_HOST,
  TIME_NEVER,
} from "../layout.gen.ts";
import { VECTOR_PF } from "../mmu.ts";
import { isInL1d } from "./hierarchy.ts";

const FRAME_MASK: u64 = 0x000ffffffffff000;
/** Bits of a page-fault error code: a user access, and what makes it no data read (write, fetch). */
const ERROR_USER: u32 = 4;
const ERROR_USER_READ_MASK: u32 = 4 | 2 | 16;
/** In FAULT_TERMINAL: the entry that ended the walk is one of EPT. */
const TERMINAL_IN_EPT: u32 = 2;

/**
 * Leaves in FORWARD_DATA what a load of `bytes` at `va` that cannot complete forwards, and in ACCESS_TIME when: never, if nothing is
 * forwarded, so that dependents do not execute. `start`: when its address was known.
 */
export function forwardFault(va: u64, bytes: u32, start: i64): void {
  for (let at: u32 = 0; at < 32; at += 8) store<u64>(DETAILED_FORWARD_DATA + at, 0);
  const source = start >= load<i64>(DETAILED_LIMIT) ? FORWARD_NOTHING : sourceOf(va, bytes, start);
  store<u32>(DETAILED_FORWARD_SOURCE, source);
  if (source === FORWARD_NOTHING) {
    store<i64>(DETAILED_ACCESS_TIME, TIME_NEVER);
    return;
  }
  store<u64>(DETAILED_COUNT_FORWARDED, load<u64>(DETAILED_COUNT_FORWARDED) + 1);
  store<i64>(DETAILED_ACCESS_TIME, start + (load<u32>(DETAILED_L1D_LATENCY) as i64));
}

function sourceOf(va: u64, bytes: u32, start: i64): u32 {
  const bugs = load<u32>(MODEL_BUGS);
  const terminal = load<u32>(CPU_FAULT_TERMINAL);
  if (terminal !== 0) {
    // The frame bits of the entry go to L1D as they are, with the offset of its level. On a part with this bug, a miss forwards nothing.
    if ((bugs & BUG_L1TF) === 0) return (bugs & BUG_MDS) !== 0 ? takeFromBuffers(va, bytes) : FORWARD_NOTHING;
    const inside = ((1 as u64) << (load<u32>(CPU_FAULT_LEVEL) as u64)) - 1;
    const offset = terminal === TERMINAL_IN_EPT ? load<u64>(CPU_EXIT_PHYSICAL) : va;
    const pa = (load<u64>(CPU_FAULT_ENTRY) & FRAME_MASK & ~inside) | (offset & inside);
    return takeFromL1d(pa, bytes, start) ? FORWARD_L1D_TERMINAL : FORWARD_NOTHING;
  }
  if (load<u32>(CPU_FAULT_VECTOR) !== VECTOR_PF || (load<u32>(CPU_FAULT_ERROR) & ERROR_USER_READ_MASK) !== ERROR_USER)
    return FORWARD_NOTHING;
  if ((bugs & BUG_MELTDOWN) !== 0 && takeFromL1d(load<u64>(CPU_FAULT_PHYSICAL), bytes, start)) return FORWARD_L1D_SUPERVISOR;
  return (bugs & BUG_MDS) !== 0 ? takeFromBuffers(va, bytes) : FORWARD_NOTHING;
}

/** A physical address looks up this core's L1D, and nothing else. */
function takeFromL1d(address: u64, bytes: u32, start: i64): bool {
  if (address === u64.MAX_VALUE) return false;
  // L1D compares as many bits as a physical address has: reserved ones above fall away.
  const pa = address & (((1 as u64) << (load<u32>(SHARED_PHYSICAL_MASK_BITS) as u64)) - 1);
  const end = ((pa as u32) & 63) + bytes;
  if (end > 64 || pa >= load<u64>(SHARED_PHYSICAL_BYTES)) return false;
  if (!isInL1d((pa >> 6) as u32, start)) return false;
  copyBytes(PHYSICAL_REGION + (pa as u32), bytes);
  return true;
}

/** Microarchitectural data sampling: a store whose page offset matches, else the fill buffer used last, at the offset within the line. */
function takeFromBuffers(va: u64, bytes: u32): u32 {
  const slot: usize = CPU_STORE_BUFFER + (((va as u32) >> 3) & (STORE_BUFFER_SLOTS - 1)) * STORE_BYTES;
  const inWord = (va as u32) & 7;
  if (load<u32>(slot, STORE_HOST) !== 0 && (load<u32>(slot, STORE_HOST) & 0xfff) === ((va as u32) & 0xff8) && inWord + bytes <= 8) {
    copyBytes(slot + STORE_DATA + inWord, bytes);
    return FORWARD_STORE_BUFFER;
  }
  const core: usize = CORES_REGION + load<u32>(DETAILED_CORE) * CORE_BYTES;
  const next = load<u32>(core, CORE_FILL_NEXT);
  const last = next === 0 ? load<u32>(MODEL_FILL_BUFFERS) - 1 : next - 1;
  const fill: usize = (load<u32>(DETAILED_FILL_BUFFERS) as usize) + last * FILL_BYTES;
  const inLine = (va as u32) & 63;
  if (load<u32>(fill, FILL_TAG) === 0 || inLine + bytes > 64) return FORWARD_NOTHING;
  copyBytes(fill + FILL_DATA + inLine, bytes);
  return FORWARD_FILL_BUFFER;
}

function copyBytes(from: usize, bytes: u32): void {
  for (let at: u32 = 0; at < bytes; at++) store<u8>(DETAILED_FORWARD_DATA + at, load<u8>(from + at));
}
