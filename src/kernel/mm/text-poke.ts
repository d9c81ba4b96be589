// Changing kernel text while it runs (arch/x86/kernel/alternative.c: text_poke()). The text is mapped nowhere writable; it is written by
// a page that a temporary mm maps, with interrupts off, so that no other CPU and no interrupt handler ever sees a writable alias.
import { addVirt, assert, cpu, NULL, PAGE_SIZE, type PhysAddr, pageDown, struct, type VirtAddr, virtual } from "../../hardware/index.ts";
import { current } from "../sched/current.ts";
import { localIrqRestore, localIrqSave, spinLock, spinlock, spinUnlock } from "../spinlock.ts";
import { staticBytes, staticStruct } from "../static-data.ts";
import { allocKernelTable, freeTable } from "./kernel-map.ts";
import { mmAlloc } from "./mm.ts";
import { initMm, Mm, type MmPtr } from "./mm-struct.ts";
import { clearEntry, entryAlloc, isPresent, lookupAddress, PAGE_KERNEL, PAGE_TABLE, setLeaf, translate } from "./page-table.ts";
import { switchMmIrqsOff } from "./switch-mm.ts";
import { flushTlbAll, flushTlbMmRange } from "./tlb.ts";
import { isLazy, loadedMm } from "./tlb-struct.ts";

/** Kernel: poking_addr. In the user half, where nothing else of that mm is. */
const POKING_ADDRESS = 0x7f00_0000_0000 as VirtAddr;

const TextMutex = struct("text_mutex", { lock: spinlock });
const textMutex = staticStruct("text_mutex", TextMutex);
/** Kernel: poking_mm. */
const pokingMm = staticBytes("poking_mm", 8, 8);

function pokingMmOf(): MmPtr {
  const mm = virtual.get(pokingMm) as unknown as MmPtr; // written by pokingInit() alone
  assert(mm !== NULL, () => "text_poke() before poking_init()");
  return mm;
}

/** Makes the temporary mm, with all the tables that its one page needs: poking allocates nothing (kernel: `poking_init()`). */
export function pokingInit(): void {
  const mm = mmAlloc();
  assert(mm !== NULL, () => "out of memory at boot: poking_mm");
  const entry = entryAlloc(Mm.at(mm).pgd, POKING_ADDRESS, 1, PAGE_TABLE, allocKernelTable, freeTable);
  assert(entry !== 0, () => "out of memory at boot: tables of poking_mm");
  virtual.set(pokingMm, mm);
}

/**
 * Loads `mm` for a moment, on this CPU alone; interrupts off until `unuseTemporaryMm` (kernel: `use_temporary_mm()`). May be called
 * restricted, in KVM's context too: the switch leaves the restricted address space first (patch 19). The ASID of the mm that was
 * loaded may be another afterwards, so what is derived from CR3 must be computed anew. @returns the mm that was loaded
 */
export function useTemporaryMm(mm: MmPtr): MmPtr {
  // A lazily kept mm need not come back.
  if (isLazy.get() !== 0) switchMmIrqsOff(NULL, initMm, NULL);
  const previous = loadedMm.get();
  switchMmIrqsOff(NULL, mm, current());
  return previous;
}

/** Kernel: `unuse_temporary_mm()`. */
export function unuseTemporaryMm(previous: MmPtr): void {
  switchMmIrqsOff(NULL, previous, current());
}

/**
 * Writes one byte of kernel text (kernel: `text_poke()` of one byte, which other CPUs see whole; then `text_poke_sync()`): when it returns,
 * every CPU runs what was written. Interrupts on if other CPUs run.
 */
export function textPokeByte(address: VirtAddr, value: number): void {
  const { lock } = TextMutex.at(textMutex);
  const mm = pokingMmOf();
  const text = lookupAddress(Mm.at(initMm).pgd, address);
  assert(isPresent(text), () => "text_poke() of an address that is not mapped");
  const page = pageDown(translate(text, address)) as PhysAddr;
  spinLock(lock);
  const flags = localIrqSave();
  const { entry } = lookupAddress(Mm.at(mm).pgd, POKING_ADDRESS);
  setLeaf(entry, page, PAGE_KERNEL, true);
  const previous = useTemporaryMm(mm);
  const at = addVirt(POKING_ADDRESS, address - pageDown(address));
  cpu.store(at, 1, value);
  const written = cpu.load(at, 1);
  clearEntry(entry);
  // Before the mm may be loaded here again: its ASID keeps nothing of the page.
  cpu.invlpg(POKING_ADDRESS);
  unuseTemporaryMm(previous);
  localIrqRestore(flags);
  flushTlbMmRange(mm, POKING_ADDRESS, POKING_ADDRESS + PAGE_SIZE);
  spinUnlock(lock);
  assert(written === value, () => `text_poke(): wrote ${value}, reads ${written}`);
  // The interrupt that asks the other CPUs for it makes them serialise.
  flushTlbAll();
}
