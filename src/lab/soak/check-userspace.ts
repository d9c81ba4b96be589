// Explores single events of processes: a system call, a page fault, a switch to another process, fork, exit, a signal, KVM_RUN and the way
// back to user mode; each once for every kernel step before which something is injected. Every run is an episode from the boot on, so
// what the injected handler leaves behind is judged until everything has ended.
import { runEpisode } from "./episode.ts";
import type { EpisodeConfig, InjectionKind, Item } from "./script.ts";

type Step = readonly [action: string, ...args: number[]];

export interface ExploredEvent {
  readonly name: string;
  readonly before: readonly Step[];
  readonly action: Step;
}

/** Memory of its own, a page of it touched. */
const MAPPED: readonly Step[] = [
  ["mmap", 3, 3, 1],
  ["touch", 0, 0, 1],
];

export const USER_EVENTS: readonly ExploredEvent[] = [
  { name: "system call", before: [], action: ["getpid"] },
  { name: "system call with a bad pointer", before: [], action: ["bad pointer", 5, 5] },
  { name: "page fault", before: MAPPED, action: ["touch", 0, 2, 1] },
  { name: "context switch between two processes", before: [], action: ["yield"] },
  { name: "fork", before: MAPPED, action: ["fork", 8] },
  { name: "copy on write", before: [...MAPPED, ["fork", 8]], action: ["touch", 0, 0, 1] },
  { name: "signal", before: [["fork", 8]], action: ["kill child", 0] },
  { name: "read and write of a file", before: [...MAPPED, ["open", 0, 1]], action: ["copy to kernel", 0, 0, 4] },
  { name: "munmap", before: MAPPED, action: ["munmap", 0, 0, 3] },
  { name: "exit", before: MAPPED, action: ["exit", 1] },
  { name: "KVM_RUN and the return to user mode", before: [["make vm"], ["run guest", 1]], action: ["run guest", 1] },
];

export interface UserspaceCheck {
  readonly config: EpisodeConfig;
  readonly events?: readonly ExploredEvent[];
  readonly injections: readonly InjectionKind[];
  /** Inject before every `stride`-th step; 1 when left out. */
  readonly stride?: number;
}

export interface UserspaceFinding {
  readonly event: string;
  readonly injection: InjectionKind | "none";
  readonly at: number;
  readonly message: string;
}

export interface UserspaceReport {
  readonly runs: number;
  /** Kernel steps of each undisturbed event, until its process decides again. */
  readonly steps: ReadonlyMap<string, number>;
  readonly findings: readonly UserspaceFinding[];
}

/** An event that ends its process: its steps are not counted, so many are explored. */
const STEPS_OF_AN_END = 600;

/** Runs the exploration. */
export function checkUserspace(check: UserspaceCheck): UserspaceReport {
  const steps = new Map<string, number>();
  const findings: UserspaceFinding[] = [];
  let runs = 0;
  for (const event of check.events ?? USER_EVENTS) {
    const plain = ([action, ...args]: Step): Item => ({ slot: 0, action, args });
    const run = (tested: Item): { readonly failure: string | undefined; readonly steps: number } => {
      runs++;
      const items = [...event.before.map(plain), tested, plain(["getpid"]), plain(["yield"])];
      const { failure, outcomes } = runEpisode({ config: check.config, items }, { keepsOutcomes: true });
      return { failure: failure?.message, steps: outcomes.find(({ item }) => item === tested)?.steps ?? STEPS_OF_AN_END };
    };
    const undisturbed = run({ ...plain(event.action), inject: [] });
    steps.set(event.name, undisturbed.steps);
    if (undisturbed.failure !== undefined) findings.push({ event: event.name, injection: "none", at: -1, message: undisturbed.failure });
    for (const kind of check.injections) {
      for (let at = 0; at < undisturbed.steps; at += check.stride ?? 1) {
        const { failure } = run({ ...plain(event.action), inject: [{ kind, at }] });
        if (failure !== undefined) findings.push({ event: event.name, injection: kind, at, message: failure });
      }
    }
  }
  return { runs, steps, findings };
}
