// execve() (fs/exec.c): a new program in the running process. Everything that can fail is done before the point of no return, on an
// address space that nobody has loaded.
import { E2BIG, EACCES, EFAULT, EISDIR, ENAMETOOLONG, type Errno, isErr, SIGCHLD } from "../../abi/index.ts";
import { cpu, NULL, type Ptr, RFLAGS_FIXED, RFLAGS_IF } from "../../hardware/index.ts";
import { FPREGS_BYTES, STUB_LOAD_FPREGS } from "../entry/fpu-stubs.ts";
import { PtRegs, taskPtRegs } from "../entry/pt-regs.ts";
import { STUB_LOAD_DATA_SEGMENTS } from "../entry/switch-stub.ts";
import { __USER_CS, __USER_DS, __USER32_CS } from "../entry/vectors.ts";
import { mmdrop, mmgrab, mmput } from "../mm/mm.ts";
import type { MmPtr } from "../mm/mm-struct.ts";
import { switchMm } from "../mm/switch-mm.ts";
import { copyFromUser } from "../mm/uaccess.ts";
import { current } from "../sched/current.ts";
import { loadSegmentBases } from "../sched/segment-bases.ts";
import { SignalStruct } from "../sched/signal-struct.ts";
import { allTasks, setComm, tasklistLock, tasklistUnlock } from "../sched/task.ts";
import { EXIT_DEAD, TASK_COMM_LEN, TASK_UNINTERRUPTIBLE, TaskStruct } from "../sched/task-struct.ts";
import { prepareToWait } from "../sched/wait-queue.ts";
import { readElf } from "./elf.ts";
import { finishRelease, unhash } from "./exit.ts";
import { allocFile, fput } from "./file.ts";
import { FILE_RAM, File, type FilePtr } from "./file-struct.ts";
import { closeOnExec } from "./files.ts";
import { INODE_DIRECTORY, INODE_EXE, INODE_FILE, Inode, type InodePtr } from "./inode-struct.ts";
import { kernelBuffer } from "./kernel-buffer.ts";
import { mmRelease } from "./mm-release.ts";
import { lookupPath } from "./namei.ts";
import { buildProgram, type ProgramImage } from "./program-image.ts";
import { ihold, iput } from "./ramfs.ts";
import { copySighand } from "./sighand.ts";
import { flushSignalHandlers, zapOtherThreads } from "./signal.ts";
import { SLEEP } from "./syscall-results.ts";
import { userAddress, userText } from "./user-arguments.ts";

/** A program that was loaded, and the file that it came from, with a reference. */
export interface LoadedProgram {
  readonly image: ProgramImage;
  readonly inode: InodePtr;
}

/** The file of a program, with a reference (kernel: `do_open_execat()`). @returns EACCES: not a regular file. */
function openProgram(path: string): InodePtr | Errno {
  const inode = lookupPath(path);
  if (isErr(inode)) return inode;
  const { kind } = Inode.at(inode);
  if (kind === INODE_FILE) return inode;
  iput(inode);
  if (kind === INODE_EXE) {
    const { exe } = SignalStruct.at(TaskStruct.at(current()).signal);
    if (exe === NULL) return EACCES;
    ihold(exe);
    return exe;
  }
  return kind === INODE_DIRECTORY ? EACCES : EISDIR;
}

/** An open file for the mappings of a program; it takes a reference of its own. */
function mappingFile(inode: InodePtr): FilePtr | Errno {
  const file = allocFile(FILE_RAM, NULL);
  if (isErr(file)) return file;
  ihold(inode);
  File.at(file).inode = inode;
  return file;
}

/** Loads the program at `path` into an address space of its own (kernel: `bprm_execve()` up to `begin_new_exec()`). On error nothing is left. */
export function loadProgram(path: string, argv: readonly string[], envp: readonly string[]): LoadedProgram | Errno {
  const inode = openProgram(path);
  if (isErr(inode)) return inode;
  const loaded = loadInode(inode, path, argv, envp);
  if (typeof loaded === "number") {
    iput(inode);
    return loaded;
  }
  return { image: loaded, inode };
}

function loadInode(inode: InodePtr, path: string, argv: readonly string[], envp: readonly string[]): ProgramImage | Errno {
  const image = readElf(inode, Inode.at(inode).bytes);
  if (typeof image === "number") return image;
  const file = mappingFile(inode);
  if (isErr(file)) return file;
  const built = buildProgram(image, file, path, argv, envp);
  // The areas hold references of their own.
  fput(file);
  return built;
}

/** 64-bit code does without. */
function dataSegment(image: ProgramImage): number {
  return image.is32Bit ? __USER_DS : 0;
}

/** Registers with which a program begins (kernel: `start_thread()`, `compat_start_thread()`). */
export function startThread(pointer: Ptr<"task_struct">, image: ProgramImage): void {
  const at = taskPtRegs(pointer);
  cpu.fill(at, 0, PtRegs.bytes);
  const regs = PtRegs.at(at);
  regs.rip = image.entry;
  regs.cs = image.is32Bit ? __USER32_CS : __USER_CS;
  regs.rflags = RFLAGS_FIXED | RFLAGS_IF;
  regs.rsp = image.stackPointer;
  regs.ss = __USER_DS;
  // Not a system call that could be restarted.
  regs.origRax = -1;
  const { thread } = TaskStruct.at(pointer);
  thread.ds = dataSegment(image);
  thread.es = dataSegment(image);
}

/** Command name of a path: its last component (kernel: `kbasename()`). */
export function commandName(path: string): string {
  return (path.split("/").at(-1) ?? path).slice(0, TASK_COMM_LEN - 1);
}

/** An address space for the running task instead of its own (kernel: `exec_mmap()`). */
function execMmap(mm: MmPtr): void {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const old = task.mm;
  mmRelease(pointer);
  // The switch reads the old one; it goes afterwards.
  mmgrab(old);
  task.mm = mm;
  task.activeMm = mm;
  switchMm(old, mm, pointer);
  mmput(old);
  mmdrop(old);
}

/**
 * Runs the program at `path` in the running process (kernel: `do_execveat_common()`). The last act of a system call: other threads are
 * waited for. @returns 0: the registers are the new program's; an error: nothing has changed; SLEEP.
 */
export function doExecve(path: string, argv: readonly string[], envp: readonly string[]): number {
  const loaded = loadProgram(path, argv, envp);
  if (typeof loaded === "number") return loaded;
  const { image, inode } = loaded;
  const alone = deThread();
  const sighand = alone === 0 ? copySighand() : alone;
  if (sighand !== 0) {
    mmput(image.mm);
    iput(inode);
    return sighand;
  }
  // The point of no return.
  beginNewExec(image, inode, path);
  return 0;
}

function beginNewExec(image: ProgramImage, inode: InodePtr, path: string): void {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const shared = SignalStruct.at(task.signal);
  execMmap(image.mm);
  const before = shared.exe;
  shared.exe = inode;
  if (before !== NULL) iput(before);
  setComm(pointer, commandName(path));
  task.thread.fsbase = 0;
  task.thread.gsbase = 0;
  loadSegmentBases(task);
  const { xmm } = task.thread.fpu;
  cpu.fill(xmm, 0, FPREGS_BYTES);
  cpu.callStub(STUB_LOAD_FPREGS, 0, xmm);
  cpu.callStub(STUB_LOAD_DATA_SEGMENTS, dataSegment(image));
  task.sasSp = 0;
  task.sasBytes = 0;
  tasklistLock();
  shared.execTask = NULL;
  task.exitSignal = SIGCHLD;
  flushSignalHandlers(task);
  tasklistUnlock();
  closeOnExec(task.files);
  startThread(pointer, image);
}

/**
 * Makes the running thread the only one of its process, and its leader (kernel: `de_thread()`). @returns 0; SLEEP: others have not ended.
 */
function deThread(): number {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const shared = SignalStruct.at(task.signal);
  if (shared.nrThreads === 1 && task.groupLeader === pointer) return 0;
  tasklistLock();
  const mayGoOn = shared.isGroupExit === 0;
  if (mayGoOn && shared.execTask === NULL) {
    shared.execTask = pointer;
    zapOtherThreads(-1);
  }
  const isAlone = shared.nrThreads === 1;
  if (!isAlone) prepareToWait(shared.waitChild, TASK_UNINTERRUPTIBLE);
  const leader = task.groupLeader;
  if (isAlone && leader !== pointer) takeOver(pointer, leader);
  tasklistUnlock();
  if (!isAlone) return SLEEP;
  if (leader !== pointer) finishRelease(leader);
  return 0;
}

/** The thread becomes the leader, with its pid and its children; the old leader is a zombie that nobody asked for. Under tasklist_lock. */
function takeOver(pointer: Ptr<"task_struct">, leader: Ptr<"task_struct">): void {
  const task = TaskStruct.at(pointer);
  const old = TaskStruct.at(leader);
  for (const other of allTasks()) {
    const view = TaskStruct.at(other);
    if (view.realParent === leader) view.realParent = pointer;
  }
  task.pid = old.pid;
  task.groupLeader = pointer;
  task.realParent = old.realParent;
  task.exitSignal = old.exitSignal;
  old.exitState = EXIT_DEAD;
  unhash(leader);
}

/** Most pointers in argv or envp. */
const MAX_STRINGS = 1024;
/** Longest single string (kernel: MAX_ARG_STRLEN). */
const MAX_STRING_BYTES = 0x20000;

/** The strings of argv or envp (kernel: `count()`, `copy_strings()`). NULL is an empty list. @returns EFAULT; E2BIG. */
export function userStrings(address: number, pointerBytes: 4 | 8): readonly string[] | Errno {
  if (address === 0) return [];
  const strings: string[] = [];
  for (;;) {
    const at = userAddress(address + strings.length * pointerBytes);
    if (isErr(at)) return at;
    const value = kernelBuffer(8, (buffer) => {
      if (copyFromUser(buffer, at, pointerBytes) !== 0) return EFAULT;
      return pointerBytes === 8 ? cpu.loadWord(buffer) : cpu.load(buffer, 4);
    });
    if (isErr(value)) return value;
    if (value === 0) return strings;
    if (strings.length === MAX_STRINGS) return E2BIG;
    const text = userText(value, MAX_STRING_BYTES);
    if (typeof text === "number") return text === ENAMETOOLONG ? E2BIG : text;
    strings.push(text);
  }
}
