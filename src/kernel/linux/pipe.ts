// Pipes (fs/pipe.c): 64 KiB between a writer and a reader, in pages that are sensitive, as what goes through them is a process's. Writes of
// at most PIPE_BUF bytes are never torn apart. The lock is held while user memory is copied: page faults never take it.
import {
  EAGAIN,
  EFAULT,
  EINVAL,
  ENOMEM,
  EPIPE,
  isErr,
  O_CLOEXEC,
  O_NONBLOCK,
  O_RDONLY,
  O_WRONLY,
  PIPE_BUF,
  SI_USER,
  SIGPIPE,
} from "../../abi/index.ts";
import {
  addVirt,
  array,
  cpu,
  NULL,
  PAGE_SIZE,
  type Ptr,
  pointer,
  ptr,
  struct,
  u32,
  type View,
  type VirtAddr,
  word,
} from "../../hardware/index.ts";
import { GFP_HIGHUSER_MOVABLE, GFP_KERNEL } from "../mm/gfp.ts";
import { kmapLocalPage, kunmapLocal } from "../mm/kmap.ts";
import { allocPages, putPage } from "../mm/page-alloc.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { copyToUser, rawCopyFromUser } from "../mm/uaccess.ts";
import { current } from "../sched/current.ts";
import { TASK_INTERRUPTIBLE } from "../sched/task-struct.ts";
import { finishWait, prepareToWait, wakeUp } from "../sched/wait-queue.ts";
import { waitQueueHead } from "../sched/wait-queue-struct.ts";
import { spinLock, spinlock, spinUnlock } from "../spinlock.ts";
import { allocFile, fdInstall, fdTake, fput } from "./file.ts";
import { FILE_PIPE, File, type FileOperations, type FilePtr } from "./file-struct.ts";
import { sendSignalToThread } from "./signal.ts";
import { ERESTARTSYS, SLEEP } from "./syscall-results.ts";
import { signalPending } from "./syscall-sleep.ts";
import { giveUserBytes } from "./user-arguments.ts";

/** Kernel: PIPE_DEF_BUFFERS. */
const PIPE_PAGES = 16;
const PIPE_BYTES = PIPE_PAGES * PAGE_SIZE;

/** Kernel: struct pipe_inode_info. */
const Pipe = struct("pipe_inode_info", {
  lock: spinlock,
  readers: u32,
  writers: u32,
  padding: u32,
  /** Bytes written, and read, since it was last empty. */
  head: word,
  tail: word,
  readWait: waitQueueHead,
  writeWait: waitQueueHead,
  /** A ring; pages are there from their first use on. */
  pages: array(pointer("page"), PIPE_PAGES),
});
type Pipe = View<typeof Pipe>;
type PipePtr = Ptr<"pipe_inode_info">;

function pipeOf(file: FilePtr): Pipe {
  return Pipe.at(ptr<"pipe_inode_info">(File.at(file).privateData));
}

/** Puts the running task on `queue`, unless it may not sleep. The pipe's lock is held and is dropped. @returns SLEEP; EAGAIN; ERESTARTSYS. */
function waitFor(pipe: Pipe, queue: VirtAddr, flags: number): number {
  if ((flags & O_NONBLOCK) !== 0) {
    spinUnlock(pipe.lock);
    return EAGAIN;
  }
  prepareToWait(queue, TASK_INTERRUPTIBLE);
  spinUnlock(pipe.lock);
  if (!signalPending()) return SLEEP;
  finishWait();
  return ERESTARTSYS;
}

/** Copies from the ring at `position`. @returns bytes copied. */
function copyOut(pipe: Pipe, position: number, to: VirtAddr, bytes: number): number {
  const { pages } = pipe;
  for (let done = 0; done < bytes; ) {
    const at = (position + done) % PIPE_BYTES;
    const offset = at % PAGE_SIZE;
    const piece = Math.min(PAGE_SIZE - offset, bytes - done);
    const mapped = kmapLocalPage(pages.get(Math.floor(at / PAGE_SIZE)));
    const left = copyToUser(addVirt(to, done), addVirt(mapped, offset), piece);
    kunmapLocal(mapped);
    done += piece - left;
    if (left > 0) return done;
  }
  return bytes;
}

function pipeRead(file: FilePtr, to: VirtAddr, bytes: number): number {
  if (bytes === 0) return 0;
  const pipe = pipeOf(file);
  spinLock(pipe.lock);
  const { head, tail } = pipe;
  if (head === tail) {
    if (pipe.writers > 0) return waitFor(pipe, pipe.readWait, File.at(file).flags);
    spinUnlock(pipe.lock);
    return 0;
  }
  const count = Math.min(bytes, head - tail);
  const done = copyOut(pipe, tail, to, count);
  const isEmpty = tail + done === head;
  if (isEmpty) pipe.head = 0;
  pipe.tail = isEmpty ? 0 : tail + done;
  spinUnlock(pipe.lock);
  if (done > 0) wakeUp(pipe.writeWait);
  return done > 0 ? done : EFAULT;
}

/** Copies into the ring at `position`. @returns bytes copied; EFAULT; ENOMEM. */
function copyIn(pipe: Pipe, position: number, from: VirtAddr, bytes: number): number {
  const { pages } = pipe;
  for (let done = 0; done < bytes; ) {
    const at = (position + done) % PIPE_BYTES;
    const index = Math.floor(at / PAGE_SIZE);
    const offset = at % PAGE_SIZE;
    const piece = Math.min(PAGE_SIZE - offset, bytes - done);
    let page = pages.get(index);
    if (page === NULL) {
      page = allocPages(GFP_HIGHUSER_MOVABLE, 0);
      if (page === NULL) return done > 0 ? done : ENOMEM;
      pages.set(index, page);
    }
    const mapped = kmapLocalPage(page);
    const left = rawCopyFromUser(addVirt(mapped, offset), addVirt(from, done), piece);
    kunmapLocal(mapped);
    done += piece - left;
    if (left > 0) return done > 0 ? done : EFAULT;
  }
  return bytes;
}

/** One write to a pipe. A long write that must wait in its middle returns what it has written, as one that a signal interrupts does. */
function pipeWrite(file: FilePtr, from: VirtAddr, bytes: number): number {
  if (bytes === 0) return 0;
  const pipe = pipeOf(file);
  spinLock(pipe.lock);
  if (pipe.readers === 0) {
    spinUnlock(pipe.lock);
    sendSignalToThread(current(), SIGPIPE, { code: SI_USER });
    return EPIPE;
  }
  const { head, tail } = pipe;
  const room = PIPE_BYTES - (head - tail);
  const isAtomic = bytes <= PIPE_BUF;
  if (room === 0 || (isAtomic && room < bytes)) return waitFor(pipe, pipe.writeWait, File.at(file).flags);
  const done = copyIn(pipe, head, from, Math.min(bytes, room));
  const isTorn = isAtomic && done < bytes;
  if (done > 0 && !isTorn) pipe.head = head + done;
  spinUnlock(pipe.lock);
  if (done > 0 && !isTorn) wakeUp(pipe.readWait);
  return isTorn && done > 0 ? EFAULT : done;
}

function pipeRelease(file: FilePtr): void {
  const view = File.at(file);
  const pipe = pipeOf(file);
  const isWriter = view.flags % 4 === O_WRONLY;
  spinLock(pipe.lock);
  if (isWriter) pipe.writers -= 1;
  else pipe.readers -= 1;
  const isLast = pipe.writers === 0 && pipe.readers === 0;
  spinUnlock(pipe.lock);
  if (isLast) freePipe(view.privateData);
  else wakeUp(isWriter ? pipe.readWait : pipe.writeWait);
}

function freePipe(address: VirtAddr): void {
  const { pages } = Pipe.at(ptr<"pipe_inode_info">(address));
  for (let i = 0; i < PIPE_PAGES; i++) {
    const page = pages.get(i);
    if (page !== NULL) putPage(page);
  }
  kfree(address);
}

export const pipeOperations: FileOperations = { read: pipeRead, write: pipeWrite, release: pipeRelease };

/** The two open files of a new pipe, or ENOMEM (kernel: `create_pipe_files()`). */
function createPipeFiles(flags: number): readonly [FilePtr, FilePtr] | undefined {
  const pipe: PipePtr = ptr<"pipe_inode_info">(kzalloc(Pipe.bytes, GFP_KERNEL));
  if (pipe === NULL) return undefined;
  const reader = allocFile(FILE_PIPE, pipe);
  const writer = isErr(reader) ? reader : allocFile(FILE_PIPE, pipe);
  if (isErr(reader) || isErr(writer)) {
    if (!isErr(reader)) kfree(reader);
    kfree(pipe);
    return undefined;
  }
  Pipe.at(pipe).readers = 1;
  Pipe.at(pipe).writers = 1;
  File.at(reader).flags = O_RDONLY | (flags & O_NONBLOCK);
  File.at(writer).flags = O_WRONLY | (flags & O_NONBLOCK);
  return [reader, writer];
}

/** Kernel: `do_pipe2()`. @returns 0; EINVAL; EMFILE; ENOMEM; EFAULT. */
export function doPipe2(descriptorsAt: number, flags: number): number {
  if ((flags & ~(O_NONBLOCK | O_CLOEXEC)) !== 0) return EINVAL;
  const files = createPipeFiles(flags);
  if (files === undefined) return ENOMEM;
  const [reader, writer] = files;
  const isCloexec = (flags & O_CLOEXEC) !== 0;
  const readFd = fdInstall(reader, isCloexec);
  const writeFd = readFd < 0 ? readFd : fdInstall(writer, isCloexec);
  if (readFd < 0 || writeFd < 0) {
    if (readFd >= 0) fdTake(readFd);
    fput(reader);
    fput(writer);
    return writeFd;
  }
  const error = giveUserBytes(descriptorsAt, 8, (buffer) => {
    cpu.store(buffer, 4, readFd);
    cpu.store(addVirt(buffer, 4), 4, writeFd);
  });
  if (error === 0) return 0;
  for (const fd of [readFd, writeFd]) {
    const file = fdTake(fd);
    if (file !== NULL) fput(file);
  }
  return error;
}
