// System calls on files (fs/read_write.c and its neighbours), from their arguments to what files do.
import {
  AT_EMPTY_PATH,
  EBADF,
  EFAULT,
  EINVAL,
  ENOTDIR,
  ENOTTY,
  EOVERFLOW,
  ESPIPE,
  isErr,
  SEEK_CUR,
  SEEK_END,
  SEEK_SET,
} from "../../abi/index.ts";
import { NULL } from "../../hardware/index.ts";
import { fdHold, fdInstall, fdReplace, fput, getFile, withFile } from "./file.ts";
import { fileOperations } from "./file-operations.ts";
import { FILE_CONSOLE, FILE_DIRECTORY, FILE_PIPE, FILE_RAM, FILE_SYNTHETIC, File } from "./file-struct.ts";
import { INODE_DIRECTORY, Inode } from "./inode-struct.ts";
import { createPath, unlinkPath } from "./namei.ts";
import { mayAccess, statFile, statPath } from "./open.ts";
import { MAX_FILE_BYTES } from "./page-cache.ts";
import { readDirectory } from "./ram-file.ts";
import { iput } from "./ramfs.ts";
import { userRange, userText } from "./user-arguments.ts";

/** Kernel: MAX_RW_COUNT. */
const MAX_RW_COUNT = 0x7ffff000;

/** Kernel: `ksys_read()`. */
export function sysRead(fd: number, to: number, bytes: number): number {
  return withFile(fd, (file) => {
    const refused = mayAccess(file, false);
    if (refused !== 0) return refused;
    const { read } = fileOperations(File.at(file).kind);
    if (read === undefined) return EINVAL;
    const address = userRange(to, bytes);
    return isErr(address) ? EFAULT : read(file, address, Math.min(bytes, MAX_RW_COUNT));
  });
}

/** Kernel: `ksys_write()`. */
export function sysWrite(fd: number, from: number, bytes: number): number {
  return withFile(fd, (file) => {
    const refused = mayAccess(file, true);
    if (refused !== 0) return refused;
    const { write } = fileOperations(File.at(file).kind);
    if (write === undefined) return EINVAL;
    const address = userRange(from, bytes);
    return isErr(address) ? EFAULT : write(file, address, Math.min(bytes, MAX_RW_COUNT));
  });
}

/** Kernel: `ksys_lseek()`. */
export function sysLseek(fd: number, offset: number, whence: number): number {
  return withFile(fd, (file) => {
    const view = File.at(file);
    const { kind, inode } = view;
    if (kind === FILE_PIPE || kind === FILE_CONSOLE) return ESPIPE;
    const end = kind === FILE_RAM ? Inode.at(inode).bytes : kind === FILE_SYNTHETIC ? view.textBytes : 0;
    const base = whence === SEEK_SET ? 0 : whence === SEEK_CUR ? view.position : whence === SEEK_END ? end : -1;
    if (base < 0) return EINVAL;
    const position = base + offset;
    if (position < 0) return EINVAL;
    if (position > MAX_FILE_BYTES) return kind === FILE_RAM ? EINVAL : EOVERFLOW;
    if (kind === FILE_RAM || kind === FILE_SYNTHETIC || kind === FILE_DIRECTORY) view.position = position;
    return position;
  });
}

/** Kernel: `vfs_ioctl()`. KVM_RUN ends in a cut point: nothing follows it where the descriptors are not shared. */
export function sysIoctl(fd: number, command: number, argument: number): number {
  return withFile(fd, (file) => fileOperations(File.at(file).kind).ioctl?.(file, command >>> 0, argument) ?? ENOTTY);
}

export function sysDup(fd: number): number {
  const file = fdHold(fd);
  if (file === NULL) return EBADF;
  const copy = fdInstall(file);
  if (copy < 0) fput(file);
  return copy;
}

/** Kernel: `ksys_dup3()` without flags; the same descriptor twice is allowed. */
export function sysDup2(from: number, to: number): number {
  return withFile(from, (file) => {
    if (from === to) return to;
    // Replacing what is at `to` must not free what is at `from`.
    getFile(file);
    const result = fdReplace(to, file);
    fput(file);
    return result;
  });
}

export function sysFstat(fd: number, to: number): number {
  return withFile(fd, (file) => statFile(file, to));
}

export function sysStat(path: number, to: number): number {
  const name = userText(path);
  return typeof name === "string" ? statPath(name, to) : name;
}

/** Kernel: `vfs_fstatat()`. Relative paths begin at the root. */
export function sysNewfstatat(fd: number, path: number, to: number, flags: number): number {
  const name = userText(path);
  if (typeof name !== "string") return name;
  return name === "" && (flags & AT_EMPTY_PATH) !== 0 ? sysFstat(fd, to) : statPath(name, to);
}

export function sysUnlink(path: number): number {
  const name = userText(path);
  return typeof name === "string" ? unlinkPath(name) : name;
}

export function sysMkdir(path: number): number {
  const name = userText(path);
  if (typeof name !== "string") return name;
  const made = createPath(name, INODE_DIRECTORY);
  if (isErr(made)) return made;
  iput(made);
  return 0;
}

export function sysGetdents64(fd: number, to: number, bytes: number): number {
  return withFile(fd, (file) => {
    if (File.at(file).kind !== FILE_DIRECTORY) return ENOTDIR;
    const address = userRange(to, bytes);
    return isErr(address) ? EFAULT : readDirectory(file, address, bytes);
  });
}
