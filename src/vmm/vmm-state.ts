// The state page of a monitor: all that it remembers, and the structures that it passes to the kernel, which must be in its memory.
import { KVM_CPUID_ENTRY2_BYTES, KVM_CPUID2_BYTES } from "../abi/index.ts";
import { PUPPET_STATE, type PuppetView } from "../hardware/index.ts";

/** Offsets in the state page. */
const OFFSET = {
  phase: 0,
  piece: 4,
  kvmFd: 8,
  vmFd: 12,
  vcpuFd: 16,
  runBytes: 20,
  consoleLength: 24,
  afterFlush: 28,
  status: 32,
  memory: 40,
  run: 48,
  path: 0x100,
  region: 0x140,
  regs: 0x180,
  sregs: 0x240,
  console: 0x400,
  cpuid: 0x600,
} as const;
const CONSOLE_BYTES = OFFSET.cpuid - OFFSET.console;
/** CPUID entries that fit into the rest of the page. */
export const CPUID_ENTRIES = Math.floor((4096 - OFFSET.cpuid - KVM_CPUID2_BYTES) / KVM_CPUID_ENTRY2_BYTES);

/** Typed access to the page for the time of one decision. */
export class VmmState {
  readonly view: DataView;

  constructor(puppet: PuppetView) {
    this.view = puppet.state;
  }

  /** Address of a structure in the monitor's user space. */
  static address(name: "path" | "region" | "regs" | "sregs" | "console" | "cpuid"): number {
    return PUPPET_STATE + OFFSET[name];
  }

  offset(name: "region" | "regs" | "sregs" | "cpuid"): number {
    return OFFSET[name];
  }

  get(name: "phase" | "piece" | "kvmFd" | "vmFd" | "vcpuFd" | "runBytes" | "afterFlush" | "status"): number {
    return this.view.getUint32(OFFSET[name], true);
  }

  set(name: "phase" | "piece" | "kvmFd" | "vmFd" | "vcpuFd" | "runBytes" | "afterFlush" | "status", value: number): void {
    this.view.setUint32(OFFSET[name], value, true);
  }

  /** Address of guest memory, or of struct kvm_run, in the monitor's user space. */
  getAddress(name: "memory" | "run"): number {
    return this.view.getFloat64(OFFSET[name], true);
  }

  setAddress(name: "memory" | "run", value: number): void {
    this.view.setFloat64(OFFSET[name], value, true);
  }

  setPath(text: string): void {
    for (let i = 0; i <= text.length; i++) this.view.setUint8(OFFSET.path + i, i < text.length ? text.charCodeAt(i) : 0);
  }

  /** Adds a byte of console output. @returns true when the buffer must be written: it is full, or the line ends. */
  putConsole(byte: number): boolean {
    const length = this.consoleLength;
    this.view.setUint8(OFFSET.console + length, byte);
    this.view.setUint32(OFFSET.consoleLength, length + 1, true);
    return byte === 0x0a || length + 1 === CONSOLE_BYTES;
  }

  get consoleLength(): number {
    return this.view.getUint32(OFFSET.consoleLength, true);
  }

  clearConsole(): void {
    this.view.setUint32(OFFSET.consoleLength, 0, true);
  }
}
