// What the prover has inside the kernel: which operation each CPU is to do next, what injected handlers read, and work of the kernel that no
// system call asks for. All of it is bytes of the machine's memory, so that it goes back with the rest.
import { addVirt, cpu, type PhysAddr, type PhysicalMemory, type VirtAddr, virtual } from "../../hardware/index.ts";
import {
  FAIL_ONCE,
  FailAlloc,
  failAllocState,
  GFP_HIGHUSER_MOVABLE,
  getFreePages,
  KERNEL_DATA_BASE,
  KERNEL_DATA_PHYSICAL,
  type KernelHooks,
  staticBytes,
} from "../../kernel/index.ts";
import { MAX_CPUS } from "./call-arguments.ts";
import { kernelWork } from "./kernel-work.ts";

/** Number of the operation that each CPU's process begins next, from 1. */
const chosenOperations = staticBytes("prover_chosen", 4 * MAX_CPUS, 8);
/** What handlers read: the address of sensitive memory, or 0; and that memory. */
const handlerSecret = staticBytes("prover_handler_secret", 8, 8);
const secretPage = staticBytes("prover_secret_page", 8, 8);

function physical(address: VirtAddr): PhysAddr {
  return (address - KERNEL_DATA_BASE + KERNEL_DATA_PHYSICAL) as PhysAddr; // static data
}

/** By a step, so that a handler that was suspended does the same when it is run again. */
function touchSecret(): void {
  const secret = virtual.get(handlerSecret);
  if (secret !== 0) cpu.load(secret, 4);
}

export class KernelSide {
  readonly hooks: KernelHooks = { nmi: touchSecret, irqWork: touchSecret, syscall: kernelWork };

  readonly lateInitcall = (): void => {
    virtual.set(secretPage, getFreePages(GFP_HIGHUSER_MOVABLE, 0));
  };

  choose(memory: PhysicalMemory, index: number, operation: number): void {
    memory.write32(physical(addVirt(chosenOperations, 4 * index)), operation);
  }

  /** The operation that was chosen for a CPU, which is then begun. */
  takeChosen(memory: PhysicalMemory, index: number): number {
    const chosen = memory.read32(physical(addVirt(chosenOperations, 4 * index)));
    this.choose(memory, index, 0);
    return chosen;
  }

  /** The `nth` attempt from now on to allocate memory fails (1: the next); 0: none. */
  failAllocation(memory: PhysicalMemory, nth: number): void {
    const at = physical(failAllocState);
    memory.write32((at + FailAlloc.offset.mode) as PhysAddr, FAIL_ONCE); // a field of a static object
    memory.write32((at + FailAlloc.offset.attempts) as PhysAddr, 0);
    memory.write32((at + FailAlloc.offset.failed) as PhysAddr, 0);
    memory.write32((at + FailAlloc.offset.remaining) as PhysAddr, nth);
  }

  setSensitive(memory: PhysicalMemory, isSensitive: boolean): void {
    memory.writeWord(physical(handlerSecret), isSensitive ? memory.readWord(physical(secretPage)) : 0);
  }
}
