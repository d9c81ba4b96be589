// The kernel's static data: addresses in the image's data section, handed out in the order of declaration as a linker would, zeroed at
// boot. Declared once, in `*-struct.ts` files, which import no logic.
import { addVirt, assert, type Fields, type Ptr, type Struct, type VirtAddr } from "../hardware/index.ts";

/** Kernel text: 0xffffffff81000000, loaded at 16 MiB. Data: 0xffffffff82000000, at 32 MiB. */
export const KERNEL_TEXT_BASE = -0x7f000000 as VirtAddr;
export const KERNEL_TEXT_PHYSICAL = 0x1000000;
export const KERNEL_DATA_BASE = -0x7e000000 as VirtAddr;
export const KERNEL_DATA_PHYSICAL = 0x2000000;
/** Bytes reserved for static data. */
export const KERNEL_DATA_BYTES = 0x200000;

interface StaticObject {
  readonly name: string;
  readonly address: VirtAddr;
  readonly bytes: number;
}

const objects: StaticObject[] = [];
let end = 0;

/** Reserves zeroed static data. */
export function staticBytes(name: string, bytes: number, align: number): VirtAddr {
  const at = Math.ceil(end / align) * align;
  end = at + bytes;
  assert(end <= KERNEL_DATA_BYTES, () => `kernel static data is full at ${name}: ${end} bytes`);
  const address = addVirt(KERNEL_DATA_BASE, at);
  objects.push({ name, address, bytes });
  return address;
}

/** Reserves one zeroed structure. */
export function staticStruct<S extends string, F extends Fields>(name: string, type: Struct<S, F>): Ptr<S> {
  return staticBytes(name, type.bytes, Math.max(type.align, 8)) as Ptr<S>;
}

/** All static objects in order of address: for maps and for the explanation of addresses. */
export function staticObjects(): readonly StaticObject[] {
  return objects;
}
