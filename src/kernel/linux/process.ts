// Making the user processes of a run: programs, and puppets, whose text, state, staging and stack pages are an address space of their own.
import {
  ENOMEM,
  type Errno,
  isErr,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  O_RDWR,
  PROT_EXEC,
  PROT_READ,
  PROT_WRITE,
} from "../../abi/index.ts";
import {
  addVirt,
  assert,
  cpu,
  NULL,
  PAGE_SIZE,
  type PhysAddr,
  type Ptr,
  PUPPET_ARGUMENTS,
  PUPPET_STACK_TOP,
  PUPPET_STAGING,
  PUPPET_STATE,
  PUPPET_TEXT,
  PUPPET_TRAP_OFFSET,
  puppetText,
  RFLAGS_FIXED,
  RFLAGS_IF,
  type VirtAddr,
  virtAddr,
} from "../../hardware/index.ts";
import { PtRegs, taskPtRegs } from "../entry/pt-regs.ts";
import { mapVdso32 } from "../entry/vdso-32.ts";
import { __USER_CS, __USER_DS } from "../entry/vectors.ts";
import { va } from "../mm/layout.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import type { MmPtr } from "../mm/mm-struct.ts";
import { doMmap } from "../mm/mmap.ts";
import { onlineCpus } from "../mm/percpu.ts";
import { getUserPage, getUserPageForced, putUserPage } from "../mm/user-memory.ts";
import { selectCpu } from "../sched/select-cpu.ts";
import { SignalStruct } from "../sched/signal-struct.ts";
import { attachTask, createTask, giveSignals, tasklistLock, tasklistUnlock } from "../sched/task.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { activateOn } from "../sched/wake-up.ts";
import { localIrqRestore, localIrqSave } from "../spinlock.ts";
import { ERROR_PORT } from "./console.ts";
import { loadProgram, startThread } from "./exec.ts";
import { allocFile } from "./file.ts";
import { FILE_CONSOLE, File } from "./file-struct.ts";
import { allocFiles, installIn } from "./files.ts";
import { iput } from "./ramfs.ts";

/** A process that the kernel starts at the end of its boot. */
export interface ProcessConfig {
  /** Command name, at most 15 characters. */
  readonly name: string;
  /** What it runs: the name of its puppet, or of nothing if it has a program. */
  readonly puppet?: string;
  /** What it runs: an executable file of the RAM file system, with arguments (the first is its name) and environment. */
  readonly program?: string;
  readonly argv?: readonly string[];
  readonly env?: readonly string[];
  /** CPU it starts on and stays on unless it asks otherwise; 0 by default. */
  readonly cpu?: number;
  /** CPUs that it may run on, as a mask; by default the one it starts on, for a program all. */
  readonly cpusAllowed?: number;
  /** A puppet's: what it finds at PUPPET_ARGUMENTS, behind a u32 of their length. */
  readonly args?: Uint8Array;
  /** A puppet's: it has the page that 32-bit code calls the kernel from, and may call as such code does. */
  readonly hasVdso32?: boolean;
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
  return process.hasVdso32 === true ? mapVdso32(mm) : 0;
}

/** Signals and descriptors 0, 1 and 2 on the console. Boot has memory for that. */
function giveBasics(pointer: Ptr<"task_struct">, name: string): void {
  const task = TaskStruct.at(pointer);
  const files = allocFiles();
  assert(files !== NULL && giveSignals(task), () => `out of memory while starting ${name}`);
  task.files = files;
  for (let fd = 0; fd < 3; fd++) {
    const file = allocFile(FILE_CONSOLE, (fd === 2 ? ERROR_PORT : NULL) as VirtAddr); // a port, which is this kind's private data
    assert(!isErr(file), () => `out of memory while starting ${name}`);
    File.at(file).flags = O_RDWR;
    installIn(files, fd, file);
  }
}

/** Makes a task known and runs it on its CPU. */
function launch(pointer: Ptr<"task_struct">, mm: MmPtr, process: ProcessConfig): void {
  const task = TaskStruct.at(pointer);
  task.mm = mm;
  task.activeMm = mm;
  const home = process.cpu ?? 0;
  const online = onlineCpus();
  assert((online & (1 << home)) !== 0, () => `${process.name} wants CPU ${home}, which is not there`);
  const own = process.program === undefined || process.cpu !== undefined ? 1 << home : 0xffffffff;
  task.cpusAllowed = (process.cpusAllowed ?? own) >>> 0;
  tasklistLock();
  attachTask(pointer);
  tasklistUnlock();
  const flags = localIrqSave();
  activateOn(pointer, process.cpu ?? selectCpu(task.cpusAllowed));
  localIrqRestore(flags);
}

/** Starts a process on its CPU (kernel: `kernel_execve()` of a forked task). @returns 0; ENOMEM; for a program as execve(). */
export function startProcess(process: ProcessConfig): 0 | Errno {
  return process.program === undefined ? startPuppet(process, process.puppet ?? process.name) : startProgram(process, process.program);
}

function startProgram(process: ProcessConfig, path: string): 0 | Errno {
  const loaded = loadProgram(path, process.argv ?? [path], process.env ?? []);
  if (typeof loaded === "number") return loaded;
  const created = createTask(process.name);
  if (isErr(created)) {
    mmput(loaded.image.mm);
    iput(loaded.inode);
    return created;
  }
  giveBasics(created, process.name);
  SignalStruct.at(TaskStruct.at(created).signal).exe = loaded.inode;
  startThread(created, loaded.image);
  launch(created, loaded.image.mm, process);
  return 0;
}

function startPuppet(process: ProcessConfig, puppet: string): 0 | Errno {
  const mm = mmAlloc();
  if (mm === NULL) return ENOMEM;
  const error = mapSegments(mm, process);
  const created = error === 0 ? createTask(process.name) : error;
  if (isErr(created)) {
    mmput(mm);
    return created;
  }
  const regs = PtRegs.at(taskPtRegs(created));
  regs.rip = PUPPET_TEXT + PUPPET_TRAP_OFFSET;
  regs.cs = __USER_CS;
  regs.rflags = RFLAGS_FIXED | RFLAGS_IF;
  regs.rsp = PUPPET_STACK_TOP - 16;
  regs.ss = __USER_DS;
  giveBasics(created, process.name);
  const text = getUserPage(mm, virtAddr(PUPPET_TEXT + PUPPET_TRAP_OFFSET), false);
  assert(!isErr(text), () => `no text page of ${process.name}`);
  cpu.registerPuppet(puppet, text);
  putUserPage(text);
  launch(created, mm, process);
  return 0;
}
