// What comes to a CPU from outside while it runs user code or a guest, or is halted: interrupts, NMIs, its timer, machine checks. Inside
// kernel code they are the explorer's injections.
import { IRQ_WORK_VECTOR } from "../../kernel/index.ts";
import type { ResidueCpu } from "../../residue/index.ts";
import type { DeliveryOperation } from "./operation.ts";

/** MCA error code of a data read in the memory hierarchy (SDM vol. 3, 17.9.2), reported for an address that nobody uses. */
const DATA_READ = 0x134;

function delivery(deliver: (cpu: ResidueCpu) => void, isSensitive = false): DeliveryOperation {
  return { kind: "delivery", isSensitive, deliver };
}

export function raiseInterrupt(cpu: ResidueCpu): void {
  cpu.raise(IRQ_WORK_VECTOR);
}

/** An uncorrected error after which the interrupted code can go on. */
export function raiseMachineCheck(cpu: ResidueCpu): void {
  cpu.raiseMachineCheck({ errorCode: DATA_READ, address: 0, isRestartable: true });
}

export const DELIVERIES: Readonly<Record<string, DeliveryOperation>> = {
  interrupt: delivery(raiseInterrupt),
  "sensitive interrupt": delivery(raiseInterrupt, true),
  nmi: delivery((cpu) => cpu.raiseNmi()),
  "sensitive nmi": delivery((cpu) => cpu.raiseNmi(), true),
  timer: {
    kind: "delivery",
    isSensitive: false,
    isPossible: (cpu) => Number.isFinite(cpu.apic.deadline),
    deliver: (cpu) => cpu.fireTimer(),
  },
  "machine check": delivery(raiseMachineCheck),
};
