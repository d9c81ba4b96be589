// Making the user processes of a run: a puppet's text, state, staging and stack pages in an address space of its own.
import { ENOMEM, type Errno, isErr, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import {
  addVirt,
  assert,
  cpu,
  NULL,
  PAGE_SIZE,
  type PhysAddr,
  PUPPET_ARGUMENTS,
  PUPPET_STACK_TOP,
  PUPPET_STAGING,
  PUPPET_STATE,
  PUPPET_TEXT,
  PUPPET_TRAP_OFFSET,
  puppetText,
  RFLAGS_FIXED,
  RFLAGS_IF,
  virtAddr,
} from "../../hardware/index.ts";
import { PtRegs, taskPtRegs } from "../entry/pt-regs.ts";
import { __USER_CS, __USER_DS } from "../entry/vectors.ts";
import { va } from "../mm/layout.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import type { MmPtr } from "../mm/mm-struct.ts";
import { doMmap } from "../mm/mmap.ts";
import { onlineCpus } from "../mm/percpu.ts";
import { getUserPage, getUserPageForced, putUserPage } from "../mm/user-memory.ts";
import { activateOn } from "../sched/schedule.ts";
import { createUserTask } from "../sched/task.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { allocFile } from "./file.ts";
import { FILE_CONSOLE } from "./file-struct.ts";

/** A process that the kernel starts at the end of its boot. */
export interface ProcessConfig {
  /** Command name, at most 15 characters. */
  readonly name: string;
  /** Name of its puppet. */
  readonly puppet: string;
  /** CPU it starts on and stays on unless it asks otherwise; 0 by default. */
  readonly cpu?: number;
  /** What it finds at PUPPET_ARGUMENTS, behind a u32 of their length. */
  readonly args?: Uint8Array;
}

/** Pages of stack. Puppets use none of it; programs would. */
const STACK_PAGES = 4;

interface Segment {
  readonly address: number;
  readonly bytes: number;
  readonly protection: number;
  readonly content?: Uint8Array;
}

function segmentsOf(process: ProcessConfig): readonly Segment[] {
  const args = process.args ?? new Uint8Array(0);
  const block = new Uint8Array(4 + args.length);
  new DataView(block.buffer).setUint32(0, args.length, true);
  block.set(args, 4);
  return [
    { address: PUPPET_TEXT, bytes: PAGE_SIZE, protection: PROT_READ | PROT_EXEC, content: puppetText() },
    { address: PUPPET_STATE, bytes: PAGE_SIZE, protection: PROT_READ | PROT_WRITE, content: new Uint8Array(1) },
    { address: PUPPET_STAGING, bytes: PAGE_SIZE, protection: PROT_READ | PROT_WRITE, content: new Uint8Array(1) },
    { address: PUPPET_ARGUMENTS, bytes: block.length, protection: PROT_READ, content: block },
    { address: PUPPET_STACK_TOP - STACK_PAGES * PAGE_SIZE, bytes: STACK_PAGES * PAGE_SIZE, protection: PROT_READ | PROT_WRITE },
  ];
}

/** Writes `content` to user memory of an mm that is not loaded, through the direct map (kernel: `access_remote_vm()`). */
function writeRemote(mm: MmPtr, address: number, content: Uint8Array): 0 | Errno {
  for (let at = 0; at < content.length; at += PAGE_SIZE) {
    const frame = getUserPageForced(mm, virtAddr(address + at));
    if (isErr(frame)) return frame;
    writePage(frame, content.subarray(at, at + PAGE_SIZE));
    putUserPage(frame);
  }
  return 0;
}

/** Words where the content is not what the page's fill is: text pages are mostly INT3. */
function writePage(frame: PhysAddr, content: Uint8Array): void {
  const padded = new Uint8Array(PAGE_SIZE);
  const fill = content.length === PAGE_SIZE ? (content[PAGE_SIZE - 1] ?? 0) : 0;
  padded.set(content);
  if (fill !== 0) cpu.fill(va(frame), fill, PAGE_SIZE);
  const view = new DataView(padded.buffer);
  const same = (fill * 0x01010101) >>> 0;
  for (let at = 0; at < PAGE_SIZE; at += 4) {
    const value = view.getUint32(at, true);
    if (value !== same) cpu.store(addVirt(va(frame), at), 4, value);
  }
}

function mapSegments(mm: MmPtr, process: ProcessConfig): 0 | Errno {
  for (const { address, bytes, protection, content } of segmentsOf(process)) {
    const mapped = doMmap(mm, virtAddr(address), bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0);
    if (isErr(mapped)) return mapped;
    const error = content === undefined ? 0 : writeRemote(mm, address, content);
    if (error !== 0) return error;
  }
  return 0;
}

/** Starts a process on its CPU (kernel: `kernel_execve()` of a forked task). @returns 0; ENOMEM. */
export function startProcess(process: ProcessConfig): 0 | Errno {
  const mm = mmAlloc();
  if (mm === NULL) return ENOMEM;
  const error = mapSegments(mm, process);
  const created = error === 0 ? createUserTask(process.name, mm) : error;
  if (isErr(created)) {
    mmput(mm);
    return created;
  }
  const task = TaskStruct.at(created);
  const regs = PtRegs.at(taskPtRegs(created));
  regs.rip = PUPPET_TEXT + PUPPET_TRAP_OFFSET;
  regs.cs = __USER_CS;
  regs.rflags = RFLAGS_FIXED | RFLAGS_IF;
  regs.rsp = PUPPET_STACK_TOP - 16;
  regs.ss = __USER_DS;
  for (let fd = 0; fd < 3; fd++) {
    const file = allocFile(FILE_CONSOLE, NULL);
    assert(!isErr(file), () => `out of memory while starting ${process.name}`);
    task.files.set(fd, file);
  }
  const home = process.cpu ?? 0;
  assert((onlineCpus() & (1 << home)) !== 0, () => `${process.name} wants CPU ${home}, which is not there`);
  task.cpusAllowed = 1 << home;
  const text = getUserPage(mm, virtAddr(PUPPET_TEXT + PUPPET_TRAP_OFFSET), false);
  assert(!isErr(text), () => `no text page of ${process.name}`);
  cpu.registerPuppet(process.puppet, text);
  putUserPage(text);
  activateOn(created, home);
  return 0;
}
