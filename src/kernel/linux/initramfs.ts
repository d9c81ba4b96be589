// The files that a run begins with (init/initramfs.c): an archive in the cpio "newc" format that firmware left in memory is unpacked into
// the RAM file system. Everything in it is checked; the first thing that is wrong ends the unpacking with one message.
import { EEXIST, isErr } from "../../abi/index.ts";
import { addVirt, assert, BOOT_INITRD, BOOT_INITRD_BYTES, cpu, type PhysAddr, type VirtAddr } from "../../hardware/index.ts";
import { va } from "../mm/layout.ts";
import { printk } from "../trace.ts";
import { FILE_CONSOLE, FILE_KVM, FILE_NULL, FILE_ZERO, type FileKind } from "./file-struct.ts";
import { INODE_DEVICE, INODE_DIRECTORY, INODE_EXE, INODE_FILE, INODE_SYNTHETIC, Inode, type InodeKind } from "./inode-struct.ts";
import { loadText } from "./kernel-text-bytes.ts";
import { createPath, makeParents } from "./namei.ts";
import { writeKernel } from "./page-cache.ts";
import { initRootfs, iput } from "./ramfs.ts";
import { SYNTHETIC_FILES } from "./synthetic-table.ts";

/** The header: a magic of 6 characters and 13 fields of 8 hexadecimal digits. cpio(5), "New ASCII Format". */
const HEADER_BYTES = 110;
const MAGIC = "070701";
const FIELD_MODE = 1;
const FIELD_FILESIZE = 6;
const FIELD_NAMESIZE = 11;
const TRAILER = "TRAILER!!!";
const S_IFMT = 0o170000;
const S_IFDIR = 0o40000;
const S_IFREG = 0o100000;
const MAX_NAME_BYTES = 4096;

interface Entry {
  readonly name: string;
  readonly mode: number;
  /** Offset and length of the contents in the archive. */
  readonly data: number;
  readonly bytes: number;
  /** Offset of the next header. */
  readonly next: number;
}

function aligned(offset: number): number {
  return Math.ceil(offset / 4) * 4;
}

/** Reads the entry at `offset`. @returns what is wrong with it. */
function readEntry(archive: VirtAddr, bytes: number, offset: number): Entry | string {
  if (offset + HEADER_BYTES > bytes) return "the archive ends before its trailer";
  const header = loadText(addVirt(archive, offset), HEADER_BYTES);
  if (!header.startsWith(MAGIC)) return `no magic ${MAGIC}`;
  if (!/^[0-9A-Fa-f]+$/.test(header)) return "a header field is not hexadecimal";
  const field = (index: number): number => Number.parseInt(header.slice(6 + 8 * index, 14 + 8 * index), 16);
  const nameBytes = field(FIELD_NAMESIZE);
  const fileBytes = field(FIELD_FILESIZE);
  const data = aligned(offset + HEADER_BYTES + nameBytes);
  if (nameBytes < 2 || nameBytes > MAX_NAME_BYTES) return `a name of ${nameBytes} bytes`;
  if (data + fileBytes > bytes) return `an entry of ${fileBytes} bytes does not fit`;
  const name = loadText(addVirt(archive, offset + HEADER_BYTES), nameBytes);
  if (name.indexOf("\0") !== nameBytes - 1) return "a name that does not end where it says";
  return { name: name.slice(0, -1), mode: field(FIELD_MODE), data, bytes: fileBytes, next: aligned(data + fileBytes) };
}

/** Puts one entry in the tree. @returns what went wrong. */
function unpackEntry(archive: VirtAddr, entry: Entry): string | undefined {
  const kind = entry.mode & S_IFMT;
  if (kind !== S_IFDIR && kind !== S_IFREG) return `${entry.name}: neither a file nor a directory`;
  const parents = makeParents(entry.name);
  if (parents !== 0) return `${entry.name}: error ${parents}`;
  const inode = createPath(entry.name, kind === S_IFDIR ? INODE_DIRECTORY : INODE_FILE);
  if (inode === EEXIST && kind === S_IFDIR) return undefined;
  if (isErr(inode)) return `${entry.name}: error ${inode}`;
  const error = kind === S_IFREG ? writeKernel(inode, 0, addVirt(archive, entry.data), entry.bytes) : 0;
  Inode.at(inode).mode = entry.mode & 0xffff;
  iput(inode);
  return error === 0 ? undefined : `${entry.name}: error ${error}`;
}

/** Unpacks an archive of `bytes` bytes. @returns what is wrong with it, and where; undefined: nothing (kernel: `unpack_to_rootfs()`). */
export function unpackToRootfs(archive: VirtAddr, bytes: number): string | undefined {
  let offset = 0;
  while (offset < bytes) {
    const entry = readEntry(archive, bytes, offset);
    if (typeof entry === "string") return `${entry} at byte ${offset}`;
    if (entry.name === TRAILER) return undefined;
    const problem = unpackEntry(archive, entry);
    if (problem !== undefined) return problem;
    offset = entry.next;
  }
  return `the archive ends before its trailer at byte ${offset}`;
}

function makeNode(path: string, kind: InodeKind, device: number): void {
  const parents = makeParents(path);
  const inode = parents === 0 ? createPath(path, kind, device) : parents;
  assert(!isErr(inode), () => `cannot make ${path}: error ${inode}`);
  iput(inode);
}

const DEVICES: readonly (readonly [string, FileKind])[] = [
  ["/dev/console", FILE_CONSOLE],
  ["/dev/kvm", FILE_KVM],
  ["/dev/null", FILE_NULL],
  ["/dev/zero", FILE_ZERO],
];

/** Makes the file system of a run (kernel: `populate_rootfs()`). Boot CPU, interrupts on. */
export function populateRootfs(): void {
  initRootfs();
  for (const [path, kind] of DEVICES) makeNode(path, INODE_DEVICE, kind);
  for (const [index, { path }] of SYNTHETIC_FILES.entries()) makeNode(path, INODE_SYNTHETIC, index);
  makeNode("/proc/self/exe", INODE_EXE, 0);
  makeNode("/tmp", INODE_DIRECTORY, 0);
  const bytes = cpu.loadWord(va(BOOT_INITRD_BYTES as PhysAddr));
  if (bytes === 0) return;
  const archive = va(cpu.loadWord(va(BOOT_INITRD as PhysAddr)) as PhysAddr); // what firmware says
  const problem = unpackToRootfs(archive, bytes);
  if (problem !== undefined) printk(`Initramfs unpacking failed: ${problem}`);
}
