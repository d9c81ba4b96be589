// Explores one KVM_RUN: the kernel boots on the abstract machine, a monitor makes a VM, and then its KVM_RUN is run again and again from
// the same snapshot, each time with an NMI or an interrupt (whose handler touches sensitive memory, or not) delivered before another of
// its steps, for every way in which the guest may leave. The properties are judged at every step of every run.

import { KVM_RUN, SYS } from "../../abi/index.ts";
import {
  assert,
  type CpuModel,
  cpu,
  EPT_VIOLATION_ACC_READ,
  EPT_VIOLATION_GVA_IS_VALID,
  fail,
  InvariantError,
  isSensitiveOwner,
  type Owner,
  PAGE_SIZE,
  PUPPET_SYSCALL_OFFSET,
  PUPPET_TEXT,
  silentObserver,
  type VirtAddr,
} from "../../hardware/index.ts";
import { buildKernelImage, IRQ_WORK_VECTOR, type Preset, TRACE_IRQ, TRACE_NMI, TRACE_WARN, WARNINGS } from "../../kernel/index.ts";
import {
  eptViolationExit,
  type GuestExit,
  hltExit,
  type Mark,
  outExit,
  type ResidueCpu,
  ResidueMachine,
  vmcallExit,
} from "../../residue/index.ts";
import { describeViolation, type PropertyName, type Violation } from "../properties/index.ts";
import { bystanderPuppet, monitorPuppet, twinMonitorPuppet } from "./check-puppets.ts";
import { type CheckedObserver, checkedObserver, ResidueCheck } from "./residue-truth.ts";

/** How the guest leaves first; after that it halts. */
export const GUEST_CHOICES = ["HLT", "VMCALL", "IO", "EPT violation", "external interrupt", "NMI"] as const;
export type GuestChoice = (typeof GUEST_CHOICES)[number];

/** What is delivered before a step; the end of the time slice makes the CPU another process's for a while. `sensitive`: the handler reads memory that is not mapped in restricted address spaces. */
export const INJECTIONS = ["NMI", "NMI, sensitive", "interrupt", "interrupt, sensitive", "end of the time slice"] as const;
export type Injection = (typeof INJECTIONS)[number];

export interface CheckConfig {
  readonly model: CpuModel;
  readonly preset: Preset;
  readonly commandLine: string;
  readonly choices?: readonly GuestChoice[];
  readonly injections?: readonly Injection[];
  /** Properties to judge; all when left out. */
  readonly properties?: ReadonlySet<PropertyName>;
  /** What the handlers of injected NMIs and interrupts do besides: for tests of the properties, which break something on purpose. */
  readonly handler?: () => void;
  /** Inject at every `stride`-th step; 1 when left out. */
  readonly stride?: number;
  /** The monitor has two VMs, which it runs one right after the other. */
  readonly hasTwins?: boolean;
  /** After each injection also a second one, an NMI, before each further step that the first one's handler added. */
  readonly isPaired?: boolean;
}

export interface CheckReport {
  /** Runs of KVM_RUN, one for each choice and injection point. */
  readonly runs: number;
  /** Steps of the undisturbed KVM_RUN, by how the guest leaves. */
  readonly steps: ReadonlyMap<GuestChoice, number>;
  /** Injections whose handler ran inside the event (a masked one may come at its end). */
  readonly injections: number;
  /** Steps at which the properties were judged. */
  readonly judged: number;
  /** First violation of each property for each choice and injection kind, and how often it was violated in all. */
  readonly violations: readonly FoundViolation[];
  readonly violationCounts: ReadonlyMap<PropertyName, number>;
  /** The kernel's own warnings, by text. */
  readonly warnings: ReadonlyMap<string, number>;
  /** How often the situations occurred that the properties are about. */
  readonly occurred: ReadonlyMap<string, number>;
}

export interface FoundViolation {
  readonly choice: GuestChoice;
  readonly injection: Injection | "none";
  /** Step of the event before which the injection was made, -1 for none. */
  readonly at: number;
  /** Step before which a second injection was made, an NMI; -1 for none. */
  readonly second: number;
  readonly violation: Violation;
}

const PUPPET_SYSCALL = PUPPET_TEXT + PUPPET_SYSCALL_OFFSET;
const RAX = 0;
const RSI = 6;
const MEMORY_BYTES = 48 * 1024 * 1024;
const DIRECT_MAP = -0x778000000000;
const SETUP_TURNS = 20_000;
const EVENT_TURNS = 200;
/** KVM_RUNs (of both monitors) before the one that is explored: the first launches the VMCS, makes pages present, and so on. */
const WARM_UP_RUNS = 4;

/** A booted system about to execute the KVM_RUN that is explored. */
export class KvmRunFixture {
  readonly machine: ResidueMachine;
  readonly check: ResidueCheck;
  readonly observer: CheckedObserver;
  readonly warnings = new Map<string, number>();
  /** Interrupts and NMIs whose handlers ran. */
  delivered = 0;
  private readonly start: Mark;
  private readonly checkerMark: number;
  /** Whether handlers touch sensitive memory in this run. */
  private isSensitive = false;
  private choice: GuestChoice = "HLT";
  private entries = 0;
  /** A sensitive page of another process, by its address in the direct map. */
  secret = 0 as VirtAddr;
  private readonly monitor: Owner;

  constructor(config: CheckConfig) {
    const touch = (): void => {
      if (this.isSensitive) cpu.load(this.secret, 4);
      config.handler?.();
    };
    const image = buildKernelImage({
      preset: config.preset,
      processes: [
        { name: "monitor", puppet: "monitor" },
        { name: "other monitor", puppet: "monitor" },
        { name: "bystander", puppet: "bystander" },
      ],
      puppets: new Map([
        ["monitor", config.hasTwins === true ? twinMonitorPuppet : monitorPuppet],
        ["bystander", bystanderPuppet],
      ]),
      hooks: { nmi: touch, irqWork: touch },
    });
    this.observer = checkedObserver({
      ...silentObserver,
      trace: (event, a) => {
        if (event === TRACE_WARN) this.count(WARNINGS[a] ?? String(a));
        if (event === TRACE_NMI || event === TRACE_IRQ) this.delivered++;
      },
    });
    this.machine = new ResidueMachine({
      model: config.model,
      memoryBytes: MEMORY_BYTES,
      cpus: 1,
      image,
      commandLine: config.commandLine,
      observer: this.observer,
    });
    this.check = new ResidueCheck(this.machine, this.observer, {
      isCollecting: true,
      ...(config.properties === undefined ? {} : { enabled: config.properties }),
    });
    this.machine.guest = () => this.nextExit();
    this.check.onEntry = (_cpu, kind) => {
      if (kind === "guest") this.guestEntered();
    };
    this.reachKvmRun(config.hasTwins === true);
    this.secret = this.findSecret();
    this.monitor = this.cpu.userLabel;
    this.machine.startTracking();
    this.start = this.machine.mark();
    this.checkerMark = this.check.checker.mark();
  }

  get cpu(): ResidueCpu {
    return this.machine.cpu(0);
  }

  /** Runs the KVM_RUN from the snapshot. `beforeStep` is called with the number of each of its steps. */
  run(choice: GuestChoice, isSensitive: boolean, beforeStep: (step: number) => void): void {
    const { machine, check } = this;
    machine.rewind(this.start);
    check.checker.rewind(this.checkerMark);
    this.choice = choice;
    this.isSensitive = isSensitive;
    this.entries = 0;
    let step = 0;
    check.onStep = () => beforeStep(step++);
    // The system call instruction, then the kernel until the monitor is back in user mode.
    machine.cpu(0).turn();
    const status = machine.run(() => this.cpu.state.activity === "user" && this.cpu.userLabel === this.monitor, EVENT_TURNS);
    check.onStep = undefined;
    assert(status === "done", () => `KVM_RUN did not come back: ${status}`);
  }

  /** Makes an interrupt or NMI pending now. */
  inject(injection: Injection): void {
    const target = this.cpu;
    if (injection.startsWith("NMI")) target.raiseNmi();
    else if (injection === "end of the time slice") target.skipToTimer();
    else target.raise(IRQ_WORK_VECTOR);
  }

  /** Walks the restricted tables as they are now (S5). */
  audit(): void {
    this.check.checker.auditMappings(this.check.truthOf(0));
  }

  private count(what: string): void {
    this.warnings.set(what, (this.warnings.get(what) ?? 0) + 1);
  }

  /** Before each entry: an interrupt that is to end the guest becomes pending now. */
  private guestEntered(): void {
    this.entries++;
    if (this.entries !== 1) return;
    if (this.choice === "external interrupt") this.cpu.raise(IRQ_WORK_VECTOR);
    if (this.choice === "NMI") this.cpu.raiseNmi();
  }

  private nextExit(): GuestExit {
    if (this.entries > 1) return hltExit();
    switch (this.choice) {
      case "VMCALL":
        return vmcallExit(1);
      case "IO":
        return outExit(0xe9, 0x41);
      case "EPT violation":
        return eptViolationExit(PAGE_SIZE * 3, EPT_VIOLATION_ACC_READ | EPT_VIOLATION_GVA_IS_VALID);
      case "HLT":
      case "external interrupt":
      case "NMI":
        return hltExit();
    }
  }

  /** Boots and goes on until the monitor is about to execute its next KVM_RUN. */
  private reachKvmRun(hasTwins: boolean): void {
    // With twins one more: the second one's run is explored, right behind the first one's.
    const warmUp = WARM_UP_RUNS + (hasTwins ? 1 : 0);
    let runs = 0;
    let before = 0;
    const isDone = (): boolean => {
      if (this.entries > before) {
        before = this.entries;
        runs++;
      }
      return runs >= warmUp && this.isAtKvmRun();
    };
    const status = this.machine.run(isDone, SETUP_TURNS);
    const first = this.check.checker.violations.at(0);
    const why = first === undefined ? status : describeViolation(first);
    assert(status === "done", () => `the monitor never came to its KVM_RUN: ${why}`);
  }

  private isAtKvmRun(): boolean {
    const { state } = this.cpu;
    return (
      state.activity === "user" && state.rip === PUPPET_SYSCALL && state.register(RAX) === SYS.ioctl && state.register(RSI) === KVM_RUN
    );
  }

  /** A page of sensitive data, by its address in the direct map: the bystander's. */
  private findSecret(): VirtAddr {
    const { memory } = this.machine;
    for (let pfn = memory.size / PAGE_SIZE - 1; pfn > 0; pfn--) {
      if (isSensitiveOwner(memory.frameOwner(pfn))) return (DIRECT_MAP + pfn * PAGE_SIZE) as VirtAddr;
    }
    return fail("no frame is sensitive");
  }
}

/** Runs the exploration. */
export function checkKvmRun(config: CheckConfig): CheckReport {
  const fixture = new KvmRunFixture(config);
  const { checker } = fixture.check;
  const steps = new Map<GuestChoice, number>();
  const found: FoundViolation[] = [];
  const violationCounts = new Map<PropertyName, number>();
  let runs = 0;
  let injections = 0;
  let judged = 0;

  // A kernel that stops (an oops, a triple fault, an access that faults for ever) has not made progress.
  const runOnce = (choice: GuestChoice, isSensitive: boolean, beforeStep: (step: number) => void): void => {
    runs++;
    try {
      fixture.run(choice, isSensitive, beforeStep);
    } catch (error) {
      if (!(error instanceof InvariantError)) throw error;
      checker.violations.push({ property: "S6", cpu: 0, step: fixture.cpu.steps, structure: "kernel", owner: "", detail: error.message });
    }
  };

  const collect = (choice: GuestChoice, injection: Injection | "none", at: number, second: number): void => {
    for (const violation of checker.violations) {
      violationCounts.set(violation.property, (violationCounts.get(violation.property) ?? 0) + 1);
      const isKnown = found.some((f) => f.choice === choice && f.injection === injection && f.violation.property === violation.property);
      if (!isKnown) found.push({ choice, injection, at, second, violation });
    }
  };

  /** One run with an injection before step `at`, and perhaps an NMI before step `second`. @returns its length in steps */
  const injected = (choice: GuestChoice, injection: Injection, at: number, second: number): number => {
    const before = fixture.delivered;
    let length = 0;
    runOnce(choice, injection.endsWith("sensitive"), (step) => {
      length = step + 1;
      if (step === at) fixture.inject(injection);
      if (step === second) fixture.inject("NMI");
    });
    judged += length;
    if (fixture.delivered > before) injections++;
    collect(choice, injection, at, second);
    return length;
  };

  const stride = config.stride ?? 1;
  for (const choice of config.choices ?? GUEST_CHOICES) {
    let length = 0;
    runOnce(choice, false, (step) => {
      length = step + 1;
    });
    steps.set(choice, length);
    judged += length;
    fixture.audit();
    collect(choice, "none", -1, -1);
    for (const injection of config.injections ?? INJECTIONS) {
      for (let at = 0; at < length; at += stride) {
        const longer = injected(choice, injection, at, -1);
        if (config.isPaired !== true) continue;
        for (let second = at + 1; second <= at + longer - length; second++) injected(choice, injection, at, second);
      }
    }
  }
  return { runs, steps, injections, judged, violations: found, violationCounts, warnings: fixture.warnings, occurred: checker.occurred };
}
