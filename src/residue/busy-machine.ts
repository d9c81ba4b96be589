// The small kernel at work, for tests of going back and of replaying: one path with everything in it. Only tests import it.
import { addVirt, assert, cpu, cr3Root, MSR_X2APIC_EOI, MSR_X2APIC_SIVR, type Stub, virtAddr } from "../hardware/index.ts";
import { bareMachine } from "./bare-fixture.ts";
import type { ResidueMachine } from "./residue-machine.ts";
import { type Handlers, IRQ_VECTOR, prepareSecondTask, SCRATCH, setUpTables, smallKernelStubs } from "./small-kernel.ts";

const DIRECT_MAP = -0x778000000000;
export const TASK_A = addVirt(SCRATCH, 0x100);
export const TASK_B = addVirt(SCRATCH, 0x108);
const MEMORY_BYTES = 36 << 20;
const SIVR_ENABLED = 0x1ff;
/** A page of user addresses that the fault handler maps: PML4 slot 0. */
export const FAULTING = virtAddr(0x7000);

/** Boots the small kernel and runs `main` as its first path, until it sleeps. */
export function boot(
  main: (machine: ResidueMachine) => void,
  handlers: Partial<Handlers> = {},
  second: () => void = () => undefined,
): ResidueMachine {
  const all: Handlers = { irq: () => undefined, nmi: () => undefined, fault: () => undefined, ...handlers };
  const holder: { machine?: ResidueMachine } = {};
  const entry: Stub = {
    symbol: "bare_entry",
    effect: () => {
      const { machine } = holder;
      assert(machine !== undefined, () => "the machine is not there yet");
      setUpTables(machine);
      cpu.writeMsr(MSR_X2APIC_SIVR, SIVR_ENABLED, 0);
      main(machine);
      for (;;) cpu.halt();
    },
  };
  const machine = bareMachine({ memoryBytes: MEMORY_BYTES, stubs: smallKernelStubs(all, second), entry });
  holder.machine = machine;
  return machine;
}

export const countIrq = (): void => {
  cpu.storeWord(addVirt(SCRATCH, 8), cpu.loadWord(addVirt(SCRATCH, 8)) + 1);
  cpu.writeMsr(MSR_X2APIC_EOI, 0, 0);
};
export const countNmi = (): void => cpu.storeWord(addVirt(SCRATCH, 16), cpu.loadWord(addVirt(SCRATCH, 16)) + 1);

/** Maps FAULTING to the frame of SCRATCH's page by three fresh tables in scratch memory. */
export const mapFaulting = (): void => {
  const flags = 3;
  const root = addVirt(virtAddr(DIRECT_MAP), cr3Root(cpu.readCr3()));
  const tables = [0x2200000, 0x2201000, 0x2202000];
  cpu.store64(root, (tables[0] ?? 0) | flags, 0);
  cpu.store64(virtAddr(DIRECT_MAP + (tables[0] ?? 0)), (tables[1] ?? 0) | flags, 0);
  cpu.store64(virtAddr(DIRECT_MAP + (tables[1] ?? 0)), (tables[2] ?? 0) | flags, 0);
  cpu.store64(virtAddr(DIRECT_MAP + (tables[2] ?? 0) + 7 * 8), 0x2000000 | flags, 0);
};

/** A path with everything in it: stores, a stub, a fault, a per-step interrupt and NMI, and task switches. */
export function busyMachine(): ResidueMachine {
  return boot(
    (m) => {
      prepareSecondTask(m, TASK_B);
      cpu.enableInterrupts();
      cpu.storeWord(addVirt(SCRATCH, 0x40), cpu.callStub("double", 21));
      cpu.switchTo("switch", TASK_A, TASK_B);
      cpu.storeWord(addVirt(FAULTING, 0x50), 5);
      if (cpu.isLive) m.cpu(0).raise(IRQ_VECTOR);
      cpu.storeWord(addVirt(SCRATCH, 0x48), cpu.callStub("double", cpu.loadWord(SCRATCH)));
      cpu.invokeVector(IRQ_VECTOR);
      if (cpu.isLive) m.cpu(0).raiseNmi();
      cpu.storeWord(addVirt(SCRATCH, 0x60), 6);
    },
    { irq: countIrq, nmi: countNmi, fault: mapFaulting },
    () => {
      cpu.storeWord(addVirt(SCRATCH, 0x58), cpu.callStub("double", 3));
      cpu.switchTo("switch", TASK_B, TASK_A);
    },
  );
}
