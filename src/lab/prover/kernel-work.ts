// What the kernel does on behalf of a process without a system call of Linux that asks for it: memory of its own, modules, static keys, flushes,
// CPUs that come and go. Each is reached by the added system call, and is then kernel code like any other.
import { ENOMEM } from "../../abi/index.ts";
import { assertNever, cpu, NULL, PAGE_SIZE, type VirtAddr } from "../../hardware/index.ts";
import {
  __GFP_SENSITIVE,
  ADDED_SYSCALL,
  cpuDown,
  cpuUp,
  flushTlbAll,
  GFP_KERNEL,
  kfree,
  kmalloc,
  moduleAlloc,
  moduleEnableRox,
  moduleFree,
  pmSuspend,
  testStaticKey,
  vfree,
  vmalloc,
} from "../../kernel/index.ts";
import { call, type Operation, type Part, type Place, type ProcessOperation } from "./operation.ts";
import type { Fact, ProcessMemory } from "./process-memory.ts";

const WORK = ["kmalloc", "kfree", "vmalloc", "vfree", "load", "unload", "static key", "flush", "suspend", "offline", "online"] as const;
type Work = (typeof WORK)[number];

const OBJECT_BYTES = 512;
const AREA_BYTES = 2 * PAGE_SIZE;

/** An address to use, then to hand to the process; ENOMEM where there is none. */
function used(address: VirtAddr): number {
  if (address === NULL) return ENOMEM;
  cpu.store(address, 4, 1);
  return address;
}

/** The added system call: `first` says what, `second` about what. @returns an address, 0, or an error */
export function kernelWork(first: number, second: number): number {
  const work = WORK[first] ?? "flush";
  const address = second as VirtAddr; // what an earlier call gave the process
  switch (work) {
    case "kmalloc":
      return used(kmalloc(OBJECT_BYTES, GFP_KERNEL | __GFP_SENSITIVE));
    case "kfree":
      kfree(address);
      return 0;
    case "vmalloc":
      return used(vmalloc(AREA_BYTES));
    case "vfree":
      vfree(address);
      return 0;
    case "load":
      return loadModule();
    case "unload":
      moduleFree(address);
      return 0;
    case "static key":
      testStaticKey.set(!testStaticKey.isEnabled());
      return 0;
    case "flush":
      flushTlbAll();
      return 0;
    case "suspend":
      return pmSuspend();
    case "offline":
      return cpuDown(second);
    case "online":
      return cpuUp(second);
    default:
      return assertNever(work);
  }
}

function loadModule(): number {
  const text = used(moduleAlloc(PAGE_SIZE));
  if (text < 0 && text > -PAGE_SIZE) return text;
  const error = moduleEnableRox(text as VirtAddr, PAGE_SIZE); // as allocated
  if (error === 0) return text;
  moduleFree(text as VirtAddr);
  return error;
}

const work = (what: Work, about: (memory: ProcessMemory, place: Place) => number = () => 0): Part => {
  return ({ memory, place }) => call(ADDED_SYSCALL, WORK.indexOf(what), about(memory, place));
};

const isMain = (memory: ProcessMemory): boolean => memory.role === "main";
const isError = (result: number): boolean => result < 0 && result > -PAGE_SIZE;

interface Slot {
  readonly fact: Fact;
  get(memory: ProcessMemory): number;
  set(memory: ProcessMemory, address: number): void;
}

/** Two operations, of which the process may do the one or the other: it has the thing, or it has not. */
function pair(make: Work, free: Work, place: Slot): readonly [ProcessOperation, ProcessOperation] {
  return [
    {
      kind: "process",
      needs: [],
      isPossible: (memory) => isMain(memory) && !memory.is(place.fact),
      parts: [work(make)],
      finish: ({ memory, result }) => {
        if (isError(result)) return;
        memory.set(place.fact, true);
        place.set(memory, result);
      },
    },
    {
      kind: "process",
      needs: [],
      isPossible: (memory) => isMain(memory) && memory.is(place.fact),
      parts: [work(free, (memory) => place.get(memory))],
      finish: ({ memory }) => {
        memory.set(place.fact, false);
        place.set(memory, 0);
      },
    },
  ];
}

function slot(fact: Fact, index: number): Slot {
  return { fact, get: (memory) => memory.kernelAddress(index), set: (memory, address) => memory.setKernelAddress(index, address) };
}

const [kmallocs, kfrees] = pair("kmalloc", "kfree", slot("kernel object", 0));
const [vmallocs, vfrees] = pair("vmalloc", "vfree", slot("kernel area", 1));
const [loads, unloads] = pair("load", "unload", slot("module", 2));

const plain = (
  what: Work,
  about?: (memory: ProcessMemory, place: Place) => number,
  when?: (place: Place) => boolean,
): ProcessOperation => ({
  kind: "process",
  needs: [],
  isPossible: (memory, place) => isMain(memory) && (when === undefined || when(place)),
  parts: [work(what, about)],
});

const otherCpu = (place: Place): number | undefined => place.online.find((one) => one !== place.cpu);

export const KERNEL_OPERATIONS: Readonly<Record<string, Operation>> = {
  kmalloc: kmallocs,
  kfree: kfrees,
  vmalloc: vmallocs,
  vfree: vfrees,
  "module load": loads,
  "module unload": unloads,
  "static-key patch": plain("static key"),
  "TLB flush": plain("flush"),
  suspend: plain("suspend"),
  "CPU offline": plain(
    "offline",
    (_memory, place) => otherCpu(place) ?? place.cpu,
    (place) => otherCpu(place) !== undefined,
  ),
  "CPU online": plain(
    "online",
    (_memory, place) => place.parked[0] ?? 0,
    (place) => place.parked.length > 0,
  ),
};
