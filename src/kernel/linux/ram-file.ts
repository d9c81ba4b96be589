// Reading, writing and mapping files of the RAM file system: generic_file_read_iter(), generic_perform_write(), filemap_fault().
import { EFAULT, EINVAL, EISDIR, ENOENT, type Errno, isErr, O_APPEND } from "../../abi/index.ts";
import { addVirt, cpu, NULL, PAGE_SIZE, type VirtAddr } from "../../hardware/index.ts";
import { kmapLocalPage, kunmapLocal } from "../mm/kmap.ts";
import { putPage } from "../mm/page-alloc.ts";
import type { PagePtr } from "../mm/page-struct.ts";
import { copyToUser, rawCopyFromUser } from "../mm/uaccess.ts";
import { clearUser } from "./devices.ts";
import { File, type FileOperations, type FilePtr } from "./file-struct.ts";
import { DENTRY_NAME_OFFSET, Dentry, INODE_DIRECTORY, Inode, type InodePtr } from "./inode-struct.ts";
import { kernelBuffer } from "./kernel-buffer.ts";
import { extendTo, findPage, grabPage } from "./page-cache.ts";
import { entryAt } from "./ramfs.ts";

/** Part of one page to user memory. @returns bytes that could not be written. */
function readPiece(inode: InodePtr, position: number, to: VirtAddr, bytes: number): number {
  const page = findPage(inode, Math.floor(position / PAGE_SIZE));
  if (page === NULL) return clearUser(to, bytes);
  const mapped = kmapLocalPage(page);
  const left = copyToUser(to, addVirt(mapped, position % PAGE_SIZE), bytes);
  kunmapLocal(mapped);
  putPage(page);
  return left;
}

function ramRead(file: FilePtr, to: VirtAddr, bytes: number): number {
  const view = File.at(file);
  const { inode, position } = view;
  const count = Math.min(bytes, Inode.at(inode).bytes - position);
  let done = 0;
  while (done < count) {
    const at = position + done;
    const piece = Math.min(PAGE_SIZE - (at % PAGE_SIZE), count - done);
    const left = readPiece(inode, at, addVirt(to, done), piece);
    done += piece - left;
    if (left > 0) break;
  }
  if (done > 0) view.position = position + done;
  return done > 0 || count <= 0 ? done : EFAULT;
}

/** Part of one page from user memory. @returns bytes written; EFAULT; ENOMEM; EFBIG. */
function writePiece(inode: InodePtr, position: number, from: VirtAddr, bytes: number): number {
  const page = grabPage(inode, Math.floor(position / PAGE_SIZE));
  if (isErr(page)) return page;
  const mapped = kmapLocalPage(page);
  const left = rawCopyFromUser(addVirt(mapped, position % PAGE_SIZE), from, bytes);
  kunmapLocal(mapped);
  putPage(page);
  return left === bytes ? EFAULT : bytes - left;
}

function ramWrite(file: FilePtr, from: VirtAddr, bytes: number): number {
  const view = File.at(file);
  const { inode } = view;
  const position = (view.flags & O_APPEND) !== 0 ? Inode.at(inode).bytes : view.position;
  let done = 0;
  let error = 0;
  while (done < bytes) {
    const at = position + done;
    const piece = Math.min(PAGE_SIZE - (at % PAGE_SIZE), bytes - done);
    const written = writePiece(inode, at, addVirt(from, done), piece);
    if (written > 0) done += written;
    else error = written;
    if (written < piece) break;
  }
  if (done > 0) {
    extendTo(inode, position + done);
    view.position = position + done;
  }
  return done > 0 ? done : error;
}

/** Page for a mapping, with a reference: truncation may take it away (kernel: `filemap_fault()`). @returns EINVAL behind the end; ENOMEM. */
function ramFaultPage(file: FilePtr, pageOffset: number): PagePtr | Errno {
  const { inode } = File.at(file);
  return pageOffset * PAGE_SIZE >= Inode.at(inode).bytes ? EINVAL : grabPage(inode, pageOffset);
}

export const ramFileOperations: FileOperations = { read: ramRead, write: ramWrite, faultPage: ramFaultPage, release: () => undefined };
export const directoryOperations: FileOperations = { read: () => EISDIR, release: () => undefined };

// struct linux_dirent64: d_ino, d_off, d_reclen, d_type, then the name.
const DIRENT_NAME = 19;
const DT_DIR = 4;
const DT_REG = 8;

/** Kernel: `getdents64()`. Position: the number of entries that were read. @returns bytes; EINVAL: the buffer is too small; EFAULT. */
export function readDirectory(file: FilePtr, to: VirtAddr, bytes: number): number {
  const view = File.at(file);
  if (Inode.at(view.inode).kind !== INODE_DIRECTORY) return ENOENT;
  let done = 0;
  for (;;) {
    const entry = entryAt(view.inode, view.position);
    if (entry === NULL) return done;
    const { nameBytes, inode } = Dentry.at(entry);
    const record = Math.ceil((DIRENT_NAME + nameBytes + 1) / 8) * 8;
    if (done + record > bytes) return done > 0 ? done : EINVAL;
    const next = view.position + 1;
    const failed = kernelBuffer(record, (buffer) => {
      const { number, kind } = Inode.at(inode);
      cpu.storeWord(buffer, number);
      cpu.storeWord(addVirt(buffer, 8), next);
      cpu.store(addVirt(buffer, 16), 2, record);
      cpu.store(addVirt(buffer, 18), 1, kind === INODE_DIRECTORY ? DT_DIR : DT_REG);
      cpu.copy(addVirt(buffer, DIRENT_NAME), addVirt(entry, DENTRY_NAME_OFFSET), nameBytes);
      return copyToUser(addVirt(to, done), buffer, record) === 0 ? 0 : EFAULT;
    });
    if (failed !== 0) return done > 0 ? done : failed;
    view.position = next;
    done += record;
  }
}
