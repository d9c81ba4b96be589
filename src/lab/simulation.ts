// A booted kernel with its processes on the simulated machine, and the observers of a run. Everything that the experiments here do
// begins with one of these.
import { type CpuModel, cpu, type Observer, silentObserver } from "../hardware/index.ts";
import {
  allocationSite,
  buildKernelImage,
  currentTask,
  type KernelHooks,
  type Preset,
  type ProcessConfig,
  TaskStruct,
  TRACE_BOOT_DONE,
  TRACE_PROCESS_EXIT,
  TRACE_PROCESS_FORK,
  TRACE_PROCESS_NOT_STARTED,
} from "../kernel/index.ts";
import { type Gear, type RunResult, SimulatedMachine } from "../machine/index.ts";
import { VICTIM_PUPPET, VMM_PUPPET, type VmmEnding, victim, vmmPuppet } from "../vmm/index.ts";
import { AddressBook, currentTaskText } from "./address-book.ts";
import { checkedObserver, SimulatedCheck } from "./check/index.ts";
import { Ledger } from "./ledger.ts";
import { describeViolation, KernelView } from "./properties/index.ts";

export interface SimulationOptions {
  readonly model: CpuModel;
  readonly cpus: number;
  readonly gear: Gear;
  /** Host RAM in bytes. */
  readonly memoryBytes: number;
  readonly commandLine: string;
  readonly preset: Preset;
  readonly processes: readonly ProcessConfig[];
  /** Runs in the kernel at the end of its boot. */
  readonly lateInitcall?: () => void;
  readonly hooks?: KernelHooks;
  /** Evaluates S1 to S10 before every step of the kernel and every entry to user code or a guest. */
  readonly check?: boolean;
  /** Console output of the processes, byte by byte. */
  readonly console?: (byte: number, port: number) => void;
  /** The initial RAM disk: files of the RAM file system (cpio.ts). */
  readonly initrd?: Uint8Array;
  /** Lines of the kernel log. */
  readonly log?: (line: string) => void;
  /** Sees every trace event, after the ledger. */
  readonly watch?: (event: number, a: number, b: number, c: number) => void;
}

/** Host RAM that the kernel itself wants beside its guests. */
export const HOST_MEMORY_BYTES = 128 * 2 ** 20;

export class Simulation {
  readonly machine: SimulatedMachine;
  readonly ledger: Ledger;
  /** How each monitor said that its guest ended, by the monitor's pid. */
  readonly endings = new Map<number, VmmEnding>();
  /** The first process that the kernel could not start, and why (an error number); undefined if all were. */
  notStarted: { readonly name: string; readonly error: number } | undefined;
  /** Simulated cycles at the end of the kernel's boot; undefined before. */
  bootCycles: number | undefined;
  private readonly check: SimulatedCheck | undefined;
  /** Exit status of each process that ended, by pid. */
  readonly exited = new Map<number, number>();
  private readonly view: KernelView;
  /** Of each task that was forked: the process of the configuration that it descends from. */
  private readonly families = new Map<number, number>();
  private waitingFor: readonly number[] = [];

  constructor(options: SimulationOptions) {
    const image = buildKernelImage({
      preset: options.preset,
      processes: options.processes,
      ...(options.lateInitcall === undefined ? {} : { lateInitcall: options.lateInitcall }),
      ...(options.hooks === undefined ? {} : { hooks: options.hooks }),
      puppets: new Map([
        [
          VMM_PUPPET,
          vmmPuppet((ending) => {
            this.endings.set(this.currentPid, ending);
          }),
        ],
        [VICTIM_PUPPET, victim],
      ]),
    });
    const book = new AddressBook();
    this.ledger = new Ledger({
      explain: (address) => book.explain(this.machine, address),
      currentTask: () => currentTaskText(this.view),
    });
    const observer = checkedObserver(this.observer(options, book));
    this.machine = new SimulatedMachine({
      model: options.model,
      memoryBytes: options.memoryBytes,
      cpus: options.cpus,
      gear: options.gear,
      image,
      commandLine: options.commandLine,
      observer,
      console: options.console ?? (() => undefined),
      ...(options.initrd === undefined ? {} : { initrd: options.initrd }),
    });
    this.view = new KernelView(this.machine.memory);
    this.check = options.check === true ? new SimulatedCheck(this.machine, observer, { isCollecting: true }) : undefined;
  }

  /** Violations of the safety properties so far, in words, with how often each was found; undefined when nothing is checked. */
  get violations(): readonly (readonly [string, number])[] | undefined {
    if (this.check === undefined) return undefined;
    const counts = new Map<string, number>();
    for (const violation of this.check.checker.violations) {
      const text = describeViolation(violation);
      counts.set(text, (counts.get(text) ?? 0) + 1);
    }
    return [...counts];
  }

  /** Pid of the task that the running CPU executes. For observers, inside their calls. */
  get currentPid(): number {
    return this.view.u32(this.view.word(cpu.perCpuBase + currentTask.offset) + TaskStruct.offset.pid);
  }

  /** Pid of the configured process that the running task is, or descends from. For observers, inside their calls. */
  get currentFamily(): number {
    const pid = this.currentPid;
    return this.families.get(pid) ?? pid;
  }

  /** Runs until all of `pids` have exited, the cycle limit is reached, or nothing can go on. The status is that of the last to exit. */
  runUntilExit(pids: readonly number[], limit: number): RunResult {
    this.waitingFor = pids;
    if (this.hasEnded()) return { kind: "exit", status: this.exited.get(pids.at(-1) ?? 0) ?? 0 };
    return this.machine.run(limit);
  }

  private hasEnded(): boolean {
    return this.waitingFor.every((pid) => this.exited.has(pid));
  }

  private observer(options: SimulationOptions, book: AddressBook): Observer {
    return {
      ...silentObserver,
      trace: (event, a, b, c) => {
        this.ledger.trace(event, a, b, c);
        if (event === TRACE_PROCESS_EXIT) this.onExit(a, b);
        else if (event === TRACE_PROCESS_FORK) this.families.set(b, this.families.get(a) ?? a);
        else if (event === TRACE_PROCESS_NOT_STARTED) this.onNotStarted(options.processes[a], b);
        else if (event === TRACE_BOOT_DONE) this.bootCycles = this.machine.now;
        options.watch?.(event, a, b, c);
      },
      allocated: (kind, address, bytes) => book.allocated(kind, address, bytes, allocationSite()),
      freed: (kind, address, bytes) => book.freed(kind, address, bytes),
      print: (text) => options.log?.(text),
    };
  }

  /** The pids of the others would not be what a run expects: it ends here. */
  private onNotStarted(process: ProcessConfig | undefined, error: number): void {
    this.notStarted ??= { name: process?.name ?? "", error };
    this.machine.stop({ kind: "idle" });
  }

  private onExit(pid: number, status: number): void {
    this.exited.set(pid, status);
    if (this.waitingFor.includes(pid) && this.hasEnded()) this.machine.stop({ kind: "exit", status });
  }
}
