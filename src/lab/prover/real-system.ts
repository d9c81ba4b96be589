// A configuration on the simulated multiprocessor, with real code in the detailed gear: the same processes do the same operations on the same
// CPUs in the same order, one at a time, as the prover's system does on the abstract machine.

import { SYS } from "../../abi/index.ts";
import {
  cpu as ambientCpu,
  cpuId,
  fail,
  NULL,
  PUPPET_LOAD_OFFSET,
  PUPPET_STATE,
  PUPPET_TEXT,
  PUPPET_TRAP_OFFSET,
  type Puppet,
  type PuppetAction,
  physAddr,
  silentObserver,
} from "../../hardware/index.ts";
import { buildKernelImage, currentTask, IRQ_WORK_VECTOR, TRACE_WARN, WARNINGS } from "../../kernel/index.ts";
import { peekTranslate, type SimulatedCpu, SimulatedMachine } from "../../machine/index.ts";
import { type CheckedObserver, checkedObserver, SimulatedCheck } from "../check/index.ts";
import type { CpuTruth } from "../properties/index.ts";
import { type Configuration, kernelCommandLine } from "./configuration.ts";
import { guestCodeSetup, guestJump, guestLeaveOf, JUMP, jump, TRAINING } from "./guest-code.ts";
import { KernelNames } from "./kernel-names.ts";
import { KernelSide } from "./kernel-side.ts";
import { call, type Operation, type Place } from "./operation.ts";
import { CONTINUE, type NamedOperation, needsVdso, operationsOf, setupOf } from "./operations.ts";
import { ProcessMemory, ZERO_ADDRESS } from "./process-memory.ts";
import { type Puppeteer, proverPuppet } from "./puppet.ts";

const PUPPET_NAME = "prover";
const MIB = 2 ** 20;
/** More than the abstract machine needs: here kernel text and tables of real size are touched. */
const LEAST_MEGABYTES = 64;
const BOOT_CYCLES = 3_000_000_000;
/** One turn of a CPU, and the most turns of an event: a guest that nothing ends, or a wait for another CPU, ends it. */
const TURN_CYCLES = 200_000;
const EVENT_TURNS = 40;
const SETTLE_TURNS = 4000;
/** MCA error code of a data read in the memory hierarchy (SDM vol. 3, 17.9.2). */
const DATA_READ = 0x134;
const PAGE = 4096;
/** What a process does while it waits, and between its operations. */
const TRAIN: PuppetAction = { kind: "load", address: ZERO_ADDRESS };
/** In the text page of a puppet, where nothing is. */
const TRAINING_OFFSET = 0x800;
const TRAINING_BYTES = 0x48;
const LOAD_RAX_RDI: readonly number[] = [0x48, 0x8b, 0x07];

export class RealSystem {
  readonly machine: SimulatedMachine;
  readonly check: SimulatedCheck;
  readonly names: KernelNames;
  /** The first warning of the kernel. */
  warning: string | undefined;
  /** Sees every step of the kernel, after it was judged; may inject and stop. */
  onStep: ((cpu: SimulatedCpu) => void) | undefined;
  onEntry: ((cpu: SimulatedCpu, kind: "user" | "guest") => void) | undefined;
  private readonly kernelSide = new KernelSide();
  private readonly operations: readonly NamedOperation[];
  private readonly judgedStep: SimulatedMachine["stepHook"];
  private readonly judgedEntry: SimulatedMachine["entryHook"];
  private readonly truth: readonly CpuTruth[];
  /** CPUs whose process stands at its decision. */
  private readonly atDecision = new Set<number>();
  /** While the CPUs are brought to where the story begins: the task that each is to run. */
  private wanted: readonly string[] | undefined;
  /** Processes whose text trains. */
  private armed = 0;
  /** Somebody who looked at the steps of the event wanted no more of it. */
  private isStopped = false;
  private interruptsGuest: "irq" | "nmi" | undefined;

  constructor(configuration: Configuration) {
    this.operations = operationsOf(configuration);
    const { vms, vcpus, processes, cpus } = configuration;
    const puppeteer: Puppeteer = {
      ready: 0,
      hasStarted: false,
      setup: setupOf(this.operations, vms, vcpus, guestCodeSetup(vms)),
      operations: this.operations,
      chosen: (cpu) => this.kernelSide.takeChosen(this.machine.memory, cpu),
      place: (cpu) => this.place(cpu),
    };
    const observer: CheckedObserver = checkedObserver({
      ...silentObserver,
      trace: (event, a) => {
        if (event === TRACE_WARN) this.warning ??= WARNINGS[a] ?? `number ${a}`;
      },
    });
    const hasVdso32 = needsVdso(this.operations);
    this.machine = new SimulatedMachine({
      model: configuration.model,
      memoryBytes: Math.max(LEAST_MEGABYTES, configuration.memoryMegabytes) * MIB,
      cpus,
      gear: "detailed",
      image: buildKernelImage({
        preset: configuration.preset,
        processes: Array.from({ length: processes }, (_, i) => ({
          name: `process-${i}`,
          puppet: PUPPET_NAME,
          cpu: i % cpus,
          hasVdso32,
        })),
        puppets: new Map([[PUPPET_NAME, this.puppet(puppeteer, processes)]]),
        hooks: this.kernelSide.hooks,
        lateInitcall: this.kernelSide.lateInitcall,
      }),
      commandLine: kernelCommandLine(configuration),
      observer,
    });
    this.check = new SimulatedCheck(this.machine, observer, { isCollecting: true, enabled: new Set(configuration.properties) });
    this.truth = this.check.truth.cpus;
    this.names = new KernelNames(this.check.checker.view, this.truth);
    this.judgedStep = this.machine.stepHook;
    this.judgedEntry = this.machine.entryHook;
    this.machine.setStepHook(undefined);
    this.machine.entryHook = undefined;
    this.boot(puppeteer, processes);
  }

  /** CPU `index` as the properties see it. */
  truthOf(index: number): CpuTruth {
    return this.truth[index] ?? fail(`no cpu ${index}`);
  }

  /** The task that runs on a CPU. */
  task(index: number): string {
    return this.names.task(this.check.checker.view.word(this.truthOf(index).perCpuBase + currentTask.offset));
  }

  /** Lets every CPU run until the process that `tasks` names for it stands at its decision, or nothing runs there. @returns false: it never came to that */
  settle(tasks: readonly string[]): boolean {
    this.wanted = tasks;
    for (let turns = 0; turns < SETTLE_TURNS; turns++) {
      const busy = this.machine.cpus.filter(({ id }) => !this.atDecision.has(id) && !this.isIdle(id));
      if (busy.length === 0) {
        this.wanted = undefined;
        return this.machine.cpus.every(({ id }) => this.task(id) === tasks[id]);
      }
      for (const { id } of busy) this.machine.turn(id, TURN_CYCLES);
    }
    return false;
  }

  /** From now on everything is judged. */
  startJudging(): void {
    this.machine.setStepHook((cpu) => {
      this.judgedStep?.(cpu);
      this.onStep?.(this.machine.cpus[cpu.id] ?? fail(`no cpu ${cpu.id}`));
    });
    this.machine.entryHook = (cpu, kind) => {
      const real = this.machine.cpus[cpu.id] ?? fail(`no cpu ${cpu.id}`);
      this.judgedEntry?.(cpu, kind);
      this.onEntry?.(real, kind);
      if (kind === "guest") this.interruptGuest(real);
    };
  }

  /** Chooses what `cpu` does next. @returns why it cannot; undefined: it can */
  begin(index: number, operation: string, failure: number): string | undefined {
    const { memory } = this.machine;
    this.kernelSide.setSensitive(memory, false);
    this.kernelSide.failAllocation(memory, failure);
    this.interruptsGuest = undefined;
    if (operation === CONTINUE) return undefined;
    const number = this.operations.findIndex(({ name }) => name === operation);
    const chosen = this.operations[number]?.operation ?? fail(`the configuration has no operation ${operation}`);
    if (chosen.kind === "delivery") {
      this.deliver(this.machine.cpus[index] ?? fail(`no cpu ${index}`), operation);
      return undefined;
    }
    const state = this.userAddress(index, PUPPET_STATE);
    if (!this.atDecision.has(index) || state === undefined) return "no process decides there on this machine";
    const bytes = memory.bytes;
    const remembered = new ProcessMemory(new DataView(bytes.buffer, bytes.byteOffset + state, PAGE));
    if (chosen.isPossible?.(remembered, this.place(index)) === false) return "its process cannot do that there on this machine";
    const leave = guestLeaveOf(operation);
    if (leave !== undefined && !this.prepareGuest(index, chosen, leave)) return "the code of its guest is not in memory";
    this.kernelSide.choose(memory, index, number + 1);
    return undefined;
  }

  /** Lets the CPU run until its process decides again, it has nothing to do, or it waits for another CPU. */
  runEvent(index: number): void {
    const cpu = this.machine.cpus[index] ?? fail(`no cpu ${index}`);
    this.atDecision.delete(index);
    this.isStopped = false;
    for (let turns = 0; turns < EVENT_TURNS; turns++) {
      this.machine.turn(cpuId(index), TURN_CYCLES);
      // What interrupts a process at its decision is handled first.
      const stands = this.atDecision.has(index) && !cpu.hasPath && this.machine.inspection.isInUserMode(index);
      if (this.isStopped || stands || this.isIdle(index)) break;
    }
    this.kernelSide.choose(this.machine.memory, index, 0);
    this.kernelSide.setSensitive(this.machine.memory, false);
    this.kernelSide.failAllocation(this.machine.memory, 0);
  }

  /** Makes something come to `cpu` now. Handlers of sensitive ones read what restricted address spaces lack. */
  deliver(cpu: SimulatedCpu, what: string): void {
    this.kernelSide.setSensitive(this.machine.memory, what.includes("sensitive"));
    if (what.includes("nmi")) cpu.apic.send(cpu.now, 2, true);
    else if (what.includes("timer")) {
      if (Number.isFinite(cpu.apic.deadline)) cpu.now = Math.max(cpu.now, cpu.apic.deadline);
    } else if (what.includes("machine check")) {
      this.machine.injectMachineCheck(cpu.id, { errorCode: DATA_READ, address: 0, isRestartable: true });
    } else cpu.apic.send(cpu.now, IRQ_WORK_VECTOR, false);
  }

  /** The running event goes no further now; its path goes on from there at the next. */
  stop(): void {
    this.isStopped = true;
    this.machine.stop({ kind: "idle" });
  }

  private boot(puppeteer: Puppeteer, processes: number): void {
    const end = this.machine.run(BOOT_CYCLES);
    if (puppeteer.ready < processes) fail(`the processes never came to their first decision on the simulated machine: ${end.kind}`);
    puppeteer.hasStarted = true;
  }

  /** What the processes run: the prover's puppet, which stands still while nothing is chosen for its CPU. */
  private puppet(puppeteer: Puppeteer, processes: number): Puppet {
    const inner = proverPuppet(puppeteer);
    return (view) => {
      const { role, operation } = new ProcessMemory(view.state);
      const { id } = ambientCpu;
      if (role === "setting up" || operation !== 0 || !puppeteer.hasStarted) {
        const action = inner(view);
        if (!puppeteer.hasStarted && puppeteer.ready === processes) this.stop();
        return action;
      }
      if (this.arm(id)) return TRAIN;
      if (this.wanted !== undefined && (this.armed < processes || this.task(id) !== this.wanted[id])) return call(SYS.sched_yield);
      const chosen = this.kernelSide.takeChosen(this.machine.memory, id);
      this.kernelSide.choose(this.machine.memory, id, chosen);
      if (chosen !== 0) return inner(view);
      this.atDecision.add(id);
      this.machine.stop({ kind: "idle" });
      return TRAIN;
    };
  }

  /** The guest of the operation will leave as it says. @returns false: its code is not there */
  private prepareGuest(index: number, operation: Operation, leave: string): boolean {
    const { machine } = this;
    this.interruptsGuest = leave === "external interrupt" ? "irq" : leave === "NMI" ? "nmi" : undefined;
    const { address, bytes } = guestJump(operation.kind === "process" ? (operation.vm ?? 0) : 0, leave);
    const at = this.userAddress(index, address);
    if (at === undefined) return false;
    bytes.forEach((byte, i) => {
      machine.memory.write8(physAddr(at + i), byte);
    });
    machine.physicalWritten(at, bytes.length);
    return true;
  }

  /**
   * The text of the process on `cpu` trains predictors before each of its loads from now on, as the abstract machine supposes of all user
   * code. @returns false: it does already
   */
  private arm(index: number): boolean {
    const { memory } = this.machine;
    const text = this.userAddress(index, PUPPET_TEXT);
    const load = PUPPET_LOAD_OFFSET;
    if (text === undefined || memory.read8(physAddr(text + load)) === JUMP) return false;
    // At different addresses, so that the training of one does not take the place of another's.
    const training = TRAINING_OFFSET + this.armed * TRAINING_BYTES;
    const put = (offset: number, bytes: readonly number[]): void => {
      bytes.forEach((byte, i) => {
        memory.write8(physAddr(text + offset + i), byte);
      });
    };
    const after = training + TRAINING.length;
    put(training, [...TRAINING, ...LOAD_RAX_RDI, ...jump(after + LOAD_RAX_RDI.length, PUPPET_TRAP_OFFSET)]);
    put(load, jump(load, training));
    this.machine.physicalWritten(text, PAGE);
    this.armed++;
    return true;
  }

  private interruptGuest(cpu: SimulatedCpu): void {
    const what = this.interruptsGuest;
    this.interruptsGuest = undefined;
    if (what !== undefined) this.deliver(cpu, what);
  }

  private isIdle(index: number): boolean {
    const cpu = this.machine.cpus[index] ?? fail(`no cpu ${index}`);
    return !cpu.isOnline || (cpu.isAsleep && cpu.wakeTime > cpu.now);
  }

  private userAddress(index: number, address: number): number | undefined {
    const { view } = this.check.checker;
    const mm = view.loadedMm(this.truthOf(index));
    return mm === NULL ? undefined : peekTranslate(this.machine.memory, view.pgd(mm), address);
  }

  private place(index: number): Place {
    const online = this.machine.cpus.filter(({ isOnline }) => isOnline).map(({ id }) => id);
    return {
      cpu: index,
      online,
      parked: this.machine.cpus.map(({ id }) => id).filter((id) => !online.includes(id)),
      word: (address) => {
        const at = this.userAddress(index, address);
        return at === undefined ? 0 : this.machine.memory.readWord(physAddr(at));
      },
    };
  }
}
