// A program is a list of items, independent of where it will lie; assemble() gives it an address. Branches start short and grow
// until every target is in reach, so the layout is the smallest one, and the same on every host.
import { type Branch, branchBytes, writeBranch } from "./branches.ts";
import { AssemblyError, encode, type Resolve } from "./encode.ts";
import type { Mnemonic } from "./mnemonics.ts";
import type { Operand } from "./operands.ts";

export type Item =
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  | { readonly kind: "label"; readonly name: string }
  | { readonly kind: "align"; readonly alignment: number; readonly fill: number }
  | { readonly kind: "branch"; readonly mnemonic: string; readonly branch: Branch; readonly target: string | number }
  /** An instruction that names a label; its length does not depend on the label's address. */
  | { readonly kind: "instruction"; readonly mnemonic: Mnemonic; readonly operands: readonly Operand[]; readonly byteLength: number }
  /** A 64-bit little-endian address of a label. */
  | { readonly kind: "address"; readonly label: string; readonly displacement: number }
  | { readonly kind: "trap"; readonly name: string };

export interface Section {
  readonly name: string;
  readonly items: readonly Item[];
}

/** Machine code without an address. The sections follow one another in the order of their first use. */
export interface Program {
  readonly sections: readonly Section[];
}

/** A piece of kernel text: `symbol` is its name in the kernel's symbol table. */
export interface Stub {
  readonly symbol: string;
  readonly program: Program;
}

export interface Placement {
  /** Address of the first byte, sign-extended (negative in the kernel half). */
  readonly origin: number;
  /** Labels of other programs. */
  readonly symbols?: ReadonlyMap<string, number>;
}

export interface Assembled {
  readonly origin: number;
  readonly bytes: Uint8Array;
  /** Every label of the program, with its address. */
  readonly symbols: ReadonlyMap<string, number>;
  /** Address of each trap instruction, with the trap's name. */
  readonly traps: ReadonlyMap<number, string>;
}

/** UD0 eax, eax: the trap instruction. #UD on silicon, and here too at any address that was not registered as a trap. */
export const TRAP_OPCODE: readonly number[] = [0x0f, 0xff, 0xc0];

/** Sections start at multiples of this, a cache line: code and data of a stub share none. */
const SECTION_ALIGNMENT = 64;

interface Layout {
  readonly addresses: readonly number[];
  readonly symbols: Map<string, number>;
  readonly end: number;
}

function flatten(program: Program): readonly Item[] {
  return program.sections.flatMap((section, i): Item[] => [
    ...(i === 0 ? [] : [{ kind: "align", alignment: SECTION_ALIGNMENT, fill: 0 } as const]),
    ...section.items,
  ]);
}

function paddingBefore(address: number, alignment: number): number {
  const rest = ((address % alignment) + alignment) % alignment;
  return rest === 0 ? 0 : alignment - rest;
}

function itemBytes(item: Item, address: number, isFar: boolean): number {
  switch (item.kind) {
    case "bytes":
      return item.bytes.length;
    case "label":
      return 0;
    case "align":
      return paddingBefore(address, item.alignment);
    case "branch":
      return branchBytes(item.branch, isFar);
    case "instruction":
      return item.byteLength;
    case "address":
      return 8;
    case "trap":
      return TRAP_OPCODE.length;
  }
}

function layOut(items: readonly Item[], origin: number, far: ReadonlySet<number>): Layout {
  const addresses: number[] = [];
  const symbols = new Map<string, number>();
  let address = origin;
  for (const [i, item] of items.entries()) {
    addresses.push(address);
    if (item.kind === "label") {
      if (symbols.has(item.name)) throw new AssemblyError(`label defined twice: ${item.name}`);
      symbols.set(item.name, address);
    }
    address += itemBytes(item, address, far.has(i));
  }
  return { addresses, symbols, end: address };
}

function resolver(layout: Layout, outside: ReadonlyMap<string, number> | undefined): Resolve {
  return (label) => {
    const address = layout.symbols.get(label) ?? outside?.get(label);
    if (address === undefined) throw new AssemblyError(`label not defined: ${label}`);
    return address;
  };
}

function addressOf(layout: Layout, index: number): number {
  return layout.addresses[index] ?? layout.end;
}

function distance(layout: Layout, index: number, target: string | number, resolve: Resolve): number {
  return (typeof target === "string" ? resolve(target) : target) - addressOf(layout, index + 1);
}

/** Adds to `far` the branches whose target is out of an 8-bit displacement's reach. @returns true if there was one. */
function growBranches(items: readonly Item[], layout: Layout, far: Set<number>, resolve: Resolve): boolean {
  let hasGrown = false;
  for (const [i, item] of items.entries()) {
    if (item.kind !== "branch" || far.has(i)) continue;
    const reach = distance(layout, i, item.target, resolve);
    if (reach >= -128 && reach <= 127) continue;
    if (item.branch.far === null) throw new AssemblyError(`${item.mnemonic} ${item.target}: ${reach} bytes away, it reaches 127`);
    far.add(i);
    hasGrown = true;
  }
  return hasGrown;
}

function writeItem(item: Item, bytes: Uint8Array, offset: number, address: number, resolve: Resolve): void {
  switch (item.kind) {
    case "bytes":
      bytes.set(item.bytes, offset);
      return;
    case "align":
      bytes.fill(item.fill, offset, offset + paddingBefore(address, item.alignment));
      return;
    case "instruction":
      bytes.set(encode(item.mnemonic, item.operands, address, resolve), offset);
      return;
    case "address":
      new DataView(bytes.buffer).setBigInt64(offset, BigInt(resolve(item.label) + item.displacement), true);
      return;
    case "trap":
      bytes.set(TRAP_OPCODE, offset);
      return;
    case "label":
    case "branch":
      return;
  }
}

/**
 * Places `program` at an address and encodes it.
 * @throws AssemblyError for a label that is missing or defined twice, and for a branch that cannot reach its target.
 */
export function assemble(program: Program, placement: Placement): Assembled {
  const items = flatten(program);
  const { origin } = placement;
  const far = new Set<number>();
  for (const [i, item] of items.entries()) {
    if (item.kind === "branch" && item.branch.near === null) far.add(i);
  }
  let layout = layOut(items, origin, far);
  let resolve = resolver(layout, placement.symbols);
  while (growBranches(items, layout, far, resolve)) {
    layout = layOut(items, origin, far);
    resolve = resolver(layout, placement.symbols);
  }
  const bytes = new Uint8Array(layout.end - origin);
  const traps = new Map<number, string>();
  for (const [i, item] of items.entries()) {
    const address = addressOf(layout, i);
    if (item.kind === "trap") traps.set(address, item.name);
    if (item.kind === "branch") {
      const reach = distance(layout, i, item.target, resolve);
      if (reach < -(2 ** 31) || reach >= 2 ** 31)
        throw new AssemblyError(`${item.mnemonic} ${item.target}: out of reach, ${reach} bytes away`);
      writeBranch(bytes, address - origin, item.branch, far.has(i), reach);
    } else {
      writeItem(item, bytes, address - origin, address, resolve);
    }
  }
  return { origin, bytes, symbols: layout.symbols, traps };
}
