// Typed access to the fields of the active CPU block by the constants of the layout. The host half of the machine (MSRs, VMX, devices)
// reads and writes registers here; whoever changes what translation or mode depends on tells the core afterwards.

export class CoreFields {
  private readonly view: DataView;
  /** All of linear memory in 32-bit words: for copies of many fields. */
  readonly words: Uint32Array;

  /** `view`: the whole linear memory of the core. */
  constructor(view: DataView) {
    this.view = view;
    this.words = new Uint32Array(view.buffer);
  }

  /** Unsigned 16 bits. */
  half(field: number): number {
    return this.view.getUint16(field, true);
  }

  setHalf(field: number, value: number): void {
    this.view.setUint16(field, value, true);
  }

  /** Low 32 bits, unsigned. */
  low(field: number): number {
    return this.view.getUint32(field, true);
  }

  high(field: number): number {
    return this.view.getUint32(field + 4, true);
  }

  /** Writes 32 bits. */
  setLow(field: number, value: number): void {
    this.view.setUint32(field, value, true);
  }

  set(field: number, low: number, high: number): void {
    this.view.setUint32(field, low, true);
    this.view.setUint32(field + 4, high, true);
  }

  /** 64 bits as a sign-extended number: addresses, and values below 2^53. */
  word(field: number): number {
    return this.view.getInt32(field + 4, true) * 2 ** 32 + this.view.getUint32(field, true);
  }

  setWord(field: number, value: number): void {
    this.view.setUint32(field, value >>> 0, true);
    this.view.setUint32(field + 4, Math.floor(value / 2 ** 32) >>> 0, true);
  }
}
