// Per-CPU variables: a static area that every CPU has a copy of, reached from the CPU's own base (what GS base holds in the kernel).
// Offsets are handed out in the order of declaration, as a linker would. Each operation is one instruction on %gs, hence one step:
// `or` cannot be interrupted in its middle; a `get` and a `set` can.
import { addVirt, type VirtAddr } from "./addresses.ts";
import { assert } from "./assert.ts";
import { cpu, type Width } from "./cpu.ts";
import type { Field } from "./struct.ts";

/** Bytes of the static per-CPU area; the boot code allocates this much for each CPU. */
export const PER_CPU_STATIC_BYTES = 16384;

export interface PerCpu<T> {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
  /** Address of this CPU's copy. */
  here(): VirtAddr;
  /** Address of the copy in the area at `base`. */
  at(base: VirtAddr): VirtAddr;
  get(): T;
  set(value: T): void;
}

/** A per-CPU variable on which this_cpu_or() and its kin work. */
export interface PerCpuInteger extends PerCpu<number> {
  or(mask: number): void;
  and(mask: number): void;
  add(value: number): void;
  /** Stores and returns the old value. */
  exchange(value: number): number;
  compareExchange(expected: number, next: number): boolean;
}

let end = 0;
const declared: { readonly name: string; readonly offset: number; readonly bytes: number }[] = [];

/** All per-CPU variables, in the order of their offsets: for whoever names an address. */
export function perCpuVariables(): readonly { readonly name: string; readonly offset: number; readonly bytes: number }[] {
  return declared;
}

function reserve(name: string, bytes: number, align: number): number {
  const offset = Math.ceil(end / align) * align;
  end = offset + bytes;
  declared.push({ name, offset, bytes });
  assert(end <= PER_CPU_STATIC_BYTES, () => `the static per-CPU area is full at ${name}: ${end} bytes`);
  return offset;
}

/** Declares a per-CPU variable of any field type (kernel: DEFINE_PER_CPU). */
export function perCpu<T>(name: string, field: Field<T>): PerCpu<T> {
  const offset = reserve(name, field.bytes, field.align);
  return {
    name,
    offset,
    bytes: field.bytes,
    here: () => addVirt(cpu.perCpuBase, offset),
    at: (base) => addVirt(base, offset),
    get: () => field.get(addVirt(cpu.perCpuBase, offset)),
    set: (value) => field.set(addVirt(cpu.perCpuBase, offset), value),
  };
}

/** Declares a per-CPU integer of 1, 2 or 4 bytes. */
export function perCpuInteger(name: string, width: Width): PerCpuInteger {
  const offset = reserve(name, width, width);
  const here = (): VirtAddr => addVirt(cpu.perCpuBase, offset);
  const unsigned = (value: number): number => (width === 4 ? value >>> 0 : value & (width === 1 ? 0xff : 0xffff));
  return {
    name,
    offset,
    bytes: width,
    here,
    at: (base) => addVirt(base, offset),
    get: () => cpu.load(here(), width),
    set: (value) => cpu.store(here(), width, unsigned(value)),
    or: (mask) => {
      cpu.modify("or", here(), width, unsigned(mask));
    },
    and: (mask) => {
      cpu.modify("and", here(), width, unsigned(mask));
    },
    add: (value) => {
      cpu.modify("add", here(), width, unsigned(value));
    },
    exchange: (value) => cpu.rmw("exchange", here(), width, unsigned(value)),
    compareExchange: (expected, next) => cpu.compareExchange(here(), width, unsigned(expected), unsigned(next)),
  };
}
