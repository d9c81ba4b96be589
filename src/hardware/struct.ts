// Law 2: kernel state is bytes. A struct is declared once as data; a view of it holds only its address, and each read or write of a
// property is one step of the ambient CPU, through the MMU with the current CR3. Offsets follow the C rules (natural alignment).
//
//   const Mm = struct("mm_struct", { users: i32, pgd: physical, asi: array(embedded(Asi), 2) });
//   type Mm = View<typeof Mm>;      Mm.at(address).users += 1;      Mm.offset.users;      Mm.bytes
//
// A pointer field yields the address (`Ptr<"task_struct">`), so that pointers compare with === and NULL is 0.
import { addVirt, type GuestPhysAddr, type PhysAddr, type Ptr, type VirtAddr } from "./addresses.ts";
import { assert } from "./assert.ts";
import { cpu } from "./cpu.ts";

export interface Field<T> {
  readonly bytes: number;
  readonly align: number;
  /** False for embedded structs and arrays, which are reached but not assigned. */
  readonly writable: boolean;
  get(address: VirtAddr): T;
  set(address: VirtAddr, value: T): void;
}

function scalar<T>(bytes: number, get: (va: VirtAddr) => T, set: (va: VirtAddr, value: T) => void): Field<T> {
  return { bytes, align: bytes, writable: true, get, set };
}

export const u8: Field<number> = scalar(
  1,
  (va) => cpu.load(va, 1),
  (va, v) => cpu.store(va, 1, v),
);
export const u16: Field<number> = scalar(
  2,
  (va) => cpu.load(va, 2),
  (va, v) => cpu.store(va, 2, v),
);
export const u32: Field<number> = scalar(
  4,
  (va) => cpu.load(va, 4),
  (va, v) => cpu.store(va, 4, v),
);
export const i32: Field<number> = scalar(
  4,
  (va) => cpu.load(va, 4) | 0,
  (va, v) => cpu.store(va, 4, v >>> 0),
);
export const bool: Field<boolean> = scalar(
  1,
  (va) => cpu.load(va, 1) !== 0,
  (va, v) => cpu.store(va, 1, v ? 1 : 0),
);
/** 8 bytes that hold a number in -2^53..2^53: counters, sizes, times. */
export const word: Field<number> = scalar(
  8,
  (va) => cpu.loadWord(va),
  (va, v) => cpu.storeWord(va, v),
);
export const physical: Field<PhysAddr> = scalar(
  8,
  (va) => cpu.loadWord(va) as PhysAddr,
  (va, v) => cpu.storeWord(va, v),
);
export const guestPhysical: Field<GuestPhysAddr> = scalar(
  8,
  (va) => cpu.loadWord(va) as GuestPhysAddr,
  (va, v) => cpu.storeWord(va, v),
);
export const virtual: Field<VirtAddr> = scalar(
  8,
  (va) => cpu.loadWord(va) as VirtAddr,
  (va, v) => cpu.storeWord(va, v),
);

/** The address of a structure `S`, or NULL. */
export function pointer<S extends string>(_target: S): Field<Ptr<S>> {
  return scalar(
    8,
    (va) => cpu.loadWord(va) as Ptr<S>,
    (va, v) => cpu.storeWord(va, v),
  );
}

/** The same field, by which the abstract machine does not tell states apart: it only counts or labels. */
export function observer<T>(field: Field<T>): Field<T> {
  return {
    ...field,
    set: (va, value) => {
      cpu.unhashed(va, field.bytes);
      field.set(va, value);
    },
  };
}

/** Adds `by` to the 32-bit counter at `va`, in one instruction whose old value nobody wants: a statistic (kernel: this_cpu_inc() and its kin). */
export function count(va: VirtAddr, by = 1): void {
  cpu.unhashed(va, 4);
  cpu.modify("add", va, 4, by);
}

/** A structure inside another. The property is a view of it. */
export function embedded<F extends Fields>(type: Struct<string, F>): Field<Properties<F>> {
  return {
    bytes: type.bytes,
    align: type.align,

    writable: false,
    get: (va) => type.at(va as never),
    set: () => assert(false, () => `an embedded ${type.name} is not assigned as a whole`),
  };
}

export interface Elements<T> {
  readonly length: number;
  get(index: number): T;
  set(index: number, value: T): void;
  address(index: number): VirtAddr;
}

/** `count` fields in a row. The property gives them by index. */
export function array<T>(element: Field<T>, count: number): Field<Elements<T>> {
  const check = (index: number): void => assert(index >= 0 && index < count, () => `index ${index} outside an array of ${count}`);
  return {
    bytes: element.bytes * count,
    align: element.align,
    writable: false,
    get: (va) => ({
      length: count,
      address: (index) => {
        check(index);
        return addVirt(va, index * element.bytes);
      },
      get: (index) => {
        check(index);
        return element.get(addVirt(va, index * element.bytes));
      },
      set: (index, value) => {
        check(index);
        element.set(addVirt(va, index * element.bytes), value);
      },
    }),
    set: () => assert(false, () => "an array is not assigned as a whole"),
  };
}

/** `count` bytes, reached by address. */
export function bytes(count: number, align = 1): Field<VirtAddr> {
  return {
    bytes: count,
    align,

    writable: false,
    get: (va) => va,
    set: () => assert(false, () => "bytes are not assigned as a whole"),
  };
}

export type Fields = { readonly [name: string]: Field<never> | Field<unknown> | AnyField };
// A Field is invariant in its type; this is the widest shape that every field fits.
interface AnyField {
  readonly bytes: number;
  readonly align: number;
  readonly writable: boolean;
  get(address: VirtAddr): unknown;
  set(address: VirtAddr, value: never): void;
}

export type Properties<F extends Fields> = { readonly address: VirtAddr } & {
  [K in keyof F]: F[K] extends { get(address: VirtAddr): infer T } ? T : never;
};

export interface Struct<S extends string, F extends Fields> {
  readonly name: S;
  readonly bytes: number;
  readonly align: number;
  readonly fields: F;
  readonly offset: { readonly [K in keyof F]: number };
  /** A view of the structure at `address` (which is not checked: a wrong one faults, as on silicon). */
  at(address: Ptr<S>): Properties<F>;
}

/** The view type of a struct constant: `type Asi = View<typeof Asi>`. */
export type View<T> = T extends Struct<string, infer F> ? Properties<F> : never;

/** Declares a structure: `name` is the kernel's, fields in order with C alignment. */
export function struct<S extends string, F extends Fields>(name: S, fields: F): Struct<S, F> {
  class StructView {
    // Declared, not defined: a field initializer would cost more than all the rest of making a view.
    declare readonly address: VirtAddr;
    constructor(address: VirtAddr) {
      this.address = address;
    }
  }
  const offset: Record<string, number> = {};
  let end = 0;
  let align = 1;
  for (const [key, field] of Object.entries(fields) as [string, AnyField][]) {
    const at = Math.ceil(end / field.align) * field.align;
    offset[key] = at;
    end = at + field.bytes;
    align = Math.max(align, field.align);
    const { get, set } = field;
    Object.defineProperty(StructView.prototype, key, {
      enumerable: true,
      get(this: StructView) {
        return get((this.address + at) as VirtAddr);
      },
      set(this: StructView, value: never) {
        set((this.address + at) as VirtAddr, value);
      },
    });
  }
  return {
    name,
    bytes: Math.ceil(end / align) * align,
    align,
    fields,
    offset: offset as { readonly [K in keyof F]: number },
    at: (address) => new StructView(address) as unknown as Properties<F>,
  };
}
