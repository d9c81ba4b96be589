// A configuration on the abstract machine: a booted kernel whose processes have set up what they need, and which then do one operation at a
// time, when the explorer says so. Between events every CPU is at an edge: its process is about to decide, it is halted or parked, it runs a
// guest that nothing ends, or its kernel path is suspended.
import { assert, fail, type PhysAddr, PUPPET_STATE, PUPPET_TEXT, PUPPET_TRAP_OFFSET, silentObserver } from "../../hardware/index.ts";
import { buildKernelImage, FailAlloc, failAllocState, TRACE_WARN, WARNINGS } from "../../kernel/index.ts";
import { type ResidueCpu, ResidueMachine } from "../../residue/index.ts";
import { type CheckedObserver, checkedObserver, ResidueCheck } from "../check/index.ts";
import { describeViolation } from "../properties/index.ts";
import { CanonicalNumbers } from "./canonical-numbers.ts";
import { type Configuration, kernelCommandLine } from "./configuration.ts";
import { KernelSide } from "./kernel-side.ts";
import type { Operation, Place } from "./operation.ts";
import { CONTINUE, keepsTranslations, type NamedOperation, needsVdso, operationNames, operationsOf, setupOf } from "./operations.ts";
import { ProcessMemory } from "./process-memory.ts";
import { guestExit, type Puppeteer, proverPuppet } from "./puppet.ts";

/** What begins: an operation by name, or CONTINUE. */
export interface EventChoice {
  readonly cpu: number;
  readonly operation: string;
}

/** stuck: it does not come to an edge; stopped: somebody who looked at its steps wanted no more of it. */
export type EventEnd = "edge" | "stuck" | "stopped";

const PUPPET_NAME = "prover";
const DECISION = PUPPET_TEXT + PUPPET_TRAP_OFFSET;
const PAGE = 4096;
const BOOT_TURNS = 300_000;
/** Turns that an event may take: the longest (a suspend) takes a few hundred. */
const EVENT_TURNS = 5000;

export class System {
  readonly configuration: Configuration;
  readonly machine: ResidueMachine;
  readonly check: ResidueCheck;
  readonly observer: CheckedObserver;
  /** The first warning of the kernel since it was last asked. */
  warning: string | undefined;
  /** Hears the kernel's trace events. */
  onTrace: ((event: number, a: number, b: number, c: number) => void) | undefined;
  /** CONTINUE, then the configuration's operations: what an explorer's numbers stand for. */
  readonly names: readonly string[];
  /** States are not told apart by which translations are cached. */
  readonly ignoresTranslations: boolean;
  private readonly operations: readonly NamedOperation[];
  private readonly byName: ReadonlyMap<string, { readonly operation: Operation; readonly number: number }>;
  private readonly kernelSide = new KernelSide();
  private readonly failAt: PhysAddr;
  private isStopped = false;
  private readonly numbers: CanonicalNumbers;

  constructor(configuration: Configuration) {
    this.configuration = configuration;
    this.operations = operationsOf(configuration);
    this.names = operationNames(configuration);
    this.byName = new Map(this.operations.map(({ name, operation }, i) => [name, { operation, number: i + 1 }]));
    this.observer = checkedObserver({
      ...silentObserver,
      trace: (event, a, b, c) => {
        if (event === TRACE_WARN) this.warning ??= WARNINGS[a] ?? `number ${a}`;
        this.onTrace?.(event, a, b, c);
      },
    });
    const puppeteer: Puppeteer = {
      ready: 0,
      hasStarted: false,
      setup: setupOf(this.operations, configuration.vms, configuration.vcpus),
      operations: this.operations,
      chosen: (cpu) => this.kernelSide.takeChosen(this.machine.memory, cpu),
      place: (cpu) => this.place(cpu),
    };
    const hasVdso32 = needsVdso(this.operations);
    const names = Array.from({ length: configuration.processes }, (_, i) => `process-${i}`);
    this.machine = new ResidueMachine({
      model: configuration.model,
      memoryBytes: configuration.memoryMegabytes * 2 ** 20,
      cpus: configuration.cpus,
      image: buildKernelImage({
        preset: configuration.preset,
        processes: names.map((name, i) => ({ name, puppet: PUPPET_NAME, cpu: i % configuration.cpus, hasVdso32 })),
        puppets: new Map([[PUPPET_NAME, proverPuppet(puppeteer)]]),
        hooks: this.kernelSide.hooks,
        lateInitcall: this.kernelSide.lateInitcall,
      }),
      commandLine: kernelCommandLine(configuration),
      observer: this.observer,
    });
    this.check = new ResidueCheck(this.machine, this.observer, { isCollecting: true, enabled: new Set(configuration.properties) });
    this.machine.guest = (cpu) => this.guestLeaves(this.machine.cpu(cpu));
    this.numbers = new CanonicalNumbers(this.machine, this.check.checker.view, this.check.truth);
    this.failAt = this.check.checker.view.physical(failAllocState) as PhysAddr; // static data
    this.boot(puppeteer);
    this.machine.freezeTime();
    this.ignoresTranslations = configuration.operations.every(keepsTranslations);
    if (this.ignoresTranslations) this.machine.ignoreCachedTranslations();
    this.machine.startTracking();
    this.check.checker.forgetOccurrences();
  }

  /** What can begin at the present edge, in a fixed order. */
  choices(): readonly EventChoice[] {
    const choices: EventChoice[] = [];
    for (const cpu of this.machine.cpus) {
      if (cpu.state.activity === "parked") continue;
      if (this.isSuspended(cpu) || (cpu.canRun && this.hasPending(cpu))) {
        choices.push({ cpu: cpu.id, operation: CONTINUE });
        continue;
      }
      const memory = this.deciding(cpu);
      for (const { name, operation } of this.operations) {
        if (this.isPossible(cpu, memory, operation)) choices.push({ cpu: cpu.id, operation: name });
      }
    }
    return choices;
  }

  /** The CPU will do that. */
  begin({ cpu, operation }: EventChoice): void {
    this.isStopped = false;
    this.kernelSide.setSensitive(this.machine.memory, false);
    if (operation === CONTINUE) return;
    const chosen = this.byName.get(operation) ?? fail(`the configuration has no operation ${operation}`);
    if (chosen.operation.kind === "delivery") {
      this.kernelSide.setSensitive(this.machine.memory, chosen.operation.isSensitive);
      chosen.operation.deliver(this.machine.cpu(cpu));
    } else {
      this.kernelSide.choose(this.machine.memory, cpu, chosen.number);
    }
  }

  /**
   * Lets the chosen CPU run until it is at an edge. Also goes on with an event in whose middle the machine was taken back to a mark; what has
   * begun must not begin again then.
   */
  runEvent({ cpu: index }: EventChoice): EventEnd {
    const cpu = this.machine.cpu(index);
    for (let turns = 0; turns < EVENT_TURNS; turns++) {
      const { path, state } = cpu;
      const wasInKernel = state.activity === "kernel";
      this.machine.turn(index);
      if (this.isStopped) {
        this.isStopped = false;
        return "stopped";
      }
      const hasGivenUp = wasInKernel && cpu.path === path && this.isSuspended(cpu);
      if (hasGivenUp || this.isAtEdge(cpu)) {
        this.endEvent(cpu);
        return "edge";
      }
    }
    return "stuck";
  }

  /** For a hook of the steps: the event goes no further. Throws; the machine is to be taken back to a mark. */
  stop(cpu: ResidueCpu): never {
    this.isStopped = true;
    return cpu.abandon();
  }

  /** Whether handlers that are delivered from now on read memory that restricted address spaces lack. The beginning of an event says no. */
  setSensitive(isSensitive: boolean): void {
    this.kernelSide.setSensitive(this.machine.memory, isSensitive);
  }

  /** The `nth` attempt from now on to allocate memory fails (1: the next); 0: none. The end of an event says none. */
  failAllocation(nth: number): void {
    this.kernelSide.failAllocation(this.machine.memory, nth);
  }

  /** Allocations that failAllocation() made fail. */
  get failedAllocations(): number {
    return this.machine.memory.read32((this.failAt + FailAlloc.offset.failed) as PhysAddr); // a field of a static object
  }

  /** Another CPU could have its turn while the path of this one is suspended. */
  canSwitch(cpu: ResidueCpu): boolean {
    return this.machine.cpus.some((other) => other !== cpu && other.state.activity !== "parked");
  }

  /** Walks all restricted tables as they are now (S5); what is wrong there is a violation. */
  audit(): void {
    this.check.checker.auditMappings(this.check.truthOf(0));
  }

  /** Its kernel path was suspended, or waits for another CPU. */
  private isSuspended({ state }: ResidueCpu): boolean {
    return state.activity === "kernel" && !state.isHalted && !state.isInGuest;
  }

  /** Something would be delivered before anything else. */
  private hasPending(cpu: ResidueCpu): boolean {
    return cpu.state.activity === "kernel" || cpu.isDeliverable;
  }

  private isAtEdge(cpu: ResidueCpu): boolean {
    const { state } = cpu;
    if (state.activity === "parked") return true;
    if (state.activity === "kernel") return !this.isSuspended(cpu) && !cpu.canRun;
    return this.deciding(cpu) !== undefined;
  }

  /** The memory of the process that decides next on this CPU; undefined: none does. */
  private deciding(cpu: ResidueCpu): ProcessMemory | undefined {
    if (cpu.state.activity !== "user" || cpu.state.rip !== DECISION) return undefined;
    const memory = this.memoryOf(cpu);
    if (memory === undefined || memory.operation !== 0) return undefined;
    return memory.role === "main" || memory.role === "child" ? memory : undefined;
  }

  private memoryOf(cpu: ResidueCpu): ProcessMemory | undefined {
    const at = this.userAddress(cpu, PUPPET_STATE);
    if (at === undefined) return undefined;
    const { bytes } = this.machine.memory;
    return new ProcessMemory(new DataView(bytes.buffer, bytes.byteOffset + at, PAGE));
  }

  private userAddress(cpu: ResidueCpu, address: number): PhysAddr | undefined {
    const { view } = this.check.checker;
    const mm = view.loadedMm(this.check.truthOf(cpu.id));
    return mm === 0 ? undefined : cpu.mmu.peek(address, view.pgd(mm));
  }

  private isPossible(cpu: ResidueCpu, memory: ProcessMemory | undefined, operation: Operation): boolean {
    if (operation.kind === "delivery") return operation.isPossible?.(cpu) ?? true;
    return memory !== undefined && (operation.isPossible?.(memory, this.place(cpu.id)) ?? true);
  }

  private place(index: number): Place {
    const cpu = this.machine.cpu(index);
    return {
      cpu: index,
      online: this.machine.cpus.filter(({ state }) => state.activity !== "parked").map(({ id }) => id),
      parked: this.machine.cpus.filter(({ state }) => state.activity === "parked").map(({ id }) => id),
      word: (address) => {
        const at = this.userAddress(cpu, address);
        return at === undefined ? 0 : this.machine.memory.readWord(at);
      },
    };
  }

  /** How the guest on `cpu` leaves: as the operation of the process says whose vCPU it is. */
  private guestLeaves(cpu: ResidueCpu): ReturnType<typeof guestExit> {
    const at = this.userAddress(cpu, PUPPET_STATE) ?? fail(`cpu ${cpu.id} runs a guest of no process`);
    return guestExit(this.machine.memory, at, cpu, this.operations);
  }

  /** What was for this event alone is forgotten. */
  private endEvent(cpu: ResidueCpu): void {
    const { memory } = this.machine;
    this.kernelSide.choose(memory, cpu.id, 0);
    this.kernelSide.setSensitive(memory, false);
    this.failAllocation(0);
    if (cpu.state.activity === "user") cpu.state.forgetScratch();
    if (!this.machine.cpus.some((one) => this.isSuspended(one))) this.numbers.apply();
  }

  /** Boots, lets every process set up what it needs, and takes each CPU to its edge. */
  private boot(puppeteer: Puppeteer): void {
    const { machine } = this;
    const isReady = (): boolean => puppeteer.ready === this.configuration.processes;
    const status = machine.run(isReady, BOOT_TURNS);
    const first = this.check.checker.violations.at(0);
    const why = first === undefined ? status : describeViolation(first);
    assert(status === "done", () => `the processes never came to their first decision: ${why}`);
    puppeteer.hasStarted = true;
    for (let turns = 0; !machine.cpus.every((cpu) => this.isAtEdge(cpu)); turns++) {
      assert(turns < BOOT_TURNS, () => "the CPUs never came to their edges");
      for (const cpu of machine.cpus) if (!this.isAtEdge(cpu)) machine.turn(cpu.id);
    }
    for (const cpu of machine.cpus) this.endEvent(cpu);
  }
}
