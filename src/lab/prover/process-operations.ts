// System calls and memory accesses of a process: each leaves the process, and what it knows, in one of finitely many states.
import {
  FUTEX_WAIT,
  FUTEX_WAKE,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  O_CREAT,
  O_RDWR,
  PROT_READ,
  PROT_WRITE,
  SEEK_SET,
  SIGUSR1,
  SYS,
} from "../../abi/index.ts";
import { PAGE_SIZE, PUPPET_STATE, type SystemCallEntry } from "../../hardware/index.ts";
import { ARGUMENTS, FILE_BYTES } from "./call-arguments.ts";
import { call, type Need, type Operation, type Part, type Place, type ProcessOperation } from "./operation.ts";
import { type ProcessMemory, RESULT_ADDRESS } from "./process-memory.ts";

const REGION_PAGES = 2;
const REGION_BYTES = REGION_PAGES * PAGE_SIZE;
const SIGSET_BYTES = 8;
/** In the shared page: what a futex waits on, and how many bytes are in the pipe. */
const FUTEX_WORD = 0;
const PIPE_FILL = 64;

const isMain = (memory: ProcessMemory): boolean => memory.role === "main";
const isChild = (memory: ProcessMemory): boolean => memory.role === "child";
const hasChild = (memory: ProcessMemory): boolean => isMain(memory) && memory.is("child");

interface Options {
  readonly needs?: readonly Need[];
  readonly when?: (memory: ProcessMemory, place: Place) => boolean;
  readonly finish?: ProcessOperation["finish"];
}

function operation(parts: readonly Part[], { needs = [], when = isMain, finish }: Options = {}): ProcessOperation {
  return { kind: "process", needs, isPossible: when, parts, ...(finish === undefined ? {} : { finish }) };
}

const anybody = (): boolean => true;

const mapRegion: Part = () => call(SYS.mmap, 0, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
const storeTo: Part = ({ memory }) => ({ kind: "store", address: memory.region, value: 1 });

/** What must be done before the first operation, for each need; each part hears the result of the one before. */
export const SETUPS: Readonly<Record<Exclude<Need, "vm" | "vdso">, readonly Part[]>> = {
  region: [
    mapRegion,
    (turn) => {
      turn.memory.region = turn.result;
      turn.memory.set("mapped", true);
      turn.memory.set("touched", true);
      return storeTo(turn);
    },
  ],
  "shared page": [
    () => call(SYS.mmap, 0, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
    ({ memory, result }) => {
      memory.shared = result;
      return { kind: "store", address: result, value: 0 };
    },
  ],
  file: [
    () => call(SYS.open, ARGUMENTS.file.address, O_RDWR | O_CREAT, 0o600),
    ({ memory, result }) => {
      memory.file = result;
      return call(SYS.write, result, ARGUMENTS.content.address, FILE_BYTES);
    },
  ],
  handler: [() => call(SYS.rt_sigaction, SIGUSR1, ARGUMENTS.handler.address, 0, SIGSET_BYTES)],
  pipe: [
    () => call(SYS.pipe2, RESULT_ADDRESS, 0),
    ({ memory }) => {
      memory.pipeRead = memory.result32(0);
      memory.pipeWrite = memory.result32(4);
      return call(SYS.getppid);
    },
  ],
};

/** The same call by another entry. */
const by = (entry: SystemCallEntry): ProcessOperation =>
  operation([() => ({ kind: "syscall", number: GETPPID_32, args: [], entry })], {
    needs: entry === "int80" ? [] : ["vdso"],
    when: anybody,
  });
const GETPPID_32 = 64;

/** The other CPU, if it is there. */
function otherCpu(place: Place): number | undefined {
  return place.online.find((cpu) => cpu !== place.cpu);
}

export const PROCESS_OPERATIONS: Readonly<Record<string, Operation>> = {
  getppid: operation([() => call(SYS.getppid)], { when: anybody }),
  "getppid by INT80": by("int80"),
  "getppid by SYSENTER": by("sysenter"),
  "getppid by SYSCALL of 32-bit code": by("syscall32"),
  sched_yield: operation([() => call(SYS.sched_yield)], { when: anybody }),
  mmap: operation([mapRegion], {
    needs: ["region"],
    when: (memory) => isMain(memory) && !memory.is("mapped"),
    finish: ({ memory, result }) => {
      if (result < 0) return;
      memory.region = result;
      memory.set("mapped", true);
      memory.set("touched", false);
      memory.set("read-only", false);
    },
  }),
  munmap: operation([({ memory }) => call(SYS.munmap, memory.region, REGION_BYTES)], {
    needs: ["region"],
    when: (memory) => isMain(memory) && memory.is("mapped"),
    finish: ({ memory, result }) => {
      if (result < 0) return;
      memory.region = 0;
      for (const fact of ["mapped", "touched", "read-only", "shared"] as const) memory.set(fact, false);
    },
  }),
  mprotect: operation(
    [({ memory }) => call(SYS.mprotect, memory.region, REGION_BYTES, memory.is("read-only") ? PROT_READ | PROT_WRITE : PROT_READ)],
    {
      needs: ["region"],
      when: (memory) => isMain(memory) && memory.is("mapped"),
      finish: ({ memory, result }) => {
        if (result === 0) memory.set("read-only", !memory.is("read-only"));
      },
    },
  ),
  // The first access to a page.
  "page fault": operation([storeTo], {
    needs: ["region"],
    when: (memory) => isMain(memory) && memory.is("mapped") && !memory.is("touched") && !memory.is("read-only"),
    finish: ({ memory }) => memory.set("touched", true),
  }),
  "copy on write": operation([storeTo], {
    needs: ["region"],
    when: (memory) => memory.is("mapped") && memory.is("touched") && memory.is("shared") && !memory.is("read-only"),
    finish: ({ memory }) => memory.set("shared", false),
  }),
  "read file": operation(
    [({ memory }) => call(SYS.lseek, memory.file, 0, SEEK_SET), ({ memory }) => call(SYS.read, memory.file, RESULT_ADDRESS, FILE_BYTES)],
    { needs: ["file"] },
  ),
  "write file": operation(
    [
      ({ memory }) => call(SYS.lseek, memory.file, 0, SEEK_SET),
      ({ memory }) => call(SYS.write, memory.file, ARGUMENTS.content.address, FILE_BYTES),
    ],
    { needs: ["file"] },
  ),
  // The child sleeps in the read until its parent writes.
  "pipe read": operation(
    [
      ({ memory }) => call(SYS.read, memory.pipeRead, RESULT_ADDRESS, 1),
      ({ memory }) => ({ kind: "store", address: memory.shared + PIPE_FILL, value: 0 }),
    ],
    {
      needs: ["shared page", "pipe"],
      when: (memory, place) => isChild(memory) || (!hasChild(memory) && place.word(memory.shared + PIPE_FILL) !== 0),
    },
  ),
  "pipe write": operation(
    [
      ({ memory }) => ({ kind: "store", address: memory.shared + PIPE_FILL, value: 1 }),
      ({ memory }) => call(SYS.write, memory.pipeWrite, PUPPET_STATE, 1),
    ],
    {
      needs: ["shared page", "pipe"],
      when: (memory, place) => isMain(memory) && place.word(memory.shared + PIPE_FILL) === 0,
    },
  ),
  "futex wait": operation([({ memory }) => call(SYS.futex, memory.shared + FUTEX_WORD, FUTEX_WAIT, 0, 0)], {
    needs: ["shared page"],
    when: isChild,
  }),
  "futex wake": operation([({ memory }) => call(SYS.futex, memory.shared + FUTEX_WORD, FUTEX_WAKE, 1)], {
    needs: ["shared page"],
    when: hasChild,
  }),
  fork: operation([() => call(SYS.fork)], {
    when: (memory) => isMain(memory) && !memory.is("child"),
    finish: ({ memory, result }) => {
      if (result < 0) return;
      memory.set("shared", memory.is("touched"));
      if (result === 0) memory.role = "child";
      else memory.set("child", true);
    },
  }),
  // A handler of its own, which returns.
  signal: operation([() => call(SYS.getpid), ({ result }) => call(SYS.kill, result, SIGUSR1)], { needs: ["handler"] }),
  exit: operation([() => call(SYS.exit_group, 0)], { when: isChild }),
  wait: operation([() => call(SYS.wait4, -1, 0, 0, 0)], {
    when: hasChild,
    finish: ({ memory, result }) => {
      if (result > 0) memory.set("child", false);
    },
  }),
  // To the other CPU, and at the next time back.
  sched_setaffinity: operation(
    [({ place }) => call(SYS.sched_setaffinity, 0, 8, ARGUMENTS.masks.address + 8 * (otherCpu(place) ?? place.cpu))],
    { when: (_memory, place) => otherCpu(place) !== undefined },
  ),
};
