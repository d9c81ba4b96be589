// The kernel's first functions, on the boot CPU and on the others, and what they become: the idle tasks.

import { ENODEV, isErr } from "../../abi/index.ts";
import {
  addVirt,
  assert,
  BOOT_CPUS,
  cpu,
  EFER_SCE,
  high32,
  low32,
  MSR_CSTAR,
  MSR_EFER,
  MSR_GS_BASE,
  MSR_IA32_SYSENTER_CS,
  MSR_IA32_SYSENTER_EIP,
  MSR_IA32_SYSENTER_ESP,
  MSR_KERNEL_GS_BASE,
  MSR_LSTAR,
  MSR_STAR,
  MSR_SYSCALL_MASK,
  MSR_X2APIC_SIVR,
  type PhysAddr,
  type Ptr,
  RFLAGS_AC,
  RFLAGS_DF,
  RFLAGS_IF,
  RFLAGS_NT,
  RFLAGS_TF,
  VECTOR_DB,
  VECTOR_DF,
  VECTOR_MC,
  VECTOR_NMI,
  virtual,
} from "../../hardware/index.ts";
import { asiGlobalInit, asiGlobalInitPgd } from "../asi/asi-global.ts";
import { selectAsiOptions } from "../asi/asi-options.ts";
import { asiRfcV2, asiTaints } from "../asi/asi-state.ts";
import { ASI_TAINT_KERNEL_DATA } from "../asi/asi-struct.ts";
import { asiInitUserspaceClass, asiUserspace } from "../asi/asi-user.ts";
import { selectSiblingsApart, siblingsBeforeStart, siblingsInitQuiet } from "../asi/siblings.ts";
import { applyAlternatives } from "../entry/alternatives.ts";
import { cpuInitExceptionHandling, ptiInit, setGate } from "../entry/descriptor-tables.ts";
import { entryStackTop } from "../entry/entry-area.ts";
import { initEspfixArea, initEspfixCpu } from "../entry/espfix.ts";
import { exceptions } from "../entry/exceptions.ts";
import { cpuInitFred, fredCheckBoottime } from "../entry/fred.ts";
import { interrupts } from "../entry/interrupts.ts";
import { isIntel } from "../entry/vdso-32.ts";
import {
  __KERNEL_CS,
  __USER32_CS,
  IA32_SYSCALL_VECTOR,
  IST_INDEX_DB,
  IST_INDEX_DF,
  IST_INDEX_MCE,
  IST_INDEX_NMI,
  SPURIOUS_APIC_VECTOR,
} from "../entry/vectors.ts";
import { kvmInit } from "../kvm/init.ts";
import { populateRootfs } from "../linux/initramfs.ts";
import { startProcess } from "../linux/process.ts";
import { identifyBootCpu } from "../mitigations/cpu-features.ts";
import { fredFeature } from "../mitigations/feature-keys.ts";
import {
  asiCheckBoottimeDisable,
  cpuSelectMitigations,
  mitigationsInitCpu,
  ptiCheckBoottimeDisable,
  selectAsiFlushes,
} from "../mitigations/select.ts";
import { cpuBootable } from "../mitigations/smt.ts";
import { startAsyncFreeWorker } from "../mm/async-free-worker.ts";
import { loadSwapperPgDir, mmCoreInit, setupArchMemory } from "../mm/boot-memory.ts";
import { freeInitmem } from "../mm/init-memory.ts";
import { va } from "../mm/layout.ts";
import { perCpuBase, setCpuOnline, setupPerCpuAreas } from "../mm/percpu.ts";
import { pokingInit } from "../mm/text-poke.ts";
import { initializeTlbstateAndFlush } from "../mm/tlb.ts";
import { reserveCrashkernel } from "../power/kexec-image.ts";
import { currentTask, topOfStack } from "../sched/current.ts";
import { cpuStartupEntry } from "../sched/idle.ts";
import { RunQueue, runQueueAt, runqueues } from "../sched/run-queue.ts";
import { forkIdle, initBootTask, initTask } from "../sched/task.ts";
import { TaskStruct, THREAD_SIZE } from "../sched/task-struct.ts";
import { calibrateTsc, setupTimer } from "../sched/tick.ts";
import { printk, TRACE_BOOT_DONE, TRACE_PROCESS_NOT_STARTED, trace } from "../trace.ts";
import { bootCommandLine, commandLineOption, saveCommandLine } from "./command-line.ts";
import type { KernelConfig } from "./kernel-image.ts";
import { kernelText, symbolAddress } from "./kernel-text.ts";
import { startCpu } from "./start-cpu.ts";

/** Software-enable bit of the spurious-vector register. SDM vol. 3, 12.9. */
const APIC_SOFTWARE_ENABLE = 1 << 8;

/** Kernel: `start_kernel()`. On the image's early tables and stack, interrupts off. Does not return. */
export function startKernel(config: KernelConfig): void {
  saveCommandLine();
  const commandLine = bootCommandLine();
  printk(`Kernel command line: ${commandLine}`);
  identifyBootCpu();
  if (config.preset === "rfc-v2") asiRfcV2.set(1);
  selectAsiOptions(config.preset, commandLine);
  // Before the page tables: whether kernel pages are global depends on it.
  asiCheckBoottimeDisable(commandLine);
  ptiCheckBoottimeDisable(commandLine);
  const userspaceError = asiInitUserspaceClass(commandLine);
  assert(userspaceError === 0, () => `asi_init_userspace_class(): ${userspaceError}`);
  selectSiblingsApart(asiUserspace.isEnabled());
  setupArchMemory();
  const cpus = cpu.load(va(BOOT_CPUS as PhysAddr), 4);
  setupPerCpuAreas(cpus);
  usePerCpuArea();
  initBootTask();
  adoptTask(initTask);
  initializeTlbstateAndFlush();
  asiGlobalInitPgd();
  mmCoreInit();
  initEspfixArea();
  asiGlobalInit();
  siblingsInitQuiet();
  trapInit();
  ptiInit();
  cpuInitExceptionHandling();
  cpuSelectMitigations(commandLine);
  selectAsiFlushes();
  const crashkernel = commandLineOption(commandLine, "crashkernel");
  if (crashkernel !== undefined && reserveCrashkernel(crashkernel) !== 0) printk("crashkernel reservation failed");
  calibrateTsc();
  fredCheckBoottime(commandLine);
  applyAlternatives(kernelText().alternatives);
  syscallInit();
  apicInit();
  siblingsBeforeStart(cpu.id);
  setCpuOnline(cpu.id);
  smpInit(cpus);
  // With FRED a VM exit needs fields of the VMCS that KVM here does not know.
  const error = fredFeature.isEnabled() ? ENODEV : kvmInit();
  if (error !== 0) printk(`kvm: not available (${error})`);
  cpu.enableInterrupts();
  populateRootfs();
  pokingInit();
  freeInitmem();
  config.lateInitcall?.();
  startAsyncFreeWorker();
  for (const [index, process] of config.processes.entries()) {
    const failed = startProcess(process);
    if (failed === 0) continue;
    printk(`Failed to execute ${process.program ?? process.name} (error ${failed})`);
    trace(TRACE_PROCESS_NOT_STARTED, index, failed);
  }
  trace(TRACE_BOOT_DONE, cpus);
  cpuStartupEntry();
}

/** Kernel: `start_secondary()`. Does not return. */
export function startSecondary(): void {
  // First of all the tables that every other function needs; the area's address is static data.
  loadSwapperPgDir();
  usePerCpuArea();
  adoptTask(runQueueAt(cpu.perCpuBase).idle);
  initializeTlbstateAndFlush();
  cpuInitExceptionHandling();
  mitigationsInitCpu();
  syscallInit();
  apicInit();
  setCpuOnline(cpu.id);
  cpu.enableInterrupts();
  cpuStartupEntry();
}

/** GS base is the CPU's own area from here on; it has run unrestricted so far. */
function usePerCpuArea(): void {
  const base = perCpuBase(cpu.id);
  cpu.perCpuBase = base;
  cpu.writeMsr(MSR_GS_BASE, low32(base), high32(base));
  cpu.writeMsr(MSR_KERNEL_GS_BASE, 0, 0);
  asiTaints.set(ASI_TAINT_KERNEL_DATA);
}

function adoptTask(task: Ptr<"task_struct">): void {
  const view = TaskStruct.at(task);
  view.cpu = cpu.id;
  currentTask.set(task);
  topOfStack.set(addVirt(view.stack, THREAD_SIZE));
  const rq = RunQueue.at(runqueues.here() as Ptr<"rq">); // what the variable embeds
  rq.idle = task;
}

/** Fills the IDT (kernel: `idt_setup_traps()`, `idt_setup_apic_and_irq_gates()`). */
function trapInit(): void {
  for (const { vector, symbol, isForUser } of exceptions()) setGate(vector, symbolAddress(symbol), 0, isForUser);
  for (const { vector, symbol } of interrupts(undefined)) setGate(vector, symbolAddress(symbol), 0, false);
  setGate(VECTOR_NMI, symbolAddress("asm_exc_nmi"), IST_INDEX_NMI, false);
  setGate(VECTOR_DF, symbolAddress("asm_exc_double_fault"), IST_INDEX_DF, false);
  setGate(VECTOR_MC, symbolAddress("asm_exc_machine_check"), IST_INDEX_MCE, false);
  setGate(VECTOR_DB, symbolAddress("asm_exc_debug"), IST_INDEX_DB, false);
  setGate(IA32_SYSCALL_VECTOR, symbolAddress("asm_int80_emulation"), 0, true);
}

/** Kernel: `syscall_init()`. */
function syscallInit(): void {
  const entry = symbolAddress("entry_SYSCALL_64");
  cpu.writeMsr(MSR_STAR, 0, ((__USER32_CS << 16) | __KERNEL_CS) >>> 0);
  cpu.writeMsr(MSR_LSTAR, low32(entry), high32(entry));
  initEspfixCpu();
  if (isIntel()) {
    // SYSENTER arrives on the entry stack, which every table has; SYSCALL from 32-bit code is undefined there.
    const sysenter = symbolAddress("entry_SYSENTER_compat");
    cpu.writeMsr(MSR_IA32_SYSENTER_CS, __KERNEL_CS, 0);
    const stack = virtual.get(entryStackTop.here());
    cpu.writeMsr(MSR_IA32_SYSENTER_ESP, low32(stack), high32(stack));
    cpu.writeMsr(MSR_IA32_SYSENTER_EIP, low32(sysenter), high32(sysenter));
  } else {
    const compat = symbolAddress("entry_SYSCALL_compat");
    cpu.writeMsr(MSR_CSTAR, low32(compat), high32(compat));
  }
  cpu.writeMsr(MSR_SYSCALL_MASK, RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC, 0);
  const efer = cpu.readMsr(MSR_EFER);
  cpu.writeMsr(MSR_EFER, efer | EFER_SCE, cpu.high);
  cpuInitFred();
}

/** Kernel: `setup_local_APIC()`, in x2APIC mode from the start. */
function apicInit(): void {
  cpu.writeMsr(MSR_X2APIC_SIVR, APIC_SOFTWARE_ENABLE | SPURIOUS_APIC_VECTOR, 0);
  setupTimer();
}

/** Starts the other CPUs, one after the other (kernel: `smp_init()`, `acpi_wakeup_cpu()`). */
function smpInit(cpus: number): void {
  let started = 1;
  for (let id = 1; id < cpus; id++) {
    if (!cpuBootable(id)) continue;
    const idle = forkIdle(id);
    assert(!isErr(idle), () => `out of memory at boot: idle task of CPU ${id}`);
    runQueueAt(perCpuBase(id)).idle = idle;
    startCpu(id);
    started++;
  }
  printk(`smp: Brought up 1 node, ${started} CPU${started === 1 ? "" : "s"}`);
}
