// One episode of the soak: a kernel boots on the abstract machine, its processes do what the script says, everything goes on until they
// have ended, and what is then allocated is what was allocated before. S1 to S10 are judged at every step on the way.
import { EINTR, ENOSYS } from "../../abi/index.ts";
import {
  assert,
  cpu,
  fail,
  findCpuModel,
  isSensitiveOwner,
  type KernelImage,
  PAGE_SIZE,
  type PhysAddr,
  type Puppet,
  type PuppetAction,
  silentObserver,
  type VirtAddr,
} from "../../hardware/index.ts";
import {
  buildKernelImage,
  FAIL_ONCE,
  FailAlloc,
  failAllocState,
  IRQ_WORK_VECTOR,
  idleTaskExit,
  staticBytes,
  TRACE_IRQ,
  TRACE_NMI,
  TRACE_PAGE_FAULT,
  TRACE_PROCESS_EXIT,
  TRACE_SYSCALL,
  TRACE_VM_EXIT,
  TRACE_WARN,
  unlinkPath,
  WARNINGS,
} from "../../kernel/index.ts";
import { hltExit, type ResidueCpu, ResidueMachine } from "../../residue/index.ts";
import { checkedObserver, ResidueCheck } from "../check/index.ts";
import { type Census, censusDifference } from "../properties/index.ts";
import { signatureOf } from "../signature.ts";
import { call, FILES, NR } from "./actions.ts";
import { ALL_ACTIONS } from "./generator.ts";
import { GUEST_EXITS } from "./guest-actions.ts";
import { ProcessState } from "./process-state.ts";
import type { EpisodeConfig, Item, Script } from "./script.ts";

const DIRECT_MAP = -0x778000000000;
/** Events between two walks of all tables. */
const AUDIT_EVENTS = 4000;
/** Turns that one item may take before the episode counts as stuck. */
const TURNS_PER_ITEM = 3000;
const LEAST_TURNS = 200_000;

/** What the handlers of injected interrupts and NMIs read: an address of sensitive memory, or 0. */
const handlerSecret = staticBytes("soak_handler_secret", 8, 8);

/** Events that are counted: entries to the kernel. */
const EVENTS = new Set([TRACE_SYSCALL, TRACE_PAGE_FAULT, TRACE_IRQ, TRACE_NMI, TRACE_VM_EXIT]);

/** What an episode can end with other than well. */
export interface EpisodeFailure {
  /** The same for the same fault: the property, or the message without its numbers. */
  readonly signature: string;
  readonly message: string;
  /** Kernel functions that were running, innermost first. */
  readonly callers: readonly string[];
}

export interface EpisodeResult {
  readonly events: number;
  /** By the number of the trace event, and by action. */
  readonly counts: ReadonlyMap<string, number>;
  /** How often the situations came up that the properties are about. */
  readonly occurred: ReadonlyMap<string, number>;
  readonly steps: number;
  readonly failure: EpisodeFailure | undefined;
  /** What each item of each process came to, in the order in which they ended; only where they were asked for. */
  readonly outcomes: readonly Outcome[];
  /** Allocations that were made to fail, of the last item that asked for one. */
  readonly failedAllocations: number;
}

export interface Outcome {
  readonly item: Item;
  /** Result of its last system call or access. */
  readonly result: number;
  /** Kernel steps of its CPU since it was begun; counted only where an injection was asked for, be it an empty list. */
  readonly steps: number;
}

export interface EpisodeOptions {
  /** Keep the outcomes of items. */
  readonly keepsOutcomes?: boolean;
  /** Name the kernel functions that asked for what was leaked. */
  readonly keepsSites?: boolean;
}

interface Pending {
  item: Item | undefined;
  steps: number;
}

const MOST_CALLERS = 12;
const MOST_SIGNATURE = 160;

function callersOf(error: Error): readonly string[] {
  const names = [...(error.stack ?? "").matchAll(/at (?:new )?(?:[\w$]+\.)?([\w$]+) .*[/\\]kernel[/\\]/g)].map((match) => match[1] ?? "?");
  return names.slice(0, MOST_CALLERS);
}

class Episode {
  readonly machine: ResidueMachine;
  readonly check: ResidueCheck;
  events = 0;
  readonly counts = new Map<string, number>();
  warning: string | undefined;
  readonly outcomes: Outcome[] = [];
  private readonly queues = new Map<number, Item[]>();
  /** Items that were begun, by slot. */
  private readonly positions = new Map<number, number>();
  private readonly pending: Pending[];
  private readonly exits: number[];
  private secretFrame = 0;
  private readonly keepsOutcomes: boolean;
  private mayBeDone = false;
  private nextAudit = AUDIT_EVENTS;
  private readonly failAt: PhysAddr;
  private readonly secretAt: PhysAddr;

  constructor(script: Script, options: EpisodeOptions = {}) {
    const { config } = script;
    this.keepsOutcomes = options.keepsOutcomes ?? false;
    for (const item of script.items) {
      const queue = this.queues.get(item.slot);
      if (queue === undefined) this.queues.set(item.slot, [item]);
      else queue.push(item);
    }
    this.pending = Array.from({ length: config.cpus }, () => ({ item: undefined, steps: 0 }));
    this.exits = new Array<number>(config.cpus).fill(0);
    const observer = checkedObserver({ ...silentObserver, trace: (event, a) => this.traced(event, a) });
    this.machine = new ResidueMachine({
      model: findCpuModel(config.model) ?? fail(`no CPU model ${config.model}`),
      memoryBytes: config.memoryMegabytes * 2 ** 20,
      cpus: config.cpus,
      threadsPerCore: config.hasSiblings === true ? 2 : 1,
      image: this.image(config),
      commandLine: config.commandLine,
      observer,
    });
    this.check = new ResidueCheck(this.machine, observer, { keepsSites: options.keepsSites ?? false });
    this.check.onStep = (on) => this.step(on);
    this.machine.guest = (on) => {
      const way = this.exits[on] ?? 0;
      this.exits[on] = 0;
      return way === 0 ? hltExit() : GUEST_EXITS[way % GUEST_EXITS.length];
    };
    this.secretAt = this.check.checker.view.physical(handlerSecret) as PhysAddr;
    this.failAt = this.check.checker.view.physical(failAllocState) as PhysAddr;
  }

  /** Runs until every process has ended and the kernel is quiet. */
  run(items: number): void {
    const { machine, check } = this;
    const limit = Math.max(LEAST_TURNS, items * TURNS_PER_ITEM);
    const status = machine.run(() => this.isOver(), limit);
    assert(status !== "limit", () => `stuck: ${limit} turns and processes are still there`);
    assert(status !== "idle" || check.checker.view.userTasks() === 0, () => "stuck: everything sleeps and processes are still there");
    this.disarm();
    // The idle tasks bury the dead.
    machine.run(() => machine.cpus.every((one) => !one.canRun), LEAST_TURNS);
    machine.cpu(0).runAside(() => {
      for (const path of FILES) unlinkPath(path);
    });
    // ... and hold the last mm that ran on their CPU.
    for (const one of machine.cpus) one.runAside(idleTaskExit);
    check.checker.auditMappings(check.truthOf(0));
  }

  census(): Census {
    return this.check.checker.census();
  }

  private image(config: EpisodeConfig): KernelImage {
    // By a step, so that a handler that was suspended does the same when it is run again.
    const touch = (): void => {
      const secret = cpu.loadWord(handlerSecret);
      if (secret !== 0) cpu.load(secret as VirtAddr, 4);
    };
    const names = Array.from({ length: config.processes }, (_, i) => `soak-${i}`);
    return buildKernelImage({
      preset: config.preset,
      processes: names.map((name, i) => ({ name, puppet: name, cpu: i % config.cpus })),
      puppets: new Map(names.map((name, i) => [name, this.puppet(i)])),
      hooks: { nmi: touch, irqWork: touch },
    });
  }

  /** The process that begins in slot `first`; its children are the same function with other slots. */
  private puppet(first: number): Puppet {
    return (view): PuppetAction => {
      const state = new ProcessState(view.state);
      return this.supervise(state, first, view.result) ?? this.work(state, first, view.result);
    };
  }

  /** A process that the kernel started keeps a worker alive as long as there are items for it; undefined: this is the worker. */
  private supervise(state: ProcessState, slot: number, result: number): PuppetAction | undefined {
    switch (state.role) {
      case "worker":
        return undefined;
      case "forking":
        if (result === 0 || result === ENOSYS) {
          state.begin(slot);
          return undefined;
        }
        state.role = result > 0 ? "waiting" : "new";
        return result > 0 ? call(NR.wait4, result, 0, 0, 0) : call(NR.sched_yield);
      case "waiting":
        // A signal may have cut the wait short.
        if (result === EINTR) return call(NR.wait4, -1, 0, 0, 0);
        break;
      case "new":
        break;
    }
    if ((this.positions.get(slot) ?? 0) >= (this.queues.get(slot)?.length ?? 0)) return call(NR.exit_group, 0);
    state.role = "forking";
    return call(NR.fork);
  }

  private work(state: ProcessState, first: number, result: number): PuppetAction {
    for (;;) {
      const slot = state.slot ?? first;
      const position = this.positions.get(slot) ?? 0;
      const item = this.queues.get(slot)?.[state.part > 0 ? state.item : position];
      if (item === undefined) return call(NR.exit_group, 0);
      const kind = ALL_ACTIONS.get(item.action) ?? fail(`no action ${item.action}`);
      const turn = {
        state,
        args: item.args,
        result,
        chooseExit: (way: number) => {
          this.exits[cpu.id] = way;
        },
      };
      if (state.part === 0) {
        // From here on it is done, even if the process dies of it.
        this.positions.set(slot, position + 1);
        state.item = position;
        this.begin(item);
      }
      const part = kind.parts[state.part];
      if (part === undefined) {
        state.part = 0;
        kind.finish?.(turn);
        if (this.keepsOutcomes) this.outcomes.push({ item, result, steps: this.pending[cpu.id]?.steps ?? 0 });
        continue;
      }
      state.part++;
      const action = part(turn);
      if (action !== undefined) return action;
    }
  }

  /** The process on the ambient CPU begins an item. */
  private begin(item: Item): void {
    const pending = this.pending[cpu.id];
    if (pending !== undefined) {
      pending.item = item.inject === undefined ? undefined : item;
      pending.steps = 0;
    }
    this.pokeFailure(FailAlloc.offset.remaining, item.fail ?? 0);
    this.pokeFailure(FailAlloc.offset.mode, FAIL_ONCE);
    if (item.fail !== undefined) this.pokeFailure(FailAlloc.offset.failed, 0);
    this.count(item.action);
  }

  private pokeFailure(offset: number, value: number): void {
    this.machine.memory.write32((this.failAt + offset) as PhysAddr, value);
  }

  /** Allocations of the last item that asked for it which were made to fail. */
  get failedAllocations(): number {
    return this.machine.memory.read32((this.failAt + FailAlloc.offset.failed) as PhysAddr);
  }

  private disarm(): void {
    this.pokeFailure(FailAlloc.offset.remaining, 0);
    for (const pending of this.pending) pending.item = undefined;
  }

  private step(on: ResidueCpu): void {
    const pending = this.pending[on.id];
    const item = pending?.item;
    if (pending === undefined || item === undefined) return;
    const at = pending.steps++;
    for (const injected of item.inject ?? []) if (injected.at === at) this.inject(on, injected.kind);
  }

  private inject(on: ResidueCpu, kind: string): void {
    const isHandler = kind.startsWith("nmi") || kind.startsWith("irq");
    if (isHandler) this.machine.memory.writeWord(this.secretAt, kind.endsWith("sensitive") ? this.findSecret() : 0);
    this.count(`inject ${kind}`);
    if (kind.startsWith("nmi")) on.raiseNmi();
    else if (kind.startsWith("irq")) on.raise(IRQ_WORK_VECTOR);
    else if (kind === "timer") on.skipToTimer();
    else on.suspendAtNextStep();
  }

  /** A page of sensitive data, by its address in the direct map. */
  private findSecret(): number {
    const { memory } = this.machine;
    if (isSensitiveOwner(memory.frameOwner(this.secretFrame))) return DIRECT_MAP + this.secretFrame * PAGE_SIZE;
    for (let pfn = memory.size / PAGE_SIZE - 1; pfn > 0; pfn--) {
      if (!isSensitiveOwner(memory.frameOwner(pfn))) continue;
      this.secretFrame = pfn;
      return DIRECT_MAP + pfn * PAGE_SIZE;
    }
    return 0;
  }

  private traced(event: number, a: number): void {
    if (EVENTS.has(event)) this.events++;
    if (event === TRACE_PROCESS_EXIT) this.mayBeDone = true;
    if (event === TRACE_WARN) this.warning ??= WARNINGS[a] ?? String(a);
  }

  private isOver(): boolean {
    if (this.warning !== undefined) fail(`the kernel warned: ${this.warning}`);
    if (this.events >= this.nextAudit) {
      this.nextAudit = this.events + AUDIT_EVENTS;
      this.check.checker.auditMappings(this.check.truthOf(0));
    }
    if (!this.mayBeDone) return false;
    this.mayBeDone = false;
    const { view } = this.check.checker;
    return this.check.truth.cpus.every((one) => view.isUp(one)) && view.userTasks() === 0;
  }

  private count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }
}

/** What a configuration has allocated when its processes have done nothing and ended. */
const baselines = new Map<string, Census>();

function baselineOf(config: EpisodeConfig): Census {
  const key = JSON.stringify(config);
  let census = baselines.get(key);
  if (census === undefined) {
    const empty = new Episode({ config, items: [] });
    empty.run(0);
    census = empty.census();
    baselines.set(key, census);
  }
  return census;
}

/** Runs a script. Everything that goes wrong is in the result. */
export function runEpisode(script: Script, options: EpisodeOptions = {}): EpisodeResult {
  let episode: Episode | undefined;
  let failure: EpisodeFailure | undefined;
  try {
    const before = baselineOf(script.config);
    episode = new Episode(script, options);
    episode.run(script.items.length);
    const leaked = censusDifference(before, episode.census());
    if (leaked !== undefined) fail(`S9: leaked: ${leaked}`);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    failure = { signature: signatureOf(error.message).slice(0, MOST_SIGNATURE), message: error.message, callers: callersOf(error) };
  }
  return {
    events: episode?.events ?? 0,
    counts: episode?.counts ?? new Map(),
    occurred: episode?.check.checker.occurred ?? new Map(),
    steps: episode?.machine.cpus.reduce((sum, one) => sum + one.steps, 0) ?? 0,
    failure,
    outcomes: episode?.outcomes ?? [],
    failedAllocations: episode?.failedAllocations ?? 0,
  };
}
