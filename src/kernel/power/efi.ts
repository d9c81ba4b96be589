// The firmware's runtime services. They run in an address space of their own, efi_mm, in which their code and data are mapped to their
// physical addresses; it is loaded by switch_mm(), so the restricted address space is left before (spec 2.11; patch 19).
import { ENOMEM, type Errno } from "../../abi/index.ts";
import {
  addVirt,
  cpu,
  entryFrame,
  MSR_IA32_SPEC_CTRL,
  NULL,
  PAGE_SIZE,
  type PhysAddr,
  PTE_PRESENT,
  pointer,
  SPEC_CTRL_IBRS,
  u32,
  type VirtAddr,
  virtAddr,
  virtual,
} from "../../hardware/index.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import { useIbrsFw } from "../mitigations/feature-keys.ts";
import { x86SpecCtrlCurrent } from "../mitigations/spec-ctrl.ts";
import { __GFP_SENSITIVE, __GFP_ZERO, GFP_KERNEL } from "../mm/gfp.ts";
import { allocKernelTable, freeTable } from "../mm/kernel-map.ts";
import { pa, va } from "../mm/layout.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { Mm, type MmPtr } from "../mm/mm-struct.ts";
import { freePages, getFreePages } from "../mm/page-alloc.ts";
import { clearEntry, entryAlloc, entryAt, KERNPG_TABLE, PAGE_KERNEL, PAGE_KERNEL_ROX, setLeaf } from "../mm/page-table.ts";
import { kfree, kmalloc } from "../mm/slab.ts";
import { enterLazyTlb, switchMm } from "../mm/switch-mm.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { staticBytes } from "../static-data.ts";
import type { SyntheticFiles } from "../synthetic-file.ts";
import { EFI_CALL, EFI_FIRMWARE, EFI_FIRMWARE_END, EFI_SERVICES, EFI_SUCCESS, type EfiService } from "./efi-stub.ts";

/** Kernel: efi_mm. NULL until the first call. */
const efiMm = staticBytes("efi_mm", 8, 8);
/** The firmware's memory, by its direct-map address: a page of code, a page of data. */
const efiRuntime = staticBytes("efi_runtime", 8, 8);

const RUNTIME_ORDER = 1;

/** Where the code of `service` begins behind the firmware's first byte. */
export function efiServiceOffset(service: EfiService): number {
  return symbolAddress(EFI_SERVICES[service]) - symbolAddress(EFI_FIRMWARE);
}

/** Physical address of the firmware, where efi_mm has it too; 0 before the first call. */
export function efiRuntimeBase(): number {
  const pages = virtual.get(efiRuntime);
  return pages === 0 ? 0 : pa(pages);
}

function loadedEfiMm(): MmPtr {
  return pointer("mm_struct").get(efiMm);
}

/** Maps one page of the firmware to itself in `mm`, for supervisor mode. */
function mapToItself(mm: MmPtr, frame: PhysAddr, isCode: boolean): 0 | Errno {
  const entry = entryAlloc(Mm.at(mm).pgd, virtAddr(frame), 1, KERNPG_TABLE, allocKernelTable, freeTable);
  if (entry === 0) return ENOMEM;
  setLeaf(entry, frame, isCode ? PAGE_KERNEL_ROX : PAGE_KERNEL, !isCode);
  return 0;
}

/** Frees the tables under the root's entry for the firmware; both pages are under the same. */
function unmapFirmware(mm: MmPtr, frame: PhysAddr): void {
  let entry = entryAt(va(Mm.at(mm).pgd), virtAddr(frame), 4);
  const root = entry;
  const tables: PhysAddr[] = [];
  for (const level of [3, 2, 1] as const) {
    const low = cpu.load64(entry);
    const { high } = cpu;
    if ((low & PTE_PRESENT) === 0) break;
    const table = entryFrame(low, high);
    tables.push(table);
    entry = entryAt(va(table), virtAddr(frame), level);
  }
  clearEntry(root);
  for (const table of tables) freeTable(table);
}

/** Makes efi_mm (kernel: `efi_enter_virtual_mode()`). @returns 0; ENOMEM: nothing is left. */
function efiInit(): 0 | Errno {
  if (loadedEfiMm() !== NULL) return 0;
  const mm = mmAlloc();
  if (mm === NULL) return ENOMEM;
  const pages = getFreePages(GFP_KERNEL | __GFP_SENSITIVE | __GFP_ZERO, RUNTIME_ORDER);
  const isMapped = pages !== 0 && mapToItself(mm, pa(pages), true) === 0 && mapToItself(mm, pa(addVirt(pages, PAGE_SIZE)), false) === 0;
  if (!isMapped) {
    if (pages !== 0) {
      unmapFirmware(mm, pa(pages));
      freePages(pages, RUNTIME_ORDER);
    }
    mmput(mm);
    return ENOMEM;
  }
  const code = symbolAddress(EFI_FIRMWARE);
  cpu.copy(pages, code, symbolAddress(EFI_FIRMWARE_END) - code);
  virtual.set(efiRuntime, pages);
  pointer("mm_struct").set(efiMm, mm);
  return 0;
}

/** Kernel: `firmware_restrict_branch_speculation_start()`: with retpolines firmware code has none. */
function restrictSpeculation(): void {
  if (useIbrsFw.isEnabled()) cpu.writeMsr(MSR_IA32_SPEC_CTRL, x86SpecCtrlCurrent.get() | SPEC_CTRL_IBRS, 0);
}

/** Kernel: `firmware_restrict_branch_speculation_end()`. */
function unrestrictSpeculation(): void {
  if (useIbrsFw.isEnabled()) cpu.writeMsr(MSR_IA32_SPEC_CTRL, x86SpecCtrlCurrent.get(), 0);
}

/**
 * Calls a runtime service with two arguments; pointers are kernel addresses (kernel: `efi_call_virt()`). Process context, interrupts on.
 * @returns the low half of the EFI status; ENOMEM: the services could not be set up.
 */
export function efiCallVirt(service: EfiService, first: number, second: number): number {
  const error = efiInit();
  if (error !== 0) return error;
  const task = TaskStruct.at(current());
  const mm = loadedEfiMm();
  const before = task.activeMm;
  // Kernel: efi_enter_mm(). The active mm says which tables are borrowed, should an interrupt look.
  task.activeMm = mm;
  switchMm(before, mm, current());
  restrictSpeculation();
  const entry = pa(virtual.get(efiRuntime)) + efiServiceOffset(service);
  const status = cpu.callStub(EFI_CALL, entry, first, second);
  unrestrictSpeculation();
  task.activeMm = before;
  switchMm(mm, before, current());
  if (task.mm === NULL) enterLazyTlb();
  return status;
}

/** Reads a variable (kernel: efi.get_variable). @returns its value, or undefined. */
export function efiGetVariable(name: number): number | undefined {
  return withCell((cell) => (efiCallVirt("GET_VARIABLE", name, cell) === EFI_SUCCESS ? pointerValue(cell) : undefined));
}

/** Next value of the firmware's counter (kernel: efi.get_next_high_mono_count). */
export function efiNextHighMonoCount(): number | undefined {
  return withCell((cell) => (efiCallVirt("GET_NEXT_HIGH_MONO_COUNT", cell, 0) === EFI_SUCCESS ? u32.get(cell) : undefined));
}

function pointerValue(cell: VirtAddr): number {
  return cpu.loadWord(cell);
}

/** Calls `use` with 8 bytes of kernel memory for the firmware's answer. */
function withCell<T>(use: (cell: VirtAddr) => T | undefined): T | undefined {
  const cell = kmalloc(8, GFP_KERNEL);
  if (cell === 0) return undefined;
  const result = use(cell);
  kfree(cell);
  return result;
}

/** The trigger for programs: reading calls the firmware. */
export const EFI_FILES: SyntheticFiles = new Map([["/sys/firmware/efi/mono_count", { show: () => `${efiNextHighMonoCount() ?? -1}\n` }]]);
