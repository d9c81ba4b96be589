// A page walk for observers: no permissions, no accessed bits, no TLB, no time.
import {
  entryFrame,
  type Level,
  largeEntryFrame,
  levelSize,
  type PhysicalMemory,
  PTE_LARGE,
  PTE_PRESENT,
  physAddr,
  tableIndex,
} from "../hardware/index.ts";

/** Physical address that `address` has in the tables at `root`; undefined when not present. */
export function peekTranslate(memory: PhysicalMemory, root: number, address: number): number | undefined {
  let table = root;
  for (let level = 4 as Level; ; level = (level - 1) as Level) {
    const at = table + 8 * tableIndex(address, level);
    if (!memory.has(at, 8)) return undefined;
    const low = memory.read32(physAddr(at));
    const high = memory.read32(physAddr(at + 4));
    if ((low & PTE_PRESENT) === 0) return undefined;
    if (level === 1 || (level < 4 && (low & PTE_LARGE) !== 0)) {
      const bytes = levelSize(level);
      return largeEntryFrame(low, high, level) + (address - Math.floor(address / bytes) * bytes);
    }
    table = entryFrame(low, high);
  }
}
