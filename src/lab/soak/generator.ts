// Scripts from seeds: every choice is made here and written down.
import { ASI_OPTIONS } from "../../kernel/index.ts";
import type { Random } from "../random.ts";
import { ACTIONS, type ActionKind } from "./actions.ts";
import { GUEST_ACTIONS } from "./guest-actions.ts";
import { type EpisodeConfig, INJECTIONS, type Injected, type Item, type Script } from "./script.ts";

export const ALL_ACTIONS: ReadonlyMap<string, ActionKind> = new Map([...ACTIONS, ...GUEST_ACTIONS]);

const MOST_PROCESSES = 4;
/** Share of items with something injected, and with an allocation that fails. */
const INJECTED = 0.25;
const FAILING = 0.04;
/** Injections are made within this many kernel steps of an item's beginning. */
const FURTHEST_STEP = 400;
const MOST_FAILED_ATTEMPT = 12;

function below(random: Random, limit: number): number {
  return random.next() % limit;
}

function chance(random: Random, probability: number): boolean {
  return random.next() < probability * 2 ** 32;
}

function pick<T>(random: Random, values: readonly [T, ...T[]]): T {
  return values[below(random, values.length)] ?? values[0];
}

function configFrom(random: Random): EpisodeConfig {
  const preset = pick(random, ["cordon", "cordon", "cordon-fast"] as const);
  const words = ["asi=on", "kvm-intel.vmentry_l1d_flush=never"];
  if (preset === "cordon" && chance(random, 0.3)) {
    const { name } = ASI_OPTIONS[below(random, ASI_OPTIONS.length)] ?? { name: "noflush" };
    words.push(`cordon.${name}=${pick(random, ["on", "off"])}`);
  }
  if (chance(random, 0.15)) words.push("asi_userspace=off");
  return {
    preset,
    model: pick(random, ["skx", "skx", "clx"]),
    commandLine: words.join(" "),
    cpus: 1 + below(random, 2),
    memoryMegabytes: pick(random, [48, 64, 56]),
    processes: 2 + below(random, MOST_PROCESSES - 1),
  };
}

function injections(random: Random): readonly Injected[] {
  return Array.from({ length: 1 + below(random, 2) }, () => ({ kind: pick(random, INJECTIONS), at: below(random, FURTHEST_STEP) }));
}

/** Weighted choice: names by their cumulated weights. */
class Chooser {
  private readonly names: readonly string[];
  private readonly sums: readonly number[];
  private readonly total: number;

  constructor(kinds: ReadonlyMap<string, ActionKind>) {
    let sum = 0;
    this.names = [...kinds.keys()];
    this.sums = [...kinds.values()].map(({ weight }) => {
      sum += weight;
      return sum;
    });
    this.total = sum;
  }

  choose(random: Random): string {
    const at = (random.next() / 2 ** 32) * this.total;
    return this.names[this.sums.findIndex((sum) => at < sum)] ?? "yield";
  }
}

/** A script of `count` items. `config` replaces what the seed would choose. */
export function generate(random: Random, count: number, config?: EpisodeConfig): Script {
  const chosen = configFrom(random);
  const used = config ?? chosen;
  const chooser = new Chooser(ALL_ACTIONS);
  let slots = used.processes;
  const items: Item[] = [];
  for (let i = 0; i < count; i++) {
    const slot = below(random, slots);
    const action = chooser.choose(random);
    const kind = ALL_ACTIONS.get(action);
    if (kind === undefined) continue;
    const args = kind.makesChild === true ? [++slots] : kind.ranges.map((range) => below(random, range));
    items.push({
      slot,
      action,
      args,
      ...(chance(random, INJECTED) ? { inject: injections(random) } : {}),
      ...(chance(random, FAILING) ? { fail: 1 + below(random, MOST_FAILED_ATTEMPT) } : {}),
    });
  }
  return { config: used, items };
}
