// A transient window: instructions that execute and will not retire. All of the CPU block that a wrong path may change is copied when
// the window opens and copied back when it closes; memory is undone from a journal. Caches, buffers, TLBs and predictors are not: that
// is the point. The position of the return stack is taken back, but entries it overwrote stay so.
import {
  CPU_REGS,
  CPU_RETIRE,
  CPU_RETURN_STACK,
  DETAILED_ACCESS_TIME,
  DETAILED_COUNT_TRANSIENT,
  DETAILED_COUNT_WINDOWS,
  DETAILED_JOURNAL_TOP,
  DETAILED_LIMIT,
  DETAILED_RING_INDEX,
  DETAILED_TRANSIENT,
  DETAILED_WALK_TIME,
  DETAILED_WINDOW_ORDER,
  JOURNAL_BYTES,
  JOURNAL_HOST,
  JOURNAL_OLD,
  JOURNAL_REGION,
  JOURNAL_REGION_BYTES,
  JOURNAL_WIDTH,
  PHYSICAL_REGION,
  SHARED_PINNED,
  TIME_NEVER,
  TRANSIENT_SAVE_REGION,
} from "../layout.gen.ts";

/** Everything of the CPU block from its beginning up to the entries of the return stack. */
const SAVED_BYTES: usize = CPU_RETURN_STACK - CPU_REGS;

/** Opens a window that closes at time `limit`: what it issues by then leaves traces. The executor has spilled its locals. */
export function openWindow(limit: i64): void {
  memory.copy(TRANSIENT_SAVE_REGION, CPU_REGS, SAVED_BYTES);
  store<u64>(DETAILED_COUNT_WINDOWS, load<u64>(DETAILED_COUNT_WINDOWS) + 1);
  store<u32>(DETAILED_WINDOW_ORDER, load<u32>(DETAILED_RING_INDEX));
  store<u32>(DETAILED_TRANSIENT, 1);
  // The executor below us holds blocks: no translation may be discarded meanwhile.
  store<u32>(SHARED_PINNED, 1);
  store<i64>(DETAILED_LIMIT, limit);
  store<u32>(DETAILED_JOURNAL_TOP, JOURNAL_REGION as u32);
  // Nothing younger retires before the window closes: the reorder buffer fills up behind it.
  if (load<i64>(CPU_RETIRE) < limit) store<i64>(CPU_RETIRE, limit);
}

/** Squashes the wrong path. */
export function closeWindow(): void {
  const order = load<u32>(DETAILED_WINDOW_ORDER);
  store<u64>(DETAILED_COUNT_TRANSIENT, load<u64>(DETAILED_COUNT_TRANSIENT) + ((load<u32>(DETAILED_RING_INDEX) - order) as u64));
  store<u32>(DETAILED_RING_INDEX, order);
  rollBack();
  memory.copy(CPU_REGS, TRANSIENT_SAVE_REGION, SAVED_BYTES);
  store<u32>(DETAILED_TRANSIENT, 0);
  store<u32>(SHARED_PINNED, 0);
  store<i64>(DETAILED_LIMIT, TIME_NEVER);
  store<i64>(DETAILED_WALK_TIME, 0);
  store<i64>(DETAILED_ACCESS_TIME, 0);
}

/** Remembers `bytes` bytes at `host` before a wrong path overwrites them. False: the journal is full, the store must not be done. */
export function journalStore(host: u32, bytes: u32): bool {
  const top: usize = load<u32>(DETAILED_JOURNAL_TOP);
  if (top + JOURNAL_BYTES > ((JOURNAL_REGION + JOURNAL_REGION_BYTES) as usize)) return false;
  store<u32>(top, host, JOURNAL_HOST);
  store<u32>(top, bytes, JOURNAL_WIDTH);
  store<u64>(top, readWidth(host, bytes), JOURNAL_OLD);
  store<u32>(DETAILED_JOURNAL_TOP, (top + JOURNAL_BYTES) as u32);
  return true;
}

/** True if a wrong path has stored to the frame at physical address `pa`: its bytes must not be translated now. */
export function isJournaled(pa: u64): bool {
  const frame = ((PHYSICAL_REGION as u64) + pa) >> 12;
  const top: usize = load<u32>(DETAILED_JOURNAL_TOP);
  for (let record: usize = JOURNAL_REGION; record < top; record += JOURNAL_BYTES) {
    if (((load<u32>(record, JOURNAL_HOST) >> 12) as u64) === frame) return true;
  }
  return false;
}

function rollBack(): void {
  let record: usize = load<u32>(DETAILED_JOURNAL_TOP);
  while (record > (JOURNAL_REGION as usize)) {
    record -= JOURNAL_BYTES;
    writeWidth(load<u32>(record, JOURNAL_HOST), load<u32>(record, JOURNAL_WIDTH), load<u64>(record, JOURNAL_OLD));
  }
  store<u32>(DETAILED_JOURNAL_TOP, JOURNAL_REGION as u32);
}

function readWidth(host: usize, bytes: u32): u64 {
  if (bytes === 8) return load<u64>(host);
  if (bytes === 4) return load<u32>(host);
  if (bytes === 2) return load<u16>(host);
  return load<u8>(host);
}

function writeWidth(host: usize, bytes: u32, value: u64): void {
  if (bytes === 8) store<u64>(host, value);
  else if (bytes === 4) store<u32>(host, value as u32);
  else if (bytes === 2) store<u16>(host, value as u16);
  else store<u8>(host, value as u8);
}
