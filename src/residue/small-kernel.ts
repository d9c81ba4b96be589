// A kernel of a few lines, for testing the abstract machine itself: GDT, TSS and IDT in memory, entry stubs that save registers and
// call a handler, and two tasks that switch stacks. Only tests import it.
import { addVirt, cpu, LEAVE_IRETQ, type Stub, VECTOR_NMI, VECTOR_PF, type VirtAddr, virtAddr } from "../hardware/index.ts";
import type { ResidueMachine } from "./residue-machine.ts";

const DIRECT_MAP = -0x778000000000;
export const SCRATCH = virtAddr(DIRECT_MAP + 0x2000000);
const GDT = virtAddr(DIRECT_MAP + 0x2100000);
const TSS = virtAddr(DIRECT_MAP + 0x2101000);
export const IDT = virtAddr(DIRECT_MAP + 0x2102000);
const NMI_STACK = DIRECT_MAP + 0x2110000;
const SECOND_STACK = DIRECT_MAP + 0x2120000;

export const IRQ_VECTOR = 0x30;
const TSS_SELECTOR = 0x40;
const KERNEL_CS = 0x10;
const GATE = 0x8e00;
const SAVED_REGISTERS = [15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 3, 2, 1, 0];
const RSP = 4;

/** Handlers of the small kernel; each may be replaced by a test. */
export interface Handlers {
  irq: () => void;
  nmi: () => void;
  fault: () => void;
}

function restore(bytesAbove: number): number {
  let at = cpu.stackPointer();
  for (let i = SAVED_REGISTERS.length - 1; i >= 0; i--) {
    const low = cpu.load64(at);
    cpu.writeRegister(SAVED_REGISTERS[i] ?? 0, low, cpu.high);
    at = addVirt(at, 8);
  }
  at = addVirt(at, bytesAbove);
  cpu.writeRegister(RSP, at >>> 0, Math.floor(at / 2 ** 32) >>> 0);
  return LEAVE_IRETQ;
}

/** An entry that pushes an error word (unless the hardware did), saves fifteen registers, calls the handler, and restores. */
function entry(symbol: string, hasError: boolean, handler: () => void): Stub {
  const tail = (): number => restore(8);
  return {
    symbol,
    tail,
    effect: () => {
      let at = cpu.stackPointer();
      if (!hasError) {
        at = addVirt(at, -8);
        cpu.storeWord(at, -1);
      }
      for (const register of SAVED_REGISTERS) {
        at = addVirt(at, -8);
        const low = cpu.readRegister(register);
        cpu.store64(at, low, cpu.high);
      }
      cpu.writeRegister(RSP, at >>> 0, Math.floor(at / 2 ** 32) >>> 0);
      handler();
      return tail();
    },
  };
}

/** Saves RSP in the first word of the task at RDI, takes it from the task at RSI. */
const switchStub: Stub = {
  symbol: "switch",
  effect: (prev, next) => {
    cpu.storeWord(virtAddr(prev), cpu.stackPointer());
    const low = cpu.load64(virtAddr(next));
    cpu.writeRegister(RSP, low, cpu.high);
    return 0;
  },
};

export function smallKernelStubs(handlers: Handlers, second: () => void): Stub[] {
  return [
    entry("irq_entry", false, () => handlers.irq()),
    entry("nmi_entry", false, () => handlers.nmi()),
    entry("fault_entry", true, () => handlers.fault()),
    {
      symbol: "second_task",
      effect: () => {
        second();
        return LEAVE_IRETQ;
      },
    },
    switchStub,
    {
      symbol: "double",
      effect: (value) => {
        cpu.storeWord(SCRATCH, cpu.loadWord(SCRATCH) + value);
        return value * 2;
      },
    },
  ];
}

function gate(vector: number, target: VirtAddr, ist: number): void {
  const at = addVirt(IDT, vector * 16);
  const low = target >>> 0;
  cpu.store(at, 4, ((KERNEL_CS << 16) | (low & 0xffff)) >>> 0);
  cpu.store(addVirt(at, 4), 4, ((low & 0xffff0000) | GATE | ist) >>> 0);
  cpu.store(addVirt(at, 8), 4, Math.floor(target / 2 ** 32) >>> 0);
}

/** Fills the tables and loads them. */
export function setUpTables(machine: ResidueMachine): void {
  cpu.storeWord(addVirt(TSS, 36), NMI_STACK);
  const low = TSS >>> 0;
  cpu.store(addVirt(GDT, TSS_SELECTOR), 4, ((low & 0xffff) << 16) | 0x67);
  cpu.store(addVirt(GDT, TSS_SELECTOR + 4), 4, ((low >>> 16) & 0xff) | 0x8900 | (low & 0xff000000));
  cpu.store(addVirt(GDT, TSS_SELECTOR + 8), 4, Math.floor(TSS / 2 ** 32) >>> 0);
  gate(IRQ_VECTOR, machine.symbol("irq_entry"), 0);
  gate(VECTOR_NMI, machine.symbol("nmi_entry"), 1);
  gate(VECTOR_PF, machine.symbol("fault_entry"), 0);
  cpu.loadTable("gdt", GDT, 0xff);
  cpu.loadTable("tr", TSS_SELECTOR, 0);
  cpu.loadTable("idt", IDT, 0xfff);
}

/** Makes the stack of the second task, whose first word of state is at `task`. */
export function prepareSecondTask(machine: ResidueMachine, task: VirtAddr): void {
  const top = virtAddr(SECOND_STACK - 16);
  cpu.storeWord(top, machine.symbol("stub_return"));
  cpu.storeWord(addVirt(top, 8), machine.symbol("second_task"));
  cpu.storeWord(task, top);
}
