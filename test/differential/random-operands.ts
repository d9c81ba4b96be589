// Random operands for a form. Choosing memory also chooses what its registers must hold: the classes are written into the case.
import {
  at,
  fsReg,
  GPR8,
  GPR8_HIGH,
  GPR16,
  GPR32,
  GPR64,
  gs,
  type Mem,
  mem,
  memIndexed,
  type Operand,
  type Reg,
  type Slot,
} from "../../src/assembler/index.ts";
import { GS_BASE, HOT_MIDDLE, RegisterClass, RSP } from "./case.ts";
import type { Random } from "./random.ts";

const BY_BITS: ReadonlyMap<number, readonly Reg[]> = new Map([
  [8, [...GPR8, ...GPR8_HIGH]],
  [16, GPR16],
  [32, GPR32],
  [64, GPR64],
]);

export function registersOf(bits: number): readonly Reg[] {
  return BY_BITS.get(bits) ?? [];
}

/** Number (0 .. 15) of the 64-bit register that `reg` is part of. */
export function registerNumber(reg: Reg): number {
  const high = GPR8_HIGH.indexOf(reg);
  return high >= 0 ? high : registersOf(reg.bits).indexOf(reg);
}

/** A random register of 64 or 32 bits that may be an index (RSP cannot). */
function indexRegister(random: Random, bits: 32 | 64): Reg {
  const reg = random.pick(registersOf(bits));
  return registerNumber(reg) === RSP ? indexRegister(random, bits) : reg;
}

/** Once in some 40 times a pointer that faults; once in 10 one whose access crosses the page boundary. */
function pointerClass(random: Random, isAligned: boolean): RegisterClass {
  if (random.oneIn(60)) return RegisterClass.pointerUnmapped;
  if (random.oneIn(120)) return RegisterClass.notCanonical;
  if (isAligned) return RegisterClass.pointer;
  if (random.oneIn(10)) return RegisterClass.pointerCrossing;
  return random.oneIn(3) ? RegisterClass.pointer : RegisterClass.pointerOdd;
}

function displacement(random: Random): number {
  return random.oneIn(3) ? 0 : random.below(256) - 128;
}

const SCALES = [1, 2, 4, 8] as const;

/** A memory operand that (nearly always) lies in the hot bytes. `isAligned`: to 16 bytes, as CMPXCHG16B wants it. */
export function randomMemory(random: Random, classes: Uint8Array, bits: number, isAligned = false): Mem {
  const sized = (m: Mem): Mem => ({ ...m, bits });
  const aligned = (n: number): number => (isAligned ? n & ~15 : n);
  const scale = isAligned ? 8 : random.pick(SCALES);
  switch (random.below(isAligned ? 6 : 12)) {
    case 0: {
      // an index and no base: the displacement is the address
      const index = indexRegister(random, 64);
      classes[registerNumber(index)] = isAligned ? RegisterClass.pointer : RegisterClass.small;
      if (isAligned) return sized(mem(index));
      return sized(memIndexed(null, index, scale, HOT_MIDDLE + displacement(random)));
    }
    case 1:
      return sized(at("hot", aligned(displacement(random))));
    case 2:
      return sized(mem(HOT_MIDDLE + aligned(displacement(random))));
    case 3: {
      if (isAligned) break;
      return gsMemory(random, classes, bits);
    }
    case 6: {
      // 32-bit address size: what lies above bit 31 of the registers, or of the sum, does not matter
      const base = random.pick(registersOf(32));
      if (registerNumber(base) !== RSP) classes[registerNumber(base)] = RegisterClass.pointerDirty;
      return sized(mem(base, displacement(random)));
    }
    case 7:
    case 8:
    case 9: {
      const base = random.pick(GPR64);
      const index = indexRegister(random, 64);
      if (registerNumber(base) !== RSP) classes[registerNumber(base)] = pointerClass(random, false);
      if (index === base) return sized(mem(base, displacement(random)));
      classes[registerNumber(index)] = RegisterClass.small;
      return sized(memIndexed(base, index, scale, displacement(random)));
    }
    default:
      break;
  }
  const base = random.pick(GPR64);
  if (registerNumber(base) !== RSP) classes[registerNumber(base)] = pointerClass(random, isAligned);
  return sized(mem(base, aligned(displacement(random))));
}

function gsMemory(random: Random, classes: Uint8Array, bits: number): Mem {
  const base = random.pick(GPR64);
  if (registerNumber(base) !== RSP) classes[registerNumber(base)] = RegisterClass.pointer;
  return { ...gs(mem(base, displacement(random) - GS_BASE)), bits };
}

const EDGE_IMMEDIATES = [0, 1, -1, 2, 0x7f, -0x80, 0x7fff, -0x8000, 0x7fffffff, -0x80000000] as const;

/** A random immediate of `bits`, signed, within what the encoder sign-extends. */
export function randomImmediate(random: Random, bits: number): number | bigint {
  if (bits === 64) return BigInt.asIntN(64, (BigInt(random.u32()) << 32n) | BigInt(random.u32()));
  const limit = 2 ** (bits - 1);
  if (random.oneIn(3)) {
    const edge = random.pick(EDGE_IMMEDIATES);
    if (edge >= -limit && edge < limit) return edge;
  }
  return (random.u32() % (2 * limit)) - limit;
}

/** @returns null for operands that user code has no use for (control registers ...) */
export function randomOperand(random: Random, slot: Slot, classes: Uint8Array): Operand | null {
  switch (slot.kind) {
    case "r":
      return random.pick(registersOf(slot.bits));
    case "rm":
      return random.below(10) < 6 ? random.pick(registersOf(slot.bits)) : randomMemory(random, classes, slot.bits);
    case "m":
      return randomMemory(random, classes, slot.bits, slot.bits === 128);
    case "imm":
      return randomImmediate(random, slot.bits);
    case "fixed":
      return [...BY_BITS.values()].flat().find((reg) => reg.name === slot.name) ?? (slot.name === "fs" ? fsReg : null);
    case "one":
      return 1;
    default:
      return null;
  }
}

/** What registers hold that are operands of no memory access: half of them random, the rest where arithmetic turns. */
export function randomClasses(random: Random): Uint8Array {
  const classes = new Uint8Array(16);
  for (let n = 0; n < 16; n++) {
    const roll = random.below(20);
    classes[n] =
      roll < 9 ? RegisterClass.random64 : roll < 15 ? RegisterClass.edge : roll < 18 ? RegisterClass.small : RegisterClass.signed32;
  }
  classes[RSP] = RegisterClass.stack;
  return classes;
}
