// File descriptors of a process, and open files. Descriptors are private to a task: there are no threads.
import { EBADF, EINVAL, EMFILE, ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, cpu, NULL, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { current } from "../sched/current.ts";
import { NR_OPEN, TaskStruct } from "../sched/task-struct.ts";
import { fileOperations } from "./file-operations.ts";
import { File, type FileKind } from "./file-struct.ts";

/** An open file with one reference, or ENOMEM (kernel: `alloc_file_pseudo()`). */
export function allocFile(kind: FileKind, privateData: VirtAddr): Ptr<"file"> | Errno {
  const address = kzalloc(File.bytes, GFP_KERNEL);
  if (address === NULL) return ENOMEM;
  const pointer = address as Ptr<"file">; // just allocated
  const file = File.at(pointer);
  file.kind = kind;
  file.count = 1;
  file.privateData = privateData;
  return pointer;
}

/** One more reference (kernel: `get_file()`). */
export function getFile(file: Ptr<"file">): void {
  cpu.rmw("add", addVirt(file, File.offset.count), 4, 1);
}

/** Drops a reference; the last one releases the file (kernel: `fput()`). */
export function fput(file: Ptr<"file">): void {
  if (cpu.rmw("add", addVirt(file, File.offset.count), 4, 0xffffffff) !== 1) return;
  fileOperations(File.at(file).kind).release(file);
  kfree(file);
}

/** Gives the file the lowest free descriptor of the running task, or EMFILE (kernel: `get_unused_fd_flags()`, `fd_install()`). */
export function fdInstall(file: Ptr<"file">): number {
  const { files } = TaskStruct.at(current());
  for (let fd = 0; fd < NR_OPEN; fd++) {
    if (files.get(fd) !== NULL) continue;
    files.set(fd, file);
    return fd;
  }
  return EMFILE;
}

/** File of a descriptor of the running task, or NULL (kernel: `fdget()`). */
export function fdGet(fd: number): Ptr<"file"> {
  return fd >= 0 && fd < NR_OPEN && Number.isInteger(fd) ? TaskStruct.at(current()).files.get(fd) : NULL;
}

/** A new descriptor for what `kind` and `privateData` say (kernel: `anon_inode_getfd()`). On error the caller keeps `privateData`. */
export function anonInodeGetfd(kind: FileKind, privateData: VirtAddr): number {
  const file = allocFile(kind, privateData);
  if (file < 0 && file >= -4095) return file;
  const pointer = file as Ptr<"file">; // not an error
  const fd = fdInstall(pointer);
  if (fd < 0) kfree(pointer);
  return fd;
}

/** Kernel: `close_fd()`. */
export function closeFd(fd: number): 0 | Errno {
  const file = fdGet(fd);
  if (file === NULL) return EBADF;
  TaskStruct.at(current()).files.set(fd, NULL);
  fput(file);
  return 0;
}

/** Closes every descriptor of a task that ends (kernel: `exit_files()`). */
export function closeAll(task: Ptr<"task_struct">): void {
  const { files } = TaskStruct.at(task);
  for (let fd = 0; fd < NR_OPEN; fd++) {
    const file = files.get(fd);
    if (file === NULL) continue;
    files.set(fd, NULL);
    fput(file);
  }
}

/** Kernel address of the page at `pageOffset` of a file that user space maps (kernel: vm_ops->fault()). @returns EINVAL where it has none. */
export function fileMapPage(file: Ptr<"file">, pageOffset: number): VirtAddr | Errno {
  return fileOperations(File.at(file).kind).mapPage?.(file, pageOffset) ?? EINVAL;
}
