// Open files and their references, and the descriptors of the running task (fs/file.c, fs/file_table.c).
import { EBADF, EMFILE, ENOMEM, type Errno, isErr } from "../../abi/index.ts";
import { addVirt, cpu, NULL, type VirtAddr } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { fileOperations } from "./file-operations.ts";
import { FdSlot, File, type FileKind, type FilePtr, type FilesPtr, FilesStruct, RLIMIT_NOFILE } from "./file-struct.ts";
import { growFiles, slotAt } from "./files.ts";
import { iput } from "./ramfs.ts";

/** An open file with one reference, or ENOMEM (kernel: `alloc_file_pseudo()`). */
export function allocFile(kind: FileKind, privateData: VirtAddr): FilePtr | Errno {
  const address = kzalloc(File.bytes, GFP_KERNEL);
  if (address === NULL) return ENOMEM;
  const pointer = address as FilePtr; // just allocated
  const file = File.at(pointer);
  file.kind = kind;
  file.count = 1;
  file.privateData = privateData;
  return pointer;
}

/** One more reference (kernel: `get_file()`). */
export function getFile(file: FilePtr): void {
  cpu.rmw("add", addVirt(file, File.offset.count), 4, 1);
}

/** Drops a reference; the last one releases the file (kernel: `fput()`). */
export function fput(file: FilePtr): void {
  if (cpu.rmw("add", addVirt(file, File.offset.count), 4, 0xffffffff) !== 1) return;
  const { kind, inode } = File.at(file);
  fileOperations(kind).release(file);
  kfree(file);
  if (inode !== NULL) iput(inode);
}

function currentFiles(): FilesPtr {
  return TaskStruct.at(current()).files;
}

/**
 * Gives the file the lowest free descriptor of the running task that is at least `from` (kernel: `get_unused_fd_flags()`,
 * `fd_install()`). The table takes over the caller's reference. @returns EMFILE; ENOMEM: the caller keeps it.
 */
export function fdInstall(file: FilePtr, closeOnExec = false, from = 0): number {
  const files = currentFiles();
  const view = FilesStruct.at(files);
  for (;;) {
    spinLock(view.lock);
    const { maxFds, table } = view;
    let fd = from;
    while (fd < maxFds && FdSlot.at(slotAt(table, fd)).file !== NULL) fd++;
    if (fd < maxFds) setSlot(table, fd, file, closeOnExec);
    spinUnlock(view.lock);
    if (fd < maxFds) return fd;
    if (fd >= RLIMIT_NOFILE) return EMFILE;
    const error = growFiles(files, fd);
    if (error !== 0) return error;
  }
}

function setSlot(table: VirtAddr, fd: number, file: FilePtr, closeOnExec: boolean): void {
  const slot = FdSlot.at(slotAt(table, fd));
  slot.file = file;
  slot.closeOnExec = closeOnExec ? 1 : 0;
}

/** File of a descriptor of the running task, or NULL; no reference is taken (kernel: `fdget()` where the table is not shared). */
export function fdGet(fd: number): FilePtr {
  if (fd < 0 || !Number.isInteger(fd)) return NULL;
  const view = FilesStruct.at(currentFiles());
  return fd < view.maxFds ? FdSlot.at(slotAt(view.table, fd)).file : NULL;
}

/**
 * Calls `use` with the file of a descriptor (kernel: `fdget()`, `fdput()`). Where threads share the table the file is held meanwhile;
 * else nothing follows `use`, which may then end in a cut point. @returns EBADF; what `use` returns.
 */
export function withFile(fd: number, use: (file: FilePtr) => number): number {
  if (fd < 0 || !Number.isInteger(fd)) return EBADF;
  const view = FilesStruct.at(currentFiles());
  if (view.count === 1) {
    const file = fd < view.maxFds ? FdSlot.at(slotAt(view.table, fd)).file : NULL;
    return file === NULL ? EBADF : use(file);
  }
  const file = fdHold(fd);
  if (file === NULL) return EBADF;
  const result = use(file);
  fput(file);
  return result;
}

/** File of a descriptor of the running task with a reference, or NULL (kernel: `fget()`). */
export function fdHold(fd: number): FilePtr {
  if (fd < 0 || !Number.isInteger(fd)) return NULL;
  const view = FilesStruct.at(currentFiles());
  spinLock(view.lock);
  const file = fd < view.maxFds ? FdSlot.at(slotAt(view.table, fd)).file : NULL;
  if (file !== NULL) getFile(file);
  spinUnlock(view.lock);
  return file;
}

/** A new descriptor for what `kind` and `privateData` say (kernel: `anon_inode_getfd()`). On error the caller keeps `privateData`. */
export function anonInodeGetfd(kind: FileKind, privateData: VirtAddr): number {
  const file = allocFile(kind, privateData);
  if (isErr(file)) return file;
  const fd = fdInstall(file);
  if (fd < 0) kfree(file);
  return fd;
}

/** Takes the file out of the table, or NULL. The caller has its reference (kernel: `file_close_fd()`). */
export function fdTake(fd: number): FilePtr {
  if (fd < 0 || !Number.isInteger(fd)) return NULL;
  const view = FilesStruct.at(currentFiles());
  spinLock(view.lock);
  const file = fd < view.maxFds ? FdSlot.at(slotAt(view.table, fd)).file : NULL;
  if (file !== NULL) setSlot(view.table, fd, NULL, false);
  spinUnlock(view.lock);
  return file;
}

/** Kernel: `close_fd()`. */
export function closeFd(fd: number): 0 | Errno {
  const file = fdTake(fd);
  if (file === NULL) return EBADF;
  fput(file);
  return 0;
}

/** Kernel: `do_dup2()`: `fd` refers to the file from now on; what was there is closed. Takes a reference. @returns EBADF; ENOMEM. */
export function fdReplace(fd: number, file: FilePtr): number {
  if (fd < 0 || fd >= RLIMIT_NOFILE) return EBADF;
  const files = currentFiles();
  const view = FilesStruct.at(files);
  if (fd >= view.maxFds) {
    const error = growFiles(files, fd);
    if (error !== 0) return error;
  }
  getFile(file);
  spinLock(view.lock);
  const { table } = view;
  const before = FdSlot.at(slotAt(table, fd)).file;
  setSlot(table, fd, file, false);
  spinUnlock(view.lock);
  if (before !== NULL) fput(before);
  return fd;
}
