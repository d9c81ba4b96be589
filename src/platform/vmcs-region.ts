// The VMCS as the 4 KiB region it is in memory: revision identifier, abort indicator, launch state, then every field at a fixed
// offset. Software reaches fields by their encodings; the offsets are this implementation's, as on silicon.
import { type PhysAddr, type PhysicalMemory, VMCS, vmcsFieldWidth } from "../hardware/index.ts";

/** VMCS revision identifier, bits 30:0 of IA32_VMX_BASIC and of the region's first word (our own number). */
export const VMCS_REVISION = 0x0c0d0001;
export const VMCS_BYTES = 4096;

/** Offset of the launch state (0 clear, 1 launched): implementation-specific data, SDM vol. 3, 26.2. */
const LAUNCH_STATE_OFFSET = 8;
const FIELDS_OFFSET = 64;
/** No such field. */
const ABSENT = 0;

/** Encodings use bits 14:0; bit 0 selects the high half of a 64-bit field. */
const ENCODINGS = 0x8000;

const offsets = new Uint16Array(ENCODINGS);
{
  let end = FIELDS_OFFSET;
  for (const encoding of Object.values(VMCS)) {
    offsets[encoding] = end;
    end += 8;
  }
}

/** Offset of a field in the region. For fields named by VMCS constants: never absent. */
export function vmcsOffset(encoding: number): number {
  return offsets[encoding] ?? ABSENT;
}

/** True when the encoding (high-half access included) names a field that this CPU has. */
export function hasVmcsField(encoding: number): boolean {
  if (encoding < 0 || encoding >= ENCODINGS) return false;
  if ((encoding & 1) !== 0) return vmcsFieldWidth(encoding) === 64 && vmcsOffset(encoding & ~1) !== ABSENT;
  return vmcsOffset(encoding) !== ABSENT;
}

/** Typed access to the region at `base`, past caches and time: the processor keeps it in its own storage while it is current. */
export class VmcsRegion {
  readonly base: PhysAddr;
  /** Index of the region's first word in its buffer as 32-bit words. */
  readonly firstWord: number;
  private readonly view: DataView;

  constructor(memory: PhysicalMemory, base: PhysAddr) {
    this.base = base;
    const { bytes } = memory;
    this.firstWord = (bytes.byteOffset + base) / 4;
    this.view = new DataView(bytes.buffer, bytes.byteOffset + base, VMCS_BYTES);
  }

  /** Every change of a word of the region. */
  protected put(offset: number, value: number): void {
    this.view.setUint32(offset, value, true);
  }

  get revision(): number {
    return this.view.getUint32(0, true);
  }

  get isLaunched(): boolean {
    return this.view.getUint32(LAUNCH_STATE_OFFSET, true) === 1;
  }

  set isLaunched(value: boolean) {
    this.put(LAUNCH_STATE_OFFSET, value ? 1 : 0);
  }

  /** Low 32 bits, unsigned. */
  low(encoding: number): number {
    return this.view.getUint32(offsets[encoding] ?? ABSENT, true);
  }

  high(encoding: number): number {
    return this.view.getUint32((offsets[encoding] ?? ABSENT) + 4, true);
  }

  /** 64 bits as a sign-extended number: addresses, and values below 2^53. */
  word(encoding: number): number {
    const at = offsets[encoding] ?? ABSENT;
    return this.view.getInt32(at + 4, true) * 2 ** 32 + this.view.getUint32(at, true);
  }

  /** 64 bits as an unsigned number, exact below 2^53: physical addresses. */
  physical(encoding: number): number {
    const at = offsets[encoding] ?? ABSENT;
    return this.view.getUint32(at + 4, true) * 2 ** 32 + this.view.getUint32(at, true);
  }

  set(encoding: number, low: number, high: number): void {
    const at = offsets[encoding] ?? ABSENT;
    this.put(at, low);
    this.put(at + 4, high);
  }

  setWord(encoding: number, value: number): void {
    this.set(encoding, value >>> 0, Math.floor(value / 2 ** 32) >>> 0);
  }

  /** VMREAD: low half; the high half in `readHigh`. The field exists. */
  read(encoding: number): number {
    const field = encoding & ~1;
    if ((encoding & 1) !== 0) {
      this.readHigh = 0;
      return this.high(field);
    }
    this.readHigh = this.high(field);
    return this.low(field);
  }

  readHigh = 0;

  /** VMWRITE, truncated to the width of the field. The field exists. */
  write(encoding: number, low: number, high: number): void {
    if ((encoding & 1) !== 0) {
      this.set(encoding & ~1, this.low(encoding & ~1), low);
      return;
    }
    switch (vmcsFieldWidth(encoding)) {
      case 16:
        this.set(encoding, low & 0xffff, 0);
        return;
      case 32:
        this.set(encoding, low, 0);
        return;
      case 64:
      case "natural":
        this.set(encoding, low, high);
        return;
    }
  }
}
