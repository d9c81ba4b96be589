// The state of a CPU in words: what runs there, on which tables, what the kernel believes, and what the structures of the core hold.
import { isSensitiveOwner, NULL } from "../../hardware/index.ts";
import { currentTask } from "../../kernel/index.ts";
import type { CpuTruth, KernelView, Structure } from "../properties/index.ts";
import { type KernelNames, taintList } from "./kernel-names.ts";

export const STRUCTURES: readonly Structure[] = ["L1D", "fill buffers", "branch target buffer", "return stack"];

export interface CpuWords {
  readonly cpu: number;
  /** "user mode", "halted", "kernel, suspended", "guest", "off". */
  readonly activity: string;
  readonly task: string;
  /** Which tables CR3 names. */
  readonly tables: string;
  readonly currAsi: string;
  readonly target: string;
  /** Handlers that are nested in the task's critical section. */
  readonly nested: number;
  /** The kernel's taint byte. */
  readonly taints: readonly string[];
  /** By structure, whose data or training it holds, or may hold; of data only what is sensitive. */
  readonly holds: Readonly<Record<string, readonly string[]>>;
}

/** Sensitive data, or any training. */
export function heldWords(names: KernelNames, cpu: CpuTruth, structure: Structure): readonly string[] {
  const isData = structure === "L1D" || structure === "fill buffers";
  return [...cpu.holds(structure)]
    .filter((label) => !isData || isSensitiveOwner(label))
    .map((label) => names.owner(label))
    .sort();
}

export function cpuWords(view: KernelView, names: KernelNames, cpu: CpuTruth, activity: string): CpuWords {
  const holds = Object.fromEntries(STRUCTURES.map((structure) => [structure, heldWords(names, cpu, structure)]));
  if (!view.isUp(cpu)) {
    return { cpu: cpu.id, activity, task: "none", tables: "", currAsi: "none", target: "none", nested: 0, taints: [], holds };
  }
  const scan = view.scan(cpu);
  const { target, depth } = view.taskState(cpu);
  return {
    cpu: cpu.id,
    activity,
    task: names.task(view.word(cpu.perCpuBase + currentTask.offset)),
    tables: names.tables(cpu),
    currAsi: scan.currAsi === NULL ? "none" : names.domain(scan.currAsi),
    target: target === NULL ? "none" : names.domain(target),
    nested: depth,
    taints: taintList(scan.taints),
    holds,
  };
}
