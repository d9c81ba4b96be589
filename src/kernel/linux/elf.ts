// Static ELF programs (fs/binfmt_elf.c), 64-bit and 32-bit: what the headers say, checked as far as the kernel relies on it. A bad image is
// ENOEXEC or EINVAL, never more.
import { EINVAL, EIO, ENOEXEC, type Errno } from "../../abi/index.ts";
import { addVirt, cpu, PAGE_SIZE, type VirtAddr } from "../../hardware/index.ts";
import { MMAP_MIN_ADDR, TASK_SIZE_MAX } from "../mm/layout.ts";
import type { InodePtr } from "./inode-struct.ts";
import { kernelBuffer } from "./kernel-buffer.ts";
import { readKernel } from "./page-cache.ts";

// System V ABI, chapter 4 and 5; AMD64 and i386 supplements.
const ELF_MAGIC = 0x464c457f;
const ELFCLASS32 = 1;
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ET_EXEC = 2;
const EM_386 = 3;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_INTERP = 3;
const EHDR_BYTES = 64;
const PHDR32_BYTES = 32;
const PHDR64_BYTES = 56;
/** Program headers must fit in a page (kernel: ELF_MIN_ALIGN; here of fixed size). */
const MAX_PHDR_BYTES = PAGE_SIZE;
/** End of what a 32-bit program may use (kernel: IA32_PAGE_OFFSET). */
export const IA32_PAGE_OFFSET = 0xffffe000 as VirtAddr;

const PF_X = 1;
const PF_W = 2;
const PF_R = 4;

export interface ElfSegment {
  readonly address: number;
  readonly fileOffset: number;
  readonly fileBytes: number;
  readonly memoryBytes: number;
  readonly isReadable: boolean;
  readonly isWritable: boolean;
  readonly isExecutable: boolean;
}

export interface ElfImage {
  readonly is32Bit: boolean;
  readonly entry: number;
  /** Where the program finds its own program headers, or 0. */
  readonly programHeaders: number;
  readonly programHeaderBytes: number;
  readonly programHeaderCount: number;
  readonly segments: readonly ElfSegment[];
}

interface Header {
  readonly is32Bit: boolean;
  readonly entry: number;
  readonly offset: number;
  readonly entryBytes: number;
  readonly count: number;
}

function u16At(buffer: VirtAddr, at: number): number {
  return cpu.load(addVirt(buffer, at), 2);
}

function u32At(buffer: VirtAddr, at: number): number {
  return cpu.load(addVirt(buffer, at), 4);
}

/** 8 bytes, as far as a number is exact; what is larger is larger than any file or address. */
function u64At(buffer: VirtAddr, at: number): number {
  return u32At(buffer, at) + u32At(buffer, at + 4) * 2 ** 32;
}

function parseHeader(buffer: VirtAddr, bytes: number): Header | Errno {
  if (bytes < EHDR_BYTES || u32At(buffer, 0) !== ELF_MAGIC) return ENOEXEC;
  const identity = u32At(buffer, 4);
  const is32Bit = (identity & 0xff) === ELFCLASS32;
  if (!is32Bit && (identity & 0xff) !== ELFCLASS64) return ENOEXEC;
  if (((identity >>> 8) & 0xff) !== ELFDATA2LSB) return ENOEXEC;
  const kind = u32At(buffer, 16);
  if ((kind & 0xffff) !== ET_EXEC || kind >>> 16 !== (is32Bit ? EM_386 : EM_X86_64)) return ENOEXEC;
  const entryBytes = u16At(buffer, is32Bit ? 42 : 54);
  const count = u16At(buffer, is32Bit ? 44 : 56);
  if (entryBytes !== (is32Bit ? PHDR32_BYTES : PHDR64_BYTES)) return ENOEXEC;
  if (count === 0 || count * entryBytes > MAX_PHDR_BYTES) return ENOEXEC;
  return {
    is32Bit,
    entry: is32Bit ? u32At(buffer, 24) : u64At(buffer, 24),
    offset: is32Bit ? u32At(buffer, 28) : u64At(buffer, 32),
    entryBytes,
    count,
  };
}

function segment(flags: number, fileOffset: number, address: number, fileBytes: number, memoryBytes: number): ElfSegment {
  return {
    address,
    fileOffset,
    fileBytes,
    memoryBytes,
    isReadable: (flags & PF_R) !== 0,
    isWritable: (flags & PF_W) !== 0,
    isExecutable: (flags & PF_X) !== 0,
  };
}

function segmentAt(buffer: VirtAddr, at: number, is32Bit: boolean): ElfSegment {
  const u32 = (offset: number): number => u32At(buffer, at + offset);
  const u64 = (offset: number): number => u64At(buffer, at + offset);
  if (is32Bit) return segment(u32(24), u32(4), u32(8), u32(16), u32(20));
  return segment(u32(4), u64(8), u64(16), u64(32), u64(40));
}

/** What a segment must be so that it can be mapped (kernel: `elf_load()` and the checks around it). */
function checkSegment(one: ElfSegment, is32Bit: boolean, fileBytes: number): 0 | Errno {
  const top = is32Bit ? IA32_PAGE_OFFSET : TASK_SIZE_MAX;
  if (one.fileBytes > one.memoryBytes || one.memoryBytes > top || one.address > top - one.memoryBytes) return EINVAL;
  if (one.address < MMAP_MIN_ADDR) return EINVAL;
  if (one.address % PAGE_SIZE !== one.fileOffset % PAGE_SIZE) return EINVAL;
  if (one.fileOffset + one.fileBytes > fileBytes) return EIO;
  return 0;
}

function parseSegments(buffer: VirtAddr, header: Header, fileBytes: number): readonly ElfSegment[] | Errno {
  const segments: ElfSegment[] = [];
  for (let i = 0; i < header.count; i++) {
    const at = i * header.entryBytes;
    const type = u32At(buffer, at);
    // Programs here are static: nothing interprets them.
    if (type === PT_INTERP) return ENOEXEC;
    if (type !== PT_LOAD) continue;
    const one = segmentAt(buffer, at, header.is32Bit);
    if (one.memoryBytes === 0) continue;
    const error = checkSegment(one, header.is32Bit, fileBytes);
    if (error !== 0) return error;
    segments.push(one);
  }
  return segments.length === 0 ? ENOEXEC : segments;
}

/** Reads and checks an image. `fileBytes`: its size. @returns ENOEXEC: not such a program; EINVAL, EIO: a damaged one; ENOMEM. */
export function readElf(inode: InodePtr, fileBytes: number): ElfImage | Errno {
  const header = kernelBuffer<Header | Errno>(EHDR_BYTES, (buffer) => parseHeader(buffer, readKernel(inode, 0, buffer, EHDR_BYTES)));
  if (typeof header === "number") return header;
  const bytes = header.count * header.entryBytes;
  const segments = kernelBuffer<readonly ElfSegment[] | Errno>(bytes, (buffer) => {
    if (readKernel(inode, header.offset, buffer, bytes) !== bytes) return EIO;
    return parseSegments(buffer, header, fileBytes);
  });
  if (typeof segments === "number") return segments;
  const holder = segments.find((one) => header.offset >= one.fileOffset && header.offset + bytes <= one.fileOffset + one.fileBytes);
  return {
    is32Bit: header.is32Bit,
    entry: header.entry,
    programHeaders: holder === undefined ? 0 : holder.address + header.offset - holder.fileOffset,
    programHeaderBytes: header.entryBytes,
    programHeaderCount: header.count,
    segments,
  };
}
