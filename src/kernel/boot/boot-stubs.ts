// Where a CPU starts, and the small sequences of its first moments.
import { ds, eax, es, mem, rax, rdx, rsp, ss } from "../../assembler/index.ts";
import { addVirt, cpu, high32, LEAVE_IRETQ, low32, STUB_RETURN, type VirtAddr, virtual } from "../../hardware/index.ts";
import { __KERNEL_CS, __KERNEL_DS } from "../entry/vectors.ts";
import { THREAD_SIZE } from "../sched/task-struct.ts";
import { staticBytes } from "../static-data.ts";
import type { StubProgram } from "../stub-program.ts";

/** Stack of the boot CPU's idle task (kernel: init_stack). */
export const initStack = staticBytes("init_stack", THREAD_SIZE, THREAD_SIZE);
/** Top of the stack for the CPU that is being started (kernel: initial_stack). */
export const initialStack = staticBytes("initial_stack", 8, 8);

export const STARTUP_SYMBOL = "startup_64";
export const SECONDARY_STARTUP_SYMBOL = "secondary_startup_64";

const RSP_CODE = 4;

function setStack(top: VirtAddr): void {
  cpu.writeRegister(RSP_CODE, low32(top), high32(top));
}

/** Never comes: the functions that these stubs call do not return. */
function neverLeaves(): number {
  return LEAVE_IRETQ;
}

/** The boot CPU's first code, and the others' (kernel: startup_64, secondary_startup_64). RSP is 0, RDI the CPU's number. */
export function startupStubs(startKernel: () => void, startSecondary: () => void): readonly StubProgram[] {
  return [
    {
      symbol: STARTUP_SYMBOL,
      program: (a) => {
        a.mov(rsp, BigInt.asUintN(64, BigInt(initStack + THREAD_SIZE)))
          .trap("start_kernel")
          .hlt();
      },
      effect: () => {
        setStack(addVirt(initStack, THREAD_SIZE));
        startKernel();
        return neverLeaves();
      },
      tail: neverLeaves,
    },
    {
      symbol: SECONDARY_STARTUP_SYMBOL,
      program: (a) => {
        a.mov(rsp, mem(initialStack)).trap("start_secondary").hlt();
      },
      effect: () => {
        setStack(virtual.get(initialStack));
        startSecondary();
        return neverLeaves();
      },
      tail: neverLeaves,
    },
  ];
}

/** After LGDT: CS from the new table by IRETQ, the data segments (kernel: the far return in startup_64). */
const reloadSegments: StubProgram = {
  symbol: "reload_segments",
  program: (a) => {
    a.pop(rax).mov(rdx, rsp).push(__KERNEL_DS).push(rdx).pushfq().push(__KERNEL_CS).push(rax);
    a.xor(eax, eax).mov(ds, eax).mov(es, eax).mov(eax, __KERNEL_DS).mov(ss, eax).iretq();
  },
  effect: () => 0,
};

/** The trap that ends callStub(). */
const stubReturn: StubProgram = {
  symbol: STUB_RETURN,
  program: (a) => {
    a.trap(STUB_RETURN).int3();
  },
  effect: () => 0,
};

export const bootStubs: readonly StubProgram[] = [reloadSegments, stubReturn];
