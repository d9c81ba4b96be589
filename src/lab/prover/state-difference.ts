// Which words of memory tell two states apart, by name: for whoever wonders why a state space does not close.
import type { PhysAddr } from "../../hardware/index.ts";
import { perCpuVariables } from "../../hardware/index.ts";
import { Kvm, KvmGlobals, KvmVcpu, kvmGlobals, Mm, staticObjects, TaskStruct } from "../../kernel/index.ts";
import type { System } from "./system.ts";

interface Range {
  readonly name: string;
  readonly start: number;
  readonly bytes: number;
  /** Offsets of its fields, by name. */
  readonly fields?: Readonly<Record<string, number>>;
}

/** What lies where, the most telling ranges first. */
function ranges({ machine, check }: System): Range[] {
  const { view } = check.checker;
  const found: Range[] = [];
  const put = (name: string, address: number, bytes: number, fields?: Readonly<Record<string, number>>): void => {
    const start = view.walked(address);
    if (address !== 0 && start >= 0) found.push({ name, start, bytes, ...(fields === undefined ? {} : { fields }) });
  };
  const first = staticObjects().find(({ name }) => name === "init_task")?.address ?? 0;
  for (let task: number = first; task !== 0; task = view.word(task + TaskStruct.offset.tasksNext)) {
    const pid = view.u32(task + TaskStruct.offset.pid);
    put(`task ${pid}`, task, TaskStruct.bytes, TaskStruct.offset);
    put(`mm of task ${pid}`, view.word(task + TaskStruct.offset.mm), Mm.bytes, Mm.offset);
  }
  for (let kvm = view.word(kvmGlobals + KvmGlobals.offset.vmList); kvm !== 0; kvm = view.word(kvm + Kvm.offset.vmListNext)) {
    put(`VM ${view.u32(kvm + Kvm.offset.label)}`, kvm, Kvm.bytes, Kvm.offset);
  }
  for (const cpu of machine.cpus) {
    for (const { name, offset, bytes } of perCpuVariables()) put(`cpu ${cpu.id} ${name}`, cpu.perCpuBase + offset, bytes);
    const vcpu = view.word(cpu.perCpuBase + (perCpuVariables().find(({ name }) => name === "kvm_running_vcpu")?.offset ?? 0));
    put("vCPU", vcpu, KvmVcpu.bytes, KvmVcpu.offset);
  }
  for (const { name, address, bytes } of staticObjects()) put(name, address, bytes);
  return found;
}

function nameOf(all: readonly Range[], pa: number): string {
  const range = all.find(({ start, bytes }) => pa >= start && pa < start + bytes);
  if (range === undefined) return "";
  const offset = pa - range.start;
  const fields = Object.entries(range.fields ?? {}).filter(([, at]) => at <= offset);
  const field = fields.sort((a, b) => b[1] - a[1])[0];
  return field === undefined ? `${range.name} + ${offset}` : `${range.name}.${field[0]} + ${offset - field[1]}`;
}

/** A copy of memory, to compare with later. */
export function memoryOf(system: System): Int32Array {
  const { words, size } = system.machine.memory;
  return words.slice(0, size / 4);
}

/** Words that are hashed and differ between `before` and now: address, old and new value, and what it is. */
export function stateDifference(system: System, before: Int32Array): string[] {
  const { memory } = system.machine;
  const all = ranges(system);
  const lines: string[] = [];
  for (let slot = 0; slot < before.length; slot++) {
    const now = memory.words[slot] ?? 0;
    if (before[slot] === now || !memory.isHashed((slot * 4) as PhysAddr)) continue;
    const owner = memory.frameOwner((slot * 4) >>> 12);
    const hex = (word: number): string => (word >>> 0).toString(16);
    lines.push(`${hex(slot * 4)}: ${hex(before[slot] ?? 0)} -> ${hex(now)} ${nameOf(all, slot * 4) || `frame of ${hex(owner)}`}`);
  }
  return lines;
}
