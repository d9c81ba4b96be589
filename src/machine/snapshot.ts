// The whole state of a machine between two runs: linear memory but for translations, which can be made again, and what the host half
// keeps per CPU. Roots of suspended paths are functions, so a snapshot lives in the process that took it.
import {
  ARENA_REGION,
  ARENA_REGION_BYTES,
  CODE_REGION,
  CODE_REGION_BYTES,
  CPU_REGION,
  CPU_REGION_BYTES,
  PHYSICAL_REGION,
  SAVED_CPUS_REGION,
  SAVED_CPUS_REGION_BYTES,
  SHARED_TLB_STAMP,
  TLB_OCCUPIED_REGION,
  TLB_OCCUPIED_REGION_BYTES,
  TLB_REGION,
  TLB_REGION_BYTES,
} from "./core/layout.gen.ts";
import type { GearedCore } from "./geared-core.ts";
import { MachinePath } from "./machine-path.ts";
import type { CpuSnapshot, SimulatedCpu } from "./simulated-cpu.ts";

interface Part {
  readonly address: number;
  readonly bytes: Uint8Array;
}

export interface MachineSnapshot {
  readonly parts: readonly Part[];
  readonly tlbStamp: number;
  readonly cpus: readonly CpuSnapshot[];
  readonly sleeping: ReadonlyMap<number, MachinePath>;
}

/** Stretches of linear memory that are state: CPU blocks, modelled TLBs, the structures of the detailed gear, physical memory. */
function stretches(gearedCore: GearedCore): readonly (readonly [address: number, bytes: number])[] {
  const detailed = CODE_REGION + CODE_REGION_BYTES;
  return [
    [CPU_REGION, CPU_REGION_BYTES],
    [SAVED_CPUS_REGION, SAVED_CPUS_REGION_BYTES],
    [TLB_REGION, TLB_REGION_BYTES],
    [TLB_OCCUPIED_REGION, TLB_OCCUPIED_REGION_BYTES],
    [detailed, (gearedCore.structures === undefined ? ARENA_REGION : ARENA_REGION + ARENA_REGION_BYTES) - detailed],
    [PHYSICAL_REGION, gearedCore.physical.byteLength],
  ];
}

export function copyPath(path: MachinePath): MachinePath {
  const copy = new MachinePath(path.root);
  copy.copyFrom(path);
  return copy;
}

export function takeSnapshot(
  gearedCore: GearedCore,
  cpus: readonly SimulatedCpu[],
  sleeping: ReadonlyMap<number, MachinePath>,
): MachineSnapshot {
  const memory = new Uint8Array(gearedCore.view.buffer);
  return {
    parts: stretches(gearedCore).map(([address, bytes]) => ({ address, bytes: memory.slice(address, address + bytes) })),
    tlbStamp: gearedCore.core.fields.low(SHARED_TLB_STAMP),
    cpus: cpus.map((cpu) => cpu.snapshot()),
    sleeping: new Map([...sleeping].map(([task, path]) => [task, copyPath(path)])),
  };
}

/** Puts the state back. The machine is the one the snapshot was taken of, or one made with the same options. */
export function restoreSnapshot(
  gearedCore: GearedCore,
  cpus: readonly SimulatedCpu[],
  sleeping: Map<number, MachinePath>,
  from: MachineSnapshot,
): void {
  const memory = new Uint8Array(gearedCore.view.buffer);
  // First everything derived is dropped, the modelled TLBs with it; then they come back as they were.
  gearedCore.functions.resetCaches();
  for (const part of from.parts) memory.set(part.bytes, part.address);
  gearedCore.core.fields.setLow(SHARED_TLB_STAMP, from.tlbStamp);
  gearedCore.functions.contextChanged();
  for (const [i, cpu] of cpus.entries()) {
    const saved = from.cpus[i];
    if (saved !== undefined) cpu.restoreFrom(saved);
  }
  sleeping.clear();
  for (const [task, path] of from.sleeping) sleeping.set(task, copyPath(path));
}
