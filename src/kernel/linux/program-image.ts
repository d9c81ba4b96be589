// An address space with a program in it: its segments, and the stack that the ABI describes. It is built while nobody has it loaded, so that
// exec() can fail and leave the caller as it was.
import {
  AT_BASE,
  AT_CLKTCK,
  AT_EGID,
  AT_ENTRY,
  AT_EUID,
  AT_EXECFN,
  AT_FLAGS,
  AT_GID,
  AT_HWCAP,
  AT_NULL,
  AT_PAGESZ,
  AT_PHDR,
  AT_PHENT,
  AT_PHNUM,
  AT_RANDOM,
  AT_SECURE,
  AT_UID,
  E2BIG,
  ENOMEM,
  type Errno,
  isErr,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_GROWSDOWN,
  MAP_PRIVATE,
  PROT_EXEC,
  PROT_READ,
  PROT_WRITE,
} from "../../abi/index.ts";
import { addVirt, cpu, high32, low32, NULL, PAGE_SIZE, pageDown, pageUp, type VirtAddr, virtAddr } from "../../hardware/index.ts";
import { mapVdso32 } from "../entry/vdso-32.ts";
import { kmapLocalPage, kunmapLocal } from "../mm/kmap.ts";
import { MMAP_BASE_32, TASK_SIZE_MAX } from "../mm/layout.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { Mm, type MmPtr } from "../mm/mm-struct.ts";
import { doMmap } from "../mm/mmap.ts";
import { physToPage } from "../mm/page-struct.ts";
import { getUserPageForced, putUserPage } from "../mm/user-memory.ts";
import { type ElfImage, type ElfSegment, IA32_PAGE_OFFSET } from "./elf.ts";
import type { FilePtr } from "./file-struct.ts";

/** Bytes of stack that a program begins with; pages come as they are touched, and the area grows to RLIMIT_STACK. */
const STACK_BYTES = 0x100000;
/** Most bytes of arguments and environment (kernel: a quarter of the stack's limit). */
const MAX_ARGUMENT_BYTES = STACK_BYTES / 4;
/** Where 32-bit programs make their system calls: the vDSO's entry. Linux uapi asm/auxvec.h. */
const AT_SYSINFO = 32;
const RANDOM_BYTES = 16;

/** A program that is ready to run. */
export interface ProgramImage {
  readonly mm: MmPtr;
  readonly entry: number;
  readonly stackPointer: number;
  readonly is32Bit: boolean;
}

/** Builds the address space of `image`. @returns ENOMEM; E2BIG; what mapping gives. On error nothing is left. */
export function buildProgram(
  image: ElfImage,
  file: FilePtr,
  path: string,
  argv: readonly string[],
  envp: readonly string[],
): ProgramImage | Errno {
  const mm = mmAlloc();
  if (mm === NULL) return ENOMEM;
  const stackPointer = fill(mm, image, file, path, argv, envp);
  if (stackPointer < 0) {
    mmput(mm);
    return stackPointer as Errno; // negative results are errors
  }
  return { mm, entry: image.entry, stackPointer, is32Bit: image.is32Bit };
}

function fill(mm: MmPtr, image: ElfImage, file: FilePtr, path: string, argv: readonly string[], envp: readonly string[]): number {
  let end = 0;
  for (const one of image.segments) {
    const error = mapSegment(mm, one, file);
    if (error !== 0) return error;
    end = Math.max(end, one.address + one.memoryBytes);
  }
  setBrk(mm, pageUp(end));
  if (image.is32Bit) {
    Mm.at(mm).mmapBase = MMAP_BASE_32;
    const error = mapVdso32(mm);
    if (error !== 0) return error;
  }
  const top = image.is32Bit ? IA32_PAGE_OFFSET : TASK_SIZE_MAX;
  const stack = doMmap(
    mm,
    virtAddr(top - STACK_BYTES),
    STACK_BYTES,
    PROT_READ | PROT_WRITE,
    FIXED | MAP_ANONYMOUS | MAP_GROWSDOWN,
    NULL,
    0,
  );
  return isErr(stack) ? stack : new StackWriter(mm, top, image.is32Bit).write(image, path, argv, envp);
}

const FIXED = MAP_PRIVATE | MAP_FIXED;

/** The heap begins behind the last segment (kernel: mm->start_brk, mm->brk). */
function setBrk(mm: MmPtr, at: number): void {
  const view = Mm.at(mm);
  view.startBrk = virtAddr(at);
  view.brk = virtAddr(at);
}

function protectionOf(one: ElfSegment): number {
  return (one.isReadable ? PROT_READ : 0) | (one.isWritable ? PROT_WRITE : 0) | (one.isExecutable ? PROT_EXEC : 0);
}

/**
 * One PT_LOAD (kernel: `elf_load()`): the file's pages, private to the process once it writes to them, then zeros: the rest of the last
 * page, and anonymous memory behind it.
 */
function mapSegment(mm: MmPtr, one: ElfSegment, file: FilePtr): 0 | Errno {
  const start = pageDown(virtAddr(one.address));
  const offset = one.fileOffset - (one.address - start);
  const fileEnd = one.address + one.fileBytes;
  const end = one.address + one.memoryBytes;
  const protection = protectionOf(one);
  const mappedEnd = one.fileBytes === 0 ? start : pageUp(fileEnd);
  if (one.fileBytes > 0) {
    const mapped = doMmap(mm, start, fileEnd - start, protection, FIXED, file, offset / PAGE_SIZE);
    if (isErr(mapped)) return mapped;
  }
  if (end > mappedEnd) {
    const mapped = doMmap(mm, virtAddr(mappedEnd), end - mappedEnd, protection, FIXED | MAP_ANONYMOUS, NULL, 0);
    if (isErr(mapped)) return mapped;
  }
  // Bytes of the file that follow the segment must not be seen as its zeros.
  const tail = Math.min(end, mappedEnd) - fileEnd;
  if (one.fileBytes === 0 || tail <= 0) return 0;
  return withRemotePage(mm, virtAddr(fileEnd), (at) => cpu.fill(at, 0, tail));
}

/** Calls `use` with a kernel address of the byte at `address` of an mm that is not loaded (kernel: `access_remote_vm()`). */
export function withRemotePage(mm: MmPtr, address: VirtAddr, use: (at: VirtAddr) => void): 0 | Errno {
  const frame = getUserPageForced(mm, address);
  if (isErr(frame)) return frame;
  const mapped = kmapLocalPage(physToPage(frame));
  use(addVirt(mapped, address % PAGE_SIZE));
  kunmapLocal(mapped);
  putUserPage(frame);
  return 0;
}

/** Writes the initial stack, from its top down (System V ABI, AMD64 supplement 3.4.1; i386 supplement). */
class StackWriter {
  private readonly mm: MmPtr;
  private readonly wordBytes: 4 | 8;
  private at: number;
  private error: 0 | Errno = 0;

  constructor(mm: MmPtr, top: number, is32Bit: boolean) {
    this.mm = mm;
    this.wordBytes = is32Bit ? 4 : 8;
    // The topmost word stays zero.
    this.at = top - 8;
  }

  /** @returns the stack pointer; E2BIG; ENOMEM. */
  write(image: ElfImage, path: string, argv: readonly string[], envp: readonly string[]): number {
    const bytes = [...argv, ...envp].reduce((sum, text) => sum + text.length + 1 + this.wordBytes, path.length);
    if (bytes > MAX_ARGUMENT_BYTES) return E2BIG;
    const execfn = this.text(path);
    const environment = envp.map((text) => this.text(text));
    const args = argv.map((text) => this.text(text));
    const random = this.random();
    const vector = this.auxiliary(image, execfn, random);
    const words = [args.length, ...args, 0, ...environment, 0, ...vector];
    this.at = Math.floor((this.at - words.length * this.wordBytes) / 16) * 16;
    this.words(words);
    return this.error !== 0 ? this.error : this.at;
  }

  private auxiliary(image: ElfImage, execfn: number, random: number): readonly number[] {
    return [
      [AT_HWCAP, cpu.cpuid(1, 0, 3) >>> 0],
      [AT_PAGESZ, PAGE_SIZE],
      [AT_CLKTCK, 100],
      [AT_PHDR, image.programHeaders],
      [AT_PHENT, image.programHeaderBytes],
      [AT_PHNUM, image.programHeaderCount],
      [AT_BASE, 0],
      [AT_FLAGS, 0],
      [AT_ENTRY, image.entry],
      [AT_UID, 0],
      [AT_EUID, 0],
      [AT_GID, 0],
      [AT_EGID, 0],
      [AT_SECURE, 0],
      [AT_RANDOM, random],
      [AT_EXECFN, execfn],
      ...(this.wordBytes === 4 ? [[AT_SYSINFO, Mm.at(this.mm).vdso32]] : []),
      [AT_NULL, 0],
    ].flat();
  }

  /** NUL-terminated text below what is there. @returns its address. */
  private text(text: string): number {
    this.at -= text.length + 1;
    const start = this.at;
    for (let done = 0; done <= text.length; ) {
      const at = start + done;
      const piece = Math.min(PAGE_SIZE - (at % PAGE_SIZE), text.length + 1 - done);
      this.remote(at, (address) => {
        for (let i = 0; i < piece; i++) cpu.store(addVirt(address, i), 1, done + i < text.length ? text.charCodeAt(done + i) & 0xff : 0);
      });
      done += piece;
    }
    return start;
  }

  /** The same in every run: nothing here is hidden by chance. */
  private random(): number {
    this.at = Math.floor((this.at - RANDOM_BYTES) / 16) * 16;
    for (let i = 0; i < RANDOM_BYTES; i += 4) this.remote(this.at + i, (address) => cpu.store(address, 4, (0x9e3779b9 * (i + 1)) >>> 0));
    return this.at;
  }

  private words(words: readonly number[]): void {
    for (const [i, value] of words.entries()) {
      this.remote(this.at + i * this.wordBytes, (address) => {
        cpu.store(address, 4, low32(value));
        if (this.wordBytes === 8) cpu.store(addVirt(address, 4), 4, high32(value));
      });
    }
  }

  private remote(at: number, use: (address: VirtAddr) => void): void {
    if (this.error === 0) this.error = withRemotePage(this.mm, virtAddr(at), use);
  }
}
