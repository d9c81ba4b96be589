// Tables of descriptors: made, shared by threads, copied by fork, and given back (fs/file.c: dup_fd(), put_files_struct()).
import { ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, cpu, NULL, type Ptr, ptr, type VirtAddr } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { fput, getFile } from "./file.ts";
import { FdSlot, type FilePtr, type FilesPtr, FilesStruct, NR_OPEN_DEFAULT } from "./file-struct.ts";

/** Address of a descriptor's slot. */
export function slotAt(table: VirtAddr, fd: number): Ptr<"fd_slot"> {
  return ptr<"fd_slot">(addVirt(table, fd * FdSlot.bytes));
}

function allocTable(maxFds: number): FilesPtr {
  const files = kzalloc(FilesStruct.bytes, GFP_KERNEL) as FilesPtr; // just allocated
  if (files === NULL) return NULL;
  const table = kzalloc(maxFds * FdSlot.bytes, GFP_KERNEL);
  if (table === NULL) {
    kfree(files);
    return NULL;
  }
  const view = FilesStruct.at(files);
  view.count = 1;
  view.maxFds = maxFds;
  view.table = table;
  return files;
}

/** An empty table, or NULL. */
export function allocFiles(): FilesPtr {
  return allocTable(NR_OPEN_DEFAULT);
}

/** Makes room for descriptor `fd` (kernel: `expand_files()`). @returns 0; ENOMEM. */
export function growFiles(files: FilesPtr, fd: number): 0 | Errno {
  const view = FilesStruct.at(files);
  let slots = view.maxFds;
  while (slots <= fd) slots *= 2;
  const table = kzalloc(slots * FdSlot.bytes, GFP_KERNEL);
  if (table === NULL) return ENOMEM;
  spinLock(view.lock);
  const { table: old, maxFds } = view;
  const isLarger = slots > maxFds;
  if (isLarger) {
    cpu.copy(table, old, maxFds * FdSlot.bytes);
    view.table = table;
    view.maxFds = slots;
  }
  spinUnlock(view.lock);
  kfree(isLarger ? old : table);
  return 0;
}

/** A copy: the same files, in a table of its own (kernel: `dup_fd()`). @returns NULL when there is no memory. */
export function dupFiles(files: FilesPtr): FilesPtr {
  const view = FilesStruct.at(files);
  const { maxFds } = view;
  const copy = allocTable(maxFds);
  if (copy === NULL) return NULL;
  const { table: to } = FilesStruct.at(copy);
  spinLock(view.lock);
  const { table: from } = view;
  for (let fd = 0; fd < maxFds; fd++) {
    const slot = FdSlot.at(slotAt(from, fd));
    const { file } = slot;
    if (file === NULL) continue;
    getFile(file);
    const target = FdSlot.at(slotAt(to, fd));
    target.file = file;
    target.closeOnExec = slot.closeOnExec;
  }
  spinUnlock(view.lock);
  return copy;
}

/** One more task shares the table. */
export function getFiles(files: FilesPtr): void {
  cpu.rmw("add", addVirt(files, FilesStruct.offset.count), 4, 1);
}

/** One less; the last closes every descriptor (kernel: `put_files_struct()`). May block. */
export function putFiles(files: FilesPtr): void {
  if (cpu.rmw("add", addVirt(files, FilesStruct.offset.count), 4, 0xffffffff) !== 1) return;
  closeWhere(files, false);
  kfree(FilesStruct.at(files).table);
  kfree(files);
}

/** Closes the descriptors that execve() does not hand on (kernel: `do_close_on_exec()`). */
export function closeOnExec(files: FilesPtr): void {
  closeWhere(files, true);
}

function closeWhere(files: FilesPtr, onlyCloseOnExec: boolean): void {
  const { maxFds } = FilesStruct.at(files);
  for (let fd = 0; fd < maxFds; fd++) {
    const slot = FdSlot.at(slotAt(FilesStruct.at(files).table, fd));
    const { file } = slot;
    if (file === NULL || (onlyCloseOnExec && slot.closeOnExec === 0)) continue;
    slot.file = NULL;
    slot.closeOnExec = 0;
    fput(file);
  }
}

/** Puts a file in a table that no task uses yet; takes over the reference. */
export function installIn(files: FilesPtr, fd: number, file: FilePtr): void {
  FdSlot.at(slotAt(FilesStruct.at(files).table, fd)).file = file;
}
