// The data of a user address space: mm_struct, with its ASI domains embedded, and its areas. Only declarations.
import { array, embedded, i32, type Ptr, physical, pointer, struct, u32, type View, virtual, word } from "../../hardware/index.ts";
import { ASI_MAX_NUM_CLASSES, Asi } from "../asi/asi-struct.ts";
import { spinlock } from "../spinlock.ts";
import { staticStruct } from "../static-data.ts";

/** Kernel: INIT_MM_CONTEXT. */
export const INIT_MM_CTX_ID = 1;

/** Kernel: mm_context_t. */
export const MmContext = struct("mm_context_t", {
  /** Never used twice, so that a stale ASID slot cannot be taken for a newer mm at the same address. 0: nobody's. */
  ctxId: u32,
  /** Counts flushes: a CPU whose copy is behind has flushing to do. Atomic. */
  tlbGen: u32,
});

/** Kernel: struct mm_struct. */
export const Mm = struct("mm_struct", {
  /** Physical address of the unrestricted root table. */
  pgd: physical,
  /** Kernel: mm_users: tasks that use the user half. Atomic. */
  users: i32,
  /** Kernel: mm_count: all users together, plus lazy ones. Atomic. */
  count: i32,
  context: embedded(MmContext),
  /** CPUs that may have it loaded (kernel: mm_cpumask()). Atomic or/and. */
  cpumask: u32,
  /** Its number in labels of owners (`owner()`), from 1; init_mm is 0. Constant. */
  number: u32,
  /** Page of 32-bit system call code in the process's memory, or 0 (kernel: context.vdso). */
  vdso32: word,
  /** Guards the list of areas and the user half of the tables (kernel: mmap_lock and page_table_lock). Taken with interrupts on. */
  mmapLock: spinlock,
  /** Guards the reference counts and roots of `asi`. Taken with interrupts on. */
  asiInitLock: spinlock,
  asi: array(embedded(Asi), ASI_MAX_NUM_CLASSES),
  /** Segments of the process's own, or NULL (kernel: context.ldt). Replaced under ldtLock; read with interrupts off where it is loaded. */
  ldt: pointer("ldt_struct"),
  /** Kernel: context.ldt_usr_sem. Taken with interrupts on. */
  ldtLock: spinlock,
  /** Areas in order of address. */
  mmap: pointer("vm_area_struct"),
  /** Where mmap() begins to look for room, downwards; below 4 GiB for 32-bit programs. Set before the mm runs. */
  mmapBase: virtual,
  // Under mmapLock.
  /** The heap, which brk() moves the end of; `startBrk` is set by who maps a program. */
  startBrk: virtual,
  brk: virtual,
});
export type Mm = View<typeof Mm>;
export type MmPtr = Ptr<"mm_struct">;

/** Kernel: VM_*. */
export const VM_READ = 1;
export const VM_WRITE = 2;
export const VM_EXEC = 4;
export const VM_SHARED = 8;
/** What mprotect() may ask for: each of VM_READ, VM_WRITE and VM_EXEC, four bits up. */
export const VM_MAYREAD = 0x10;
export const VM_MAYWRITE = 0x20;
export const VM_MAYEXEC = 0x40;
export const VM_GROWSDOWN = 0x100;
export const VM_ACCESS_FLAGS = VM_READ | VM_WRITE | VM_EXEC;

/** Kernel: struct vm_area_struct. */
export const VmArea = struct("vm_area_struct", {
  start: virtual,
  end: virtual,
  flags: u32,
  next: pointer("vm_area_struct"),
  mm: pointer("mm_struct"),
  /** Mapped file, or NULL for anonymous memory; the area holds a reference. */
  file: pointer("file"),
  /** Page offset of `start` in the file, or of anonymous memory its page number, so that neighbours can be joined (kernel: vm_pgoff). */
  pageOffset: word,
});
export type VmArea = View<typeof VmArea>;
export type VmaPtr = Ptr<"vm_area_struct">;

/** The kernel's own address space: its tables are what every mm copies its kernel half from. */
export const initMm: MmPtr = staticStruct("init_mm", Mm);
