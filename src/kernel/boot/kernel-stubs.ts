// All machine code of the kernel, and which TypeScript function each trap in it calls. The functions of a run's own hooks are found by
// way of the hook table, so that the text is the same for every configuration.

import { VECTOR_DB, VECTOR_DF, VECTOR_MC, VECTOR_NMI } from "../../hardware/index.ts";
import { switchStubs } from "../entry/entry-switches.ts";
import { entryTextEnd, entryTextStart } from "../entry/entry-text.ts";
import { espfixStubs } from "../entry/espfix.ts";
import { excDebug, excDoubleFault, exceptions } from "../entry/exceptions.ts";
import { fpuStubs } from "../entry/fpu-stubs.ts";
import { fredEntryFromKernel, fredEntryFromUser, fredStub } from "../entry/fred.ts";
import { idtEntryStub, retFromForkStub, returnStubs } from "../entry/idtentry-stubs.ts";
import { interrupts } from "../entry/interrupts.ts";
import { excMachineCheck } from "../entry/machine-check.ts";
import { excNmi } from "../entry/nmi.ts";
import { paranoidStubs } from "../entry/paranoid-stubs.ts";
import { retFromFork } from "../entry/ret-from-fork.ts";
import { segmentStubs, switchToAsm } from "../entry/switch-stub.ts";
import { syscall64 } from "../entry/syscall.ts";
import { doFastSyscall32, doInt80Emulation, doSysenter32 } from "../entry/syscall-32.ts";
import { syscallStubs } from "../entry/syscall-stubs.ts";
import { jumpLabelStubs } from "../jump-label.ts";
import { HYPERCALL_STUBS } from "../kvm/hypercall-gadget.ts";
import { VMX_ENTER_STUBS } from "../kvm/vmx/enter-stub.ts";
import { flushStubs } from "../mitigations/flush-stubs.ts";
import { ldtStubs } from "../mm/ldt-stubs.ts";
import { uaccessStubs } from "../mm/uaccess.ts";
import { efiServiceOffset } from "../power/efi.ts";
import { efiStubs } from "../power/efi-stub.ts";
import { KEXEC_STUBS } from "../power/kexec-stub.ts";
import { SUSPEND_STUBS } from "../power/suspend-stub.ts";
import type { StubProgram } from "../stub-program.ts";
import { bootStubs, startupStubs } from "./boot-stubs.ts";

/** What a run adds to the kernel: handlers of NMIs and of IRQ_WORK_VECTOR, and a system call, for tests and experiments. */
export interface KernelHooks {
  readonly nmi?: () => void;
  readonly irqWork?: () => void;
  /** What ADDED_SYSCALL does, in process context, with its first two arguments. @returns its result. */
  readonly syscall?: (first: number, second: number) => number;
}

/** Traps by name. */
export type TrapHandlers = ReadonlyMap<string, () => void>;

export interface KernelCode {
  readonly stubs: readonly StubProgram[];
  readonly handlers: TrapHandlers;
}

/** Stubs and handlers for a run. `startKernel`, `startSecondary`: the first functions of the CPUs. */
export function kernelCode(startKernel: () => void, startSecondary: () => void, hooks: KernelHooks): KernelCode {
  const doSyscall64 = syscall64(hooks.syscall);
  const nmi = excNmi(hooks.nmi);
  const irqs = interrupts(hooks.irqWork);
  const faults = exceptions();
  const fred = {
    byVector: new Map<number, () => void>([
      ...faults.map((e): [number, () => void] => [e.vector, e.handler]),
      ...irqs.map((i): [number, () => void] => [i.vector, i.handler]),
      [VECTOR_NMI, nmi],
      [VECTOR_DB, excDebug],
      [VECTOR_DF, excDoubleFault],
      [VECTOR_MC, excMachineCheck],
    ]),
    syscall: doSyscall64,
    fastSyscall32: doFastSyscall32,
    int80: doInt80Emulation,
  };
  const stubs = [
    ...bootStubs,
    ...startupStubs(startKernel, startSecondary),
    entryTextStart,
    ...syscallStubs({ doSyscall64, doSysenter32, doFastSyscall32, doInt80Emulation }),
    ...paranoidStubs({ excNmi: nmi, excDebug, excMachineCheck, excDoubleFault }),
    retFromForkStub(retFromFork),
    ...returnStubs,
    ...espfixStubs,
    ...switchStubs,
    ...faults.map((e) => idtEntryStub(e.symbol, e.handlerName, e.hasErrorCode, e.handler)),
    ...irqs.map((i) => idtEntryStub(i.symbol, i.handlerName, false, i.handler)),
    fredStub,
    entryTextEnd,
    switchToAsm,
    ...fpuStubs,
    ...segmentStubs,
    ...flushStubs,
    ...uaccessStubs,
    ...ldtStubs,
    ...jumpLabelStubs,
    ...HYPERCALL_STUBS,
    ...VMX_ENTER_STUBS,
    ...KEXEC_STUBS,
    ...SUSPEND_STUBS,
    ...efiStubs(efiServiceOffset),
  ];
  const handlers = new Map<string, () => void>([
    ["start_kernel", startKernel],
    ["start_secondary", startSecondary],
    ["do_syscall_64", doSyscall64],
    ["do_SYSENTER_32", doSysenter32],
    ["do_fast_syscall_32", doFastSyscall32],
    ["do_int80_emulation", doInt80Emulation],
    ["exc_nmi", nmi],
    ["exc_debug", excDebug],
    ["exc_double_fault", excDoubleFault],
    ["exc_machine_check", excMachineCheck],
    ["ret_from_fork", retFromFork],
    ["fred_entry_from_user", fredEntryFromUser(fred)],
    ["fred_entry_from_kernel", fredEntryFromKernel(fred)],
    ...faults.map((e): [string, () => void] => [e.handlerName, e.handler]),
    ...irqs.map((i): [string, () => void] => [i.handlerName, i.handler]),
  ]);
  return { stubs, handlers };
}

const notStarted = (): void => undefined;

/** The stubs as text: what they call does not change their bytes. */
export function kernelStubs(): readonly StubProgram[] {
  return kernelCode(notStarted, notStarted, {}).stubs;
}
