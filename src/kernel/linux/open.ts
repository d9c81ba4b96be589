// Opening files, and what is asked about them (fs/open.c, fs/stat.c). Relative paths begin at the root, whatever directory openat() names.
import {
  EBADF,
  EEXIST,
  EINVAL,
  EISDIR,
  ENOENT,
  ENOTDIR,
  type Errno,
  isErr,
  O_ACCMODE,
  O_CLOEXEC,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_RDONLY,
  O_TRUNC,
  O_WRONLY,
  S_IFCHR,
  S_IFIFO,
} from "../../abi/index.ts";
import { addVirt, cpu, NULL } from "../../hardware/index.ts";
import { current } from "../sched/current.ts";
import { SignalStruct } from "../sched/signal-struct.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { allocFile, fdInstall, fput } from "./file.ts";
import { FILE_DIRECTORY, FILE_PIPE, FILE_RAM, FILE_SYNTHETIC, File, type FileKind, type FilePtr } from "./file-struct.ts";
import { INODE_DEVICE, INODE_DIRECTORY, INODE_EXE, INODE_FILE, INODE_SYNTHETIC, Inode, type InodePtr } from "./inode-struct.ts";
import { createPath, lookupPath } from "./namei.ts";
import { truncatePages } from "./page-cache.ts";
import { ihold, iput } from "./ramfs.ts";
import { openSynthetic } from "./synthetic.ts";
import { giveUserBytes, userText } from "./user-arguments.ts";

/** The inode to open, made if the flags say so, with a reference. */
function inodeFor(path: string, flags: number): InodePtr | Errno {
  if ((flags & O_CREAT) !== 0) {
    const made = createPath(path, INODE_FILE);
    if (made !== EEXIST || (flags & O_EXCL) !== 0) return made;
  }
  const inode = lookupPath(path);
  if (isErr(inode) || Inode.at(inode).kind !== INODE_EXE) return inode;
  iput(inode);
  const { exe } = SignalStruct.at(TaskStruct.at(current()).signal);
  if (exe === NULL) return ENOENT;
  ihold(exe);
  return exe;
}

function fileKindOf(inode: InodePtr): FileKind {
  const { kind, device } = Inode.at(inode);
  if (kind === INODE_DIRECTORY) return FILE_DIRECTORY;
  if (kind === INODE_SYNTHETIC) return FILE_SYNTHETIC;
  return kind === INODE_DEVICE ? (device as FileKind) : FILE_RAM; // what the node was made with
}

/** An open file of an inode; takes over the reference, also on errors (kernel: `do_dentry_open()`). */
function openInode(inode: InodePtr, flags: number): FilePtr | Errno {
  const isDirectory = Inode.at(inode).kind === INODE_DIRECTORY;
  const wantsWrite = (flags & O_ACCMODE) !== O_RDONLY;
  const refused = isDirectory ? (wantsWrite || (flags & O_CREAT) !== 0 ? EISDIR : 0) : (flags & O_DIRECTORY) !== 0 ? ENOTDIR : 0;
  const file = refused !== 0 ? refused : allocFile(fileKindOf(inode), NULL);
  if (isErr(file)) {
    iput(inode);
    return file;
  }
  const view = File.at(file);
  view.inode = inode;
  view.flags = flags;
  const { kind, device } = Inode.at(inode);
  const error = kind === INODE_SYNTHETIC ? openSynthetic(file, device) : 0;
  if (error !== 0) {
    fput(file);
    return error;
  }
  if (kind === INODE_FILE && (flags & O_TRUNC) !== 0 && wantsWrite) truncatePages(inode, 0);
  return file;
}

/** Opens a path of the kernel's choice. @returns as open(). */
export function openPath(path: string, flags: number): FilePtr | Errno {
  const inode = inodeFor(path, flags);
  return isErr(inode) ? inode : openInode(inode, flags);
}

/** Kernel: `do_sys_openat2()`. @returns a descriptor or an error. */
export function doOpen(pathAt: number, flags: number): number {
  const path = userText(pathAt);
  if (typeof path !== "string") return path;
  if ((flags & O_ACCMODE) === O_ACCMODE) return EINVAL;
  const file = openPath(path, flags);
  if (isErr(file)) return file;
  const fd = fdInstall(file, (flags & O_CLOEXEC) !== 0);
  if (fd < 0) fput(file);
  return fd;
}

/** Bytes of struct stat, and where the fields are. Linux uapi asm/stat.h. */
const STAT_BYTES = 144;
const BLOCK_BYTES = 4096;
const SECTOR_BYTES = 512;

interface Facts {
  readonly number: number;
  readonly mode: number;
  readonly nlink: number;
  readonly bytes: number;
}

/** Kernel: `cp_new_stat()`. @returns 0; EFAULT. */
function giveStat(to: number, { number, mode, nlink, bytes }: Facts): number {
  return giveUserBytes(to, STAT_BYTES, (buffer) => {
    cpu.storeWord(buffer, 1);
    cpu.storeWord(addVirt(buffer, 8), number);
    cpu.storeWord(addVirt(buffer, 16), nlink);
    cpu.store(addVirt(buffer, 24), 4, mode);
    cpu.storeWord(addVirt(buffer, 48), bytes);
    cpu.storeWord(addVirt(buffer, 56), BLOCK_BYTES);
    cpu.storeWord(addVirt(buffer, 64), Math.ceil(bytes / SECTOR_BYTES));
  });
}

function factsOf(inode: InodePtr): Facts {
  const { number, mode, nlink, bytes } = Inode.at(inode);
  return { number, mode, nlink, bytes };
}

/** Kernel: `vfs_fstat()`. */
export function statFile(file: FilePtr, to: number): number {
  const { inode, kind } = File.at(file);
  if (inode !== NULL) return giveStat(to, factsOf(inode));
  return giveStat(to, { number: 0, mode: (kind === FILE_PIPE ? S_IFIFO : S_IFCHR) | 0o600, nlink: 1, bytes: 0 });
}

/** Kernel: `vfs_stat()`. */
export function statPath(path: string, to: number): number {
  const inode = lookupPath(path);
  if (isErr(inode)) return inode;
  const error = giveStat(to, factsOf(inode));
  iput(inode);
  return error;
}

/** True when the file was opened for what `write` says. */
export function mayAccess(file: FilePtr, write: boolean): 0 | Errno {
  const mode = File.at(file).flags & O_ACCMODE;
  return mode === (write ? O_RDONLY : O_WRONLY) ? EBADF : 0;
}
