// Physical memory as observers, devices and the abstract machine's page walk see it: bytes at physical addresses, without MMU,
// caches or time.
import type { PhysAddr } from "./addresses.ts";
import { assert } from "./assert.ts";

export class PhysicalMemory {
  readonly bytes: Uint8Array;
  readonly size: number;
  private readonly view: DataView;

  /** `bytes`: the window of a machine's memory that is its RAM; physical address 0 is its first byte. */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.size = bytes.byteLength;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  has(pa: number, length: number): boolean {
    return pa >= 0 && pa + length <= this.size;
  }

  read8(pa: PhysAddr): number {
    return this.view.getUint8(pa);
  }
  read16(pa: PhysAddr): number {
    return this.view.getUint16(pa, true);
  }
  read32(pa: PhysAddr): number {
    return this.view.getUint32(pa, true);
  }
  /** 8 bytes as a sign-extended number (exact for addresses and values below 2^53). */
  readWord(pa: PhysAddr): number {
    return this.view.getInt32(pa + 4, true) * 2 ** 32 + this.view.getUint32(pa, true);
  }
  write8(pa: PhysAddr, value: number): void {
    this.view.setUint8(pa, value);
  }
  write16(pa: PhysAddr, value: number): void {
    this.view.setUint16(pa, value, true);
  }
  write32(pa: PhysAddr, value: number): void {
    this.view.setUint32(pa, value, true);
  }
  writeWord(pa: PhysAddr, value: number): void {
    this.view.setUint32(pa, value >>> 0, true);
    this.view.setUint32(pa + 4, Math.floor(value / 2 ** 32) >>> 0, true);
  }

  slice(pa: PhysAddr, length: number): Uint8Array {
    assert(this.has(pa, length), () => `physical range outside memory: ${pa} + ${length}, size ${this.size}`);
    return this.bytes.subarray(pa, pa + length);
  }
}
