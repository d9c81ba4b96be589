// The guest of the abstract machine: nothing runs, somebody chooses how it leaves. The choice is data, so that an explorer can go
// through all of them.
import {
  EXIT_REASON,
  INTR_INFO_VALID_MASK,
  INTR_TYPE_EXT_INTR,
  INTR_TYPE_HARD_EXCEPTION,
  INTR_TYPE_NMI_INTR,
  VECTOR_MC,
  VECTOR_NMI,
} from "../hardware/index.ts";

/** One VM exit: reason and information fields (SDM vol. 3, 29.2), and general registers that the guest changed. */
export interface GuestExit {
  readonly reason: number;
  readonly qualification?: number;
  readonly instructionLength?: number;
  readonly guestPhysical?: number;
  readonly guestLinear?: number;
  readonly interruption?: number;
  /** Where the guest stood when it left; where it was entered, unless told. */
  readonly rip?: number;
  /** Register number by encoding and its new value. */
  readonly registers?: readonly (readonly [register: number, value: number])[];
}

/** Chooses the next exit of a guest that runs on CPU `cpu`; undefined: it runs on until an interrupt comes. */
export type GuestModel = (cpu: number) => GuestExit | undefined;

/** A guest that leaves as the list says, then runs on. */
export function scriptedGuest(exits: readonly GuestExit[]): GuestModel {
  let next = 0;
  return () => exits[next++];
}

const HLT_BYTES = 1;
const VMCALL_BYTES = 3;
const OUT_IMM8_BYTES = 2;

export function hltExit(): GuestExit {
  return { reason: EXIT_REASON.HLT, instructionLength: HLT_BYTES };
}

/** VMCALL with hypercall `number` in RAX and up to two arguments in RBX and RCX. */
export function vmcallExit(number: number, rbx = 0, rcx = 0): GuestExit {
  return {
    reason: EXIT_REASON.VMCALL,
    instructionLength: VMCALL_BYTES,
    registers: [
      [0, number],
      [3, rbx],
      [1, rcx],
    ],
  };
}

/** OUT imm8, AL. SDM vol. 3, table 29-5: bits 2:0 size - 1, 3 direction (0 out), 6 immediate, 31:16 port. */
export function outExit(port: number, value: number): GuestExit {
  return {
    reason: EXIT_REASON.IO_INSTRUCTION,
    qualification: (1 << 6) | (port << 16),
    instructionLength: OUT_IMM8_BYTES,
    registers: [[0, value]],
  };
}

export function eptViolationExit(guestPhysical: number, qualification: number): GuestExit {
  return { reason: EXIT_REASON.EPT_VIOLATION, guestPhysical, guestLinear: guestPhysical, qualification };
}

export function externalInterruptExit(vector: number): GuestExit {
  return { reason: EXIT_REASON.EXTERNAL_INTERRUPT, interruption: (INTR_INFO_VALID_MASK | INTR_TYPE_EXT_INTR | vector) >>> 0 };
}

/** A machine check in a guest leaves as an exception: the kernel intercepts it. */
export function machineCheckExit(): GuestExit {
  return { reason: EXIT_REASON.EXCEPTION_NMI, interruption: (INTR_INFO_VALID_MASK | INTR_TYPE_HARD_EXCEPTION | VECTOR_MC) >>> 0 };
}

export function nmiExit(): GuestExit {
  return { reason: EXIT_REASON.EXCEPTION_NMI, interruption: (INTR_INFO_VALID_MASK | INTR_TYPE_NMI_INTR | VECTOR_NMI) >>> 0 };
}
