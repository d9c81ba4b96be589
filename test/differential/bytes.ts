// Fields in a row of bytes: what the native side writes and the recorded vectors hold.

/** Reads little-endian fields one after the other. */
export class ByteReader {
  #at = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  u8(): number {
    this.#at += 1;
    return this.#view.getUint8(this.#at - 1);
  }

  u16(): number {
    this.#at += 2;
    return this.#view.getUint16(this.#at - 2, true);
  }

  u32(): number {
    this.#at += 4;
    return this.#view.getUint32(this.#at - 4, true);
  }

  /** A 64-bit address, sign-extended; only used where it is exact in a number or does not matter. */
  address(): number {
    const low = this.u32();
    return (this.u32() | 0) * 2 ** 32 + low;
  }

  bytes(n: number): Uint8Array {
    this.#at += n;
    return this.#bytes.slice(this.#at - n, this.#at);
  }

  text(n: number): string {
    return new TextDecoder().decode(this.bytes(n)).replace(/\0+$/, "");
  }
}

/** Writes little-endian fields one after the other, into memory that grows. */
export class ByteWriter {
  #at = 0;
  #bytes = new Uint8Array(1 << 20);

  u8(value: number): void {
    this.#grow(1);
    this.#bytes[this.#at++] = value;
  }

  u16(value: number): void {
    this.u8(value & 0xff);
    this.u8(value >>> 8);
  }

  u32(value: number): void {
    this.u16(value & 0xffff);
    this.u16(value >>> 16);
  }

  /** A sign-extended 64-bit address. */
  address(value: number): void {
    const low = value >>> 0;
    this.u32(low);
    this.u32((value - low) / 2 ** 32);
  }

  bytes(data: Uint8Array): void {
    this.#grow(data.length);
    this.#bytes.set(data, this.#at);
    this.#at += data.length;
  }

  text(text: string, length: number): void {
    const padded = new Uint8Array(length);
    new TextEncoder().encodeInto(text, padded);
    this.bytes(padded);
  }

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#at);
  }

  #grow(n: number): void {
    if (this.#at + n <= this.#bytes.length) return;
    const larger = new Uint8Array(2 * this.#bytes.length + n);
    larger.set(this.#bytes);
    this.#bytes = larger;
  }
}
