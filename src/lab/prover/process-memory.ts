// What a process of the prover remembers, in its state page: which operation it is doing, and the few things that operations toggle. It is
// small and finite, so that the state space closes: no counts, no results, nothing that says how it came about.
import { PUPPET_STATE } from "../../hardware/index.ts";

const OPERATION = 0;
const PART = 4;
const EXITS = 8;
const ROLE = 12;
const SETUP = 16;
const FLAGS = 20;
const REGION = 24;
const SHARED = 32;
const FILE = 40;
const PIPE_READ = 44;
const PIPE_WRITE = 48;
const KVM = 52;
const KERNEL_ADDRESSES = 56;
const VMS = 0x80;
const VM_BYTES = 0x40;
const VM_MEMORY = 0;
const VM_FD = 8;
const VCPU_FDS = 16;
/** A word that is always 0: what the end of an operation loads, so that no result stays in a register. */
export const ZERO_ADDRESS = PUPPET_STATE + 0x7f8;
/** Arguments of system calls, written once; then what the kernel writes. */
const ARGUMENTS = 0x800;
const RESULTS = 0xe00;
export const RESULT_ADDRESS = PUPPET_STATE + RESULTS;

/** A main process was started by the kernel; a child was forked by one. */
export type Role = "setting up" | "main" | "child";
const ROLES: readonly Role[] = ["setting up", "main", "child"];

/** Facts that operations turn on and off. */
export const FACTS = ["mapped", "touched", "read-only", "shared", "child", "kernel object", "kernel area", "module"] as const;
export type Fact = (typeof FACTS)[number];

/** Where the arguments of system calls are, in the state page. */
export interface ArgumentPlace {
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** Places for `arguments`, one behind the other. */
export function placeArguments<K extends string>(contents: Readonly<Record<K, Uint8Array>>): Readonly<Record<K, ArgumentPlace>> {
  let at = ARGUMENTS;
  const places: Partial<Record<K, ArgumentPlace>> = {};
  for (const key in contents) {
    const bytes = contents[key];
    places[key] = { address: PUPPET_STATE + at, bytes };
    at += Math.ceil(bytes.length / 16) * 16;
  }
  if (at > RESULTS) throw new RangeError(`${at - ARGUMENTS} bytes of arguments do not fit`);
  return places as Record<K, ArgumentPlace>; // every key was visited
}

export class ProcessMemory {
  private readonly view: DataView;

  constructor(view: DataView) {
    this.view = view;
  }

  /** Number of the operation under way, from 1; 0: none. */
  get operation(): number {
    return this.view.getUint32(OPERATION);
  }
  set operation(value: number) {
    this.view.setUint32(OPERATION, value);
  }

  /** The part of it that comes next. */
  get part(): number {
    return this.view.getUint32(PART);
  }
  set part(value: number) {
    this.view.setUint32(PART, value);
  }

  /** How often its guest has left. */
  get exits(): number {
    return this.view.getUint32(EXITS);
  }
  set exits(value: number) {
    this.view.setUint32(EXITS, value);
  }

  get role(): Role {
    return ROLES[this.view.getUint32(ROLE)] ?? "setting up";
  }
  set role(value: Role) {
    this.view.setUint32(ROLE, ROLES.indexOf(value));
  }

  /** The part of its set-up that comes next. */
  get setup(): number {
    return this.view.getUint32(SETUP);
  }
  set setup(value: number) {
    this.view.setUint32(SETUP, value);
  }

  is(fact: Fact): boolean {
    return (this.view.getUint32(FLAGS) & (1 << FACTS.indexOf(fact))) !== 0;
  }

  set(fact: Fact, value: boolean): void {
    const bit = 1 << FACTS.indexOf(fact);
    const flags = this.view.getUint32(FLAGS);
    this.view.setUint32(FLAGS, value ? flags | bit : flags & ~bit);
  }

  /** Address of the region that is mapped, or was. */
  get region(): number {
    return this.view.getFloat64(REGION);
  }
  set region(value: number) {
    this.view.setFloat64(REGION, value);
  }

  /** A page that a child shares with its parent. */
  get shared(): number {
    return this.view.getFloat64(SHARED);
  }
  set shared(value: number) {
    this.view.setFloat64(SHARED, value);
  }

  get file(): number {
    return this.view.getInt32(FILE);
  }
  set file(value: number) {
    this.view.setInt32(FILE, value);
  }

  get pipeRead(): number {
    return this.view.getInt32(PIPE_READ);
  }
  set pipeRead(value: number) {
    this.view.setInt32(PIPE_READ, value);
  }

  get pipeWrite(): number {
    return this.view.getInt32(PIPE_WRITE);
  }
  set pipeWrite(value: number) {
    this.view.setInt32(PIPE_WRITE, value);
  }

  /** Descriptor of /dev/kvm. */
  get kvm(): number {
    return this.view.getInt32(KVM);
  }
  set kvm(value: number) {
    this.view.setInt32(KVM, value);
  }

  /** Address of something in the kernel, which it gave the process. */
  kernelAddress(index: number): number {
    return this.view.getFloat64(KERNEL_ADDRESSES + 8 * index);
  }
  setKernelAddress(index: number, address: number): void {
    this.view.setFloat64(KERNEL_ADDRESSES + 8 * index, address);
  }

  /** Descriptor of VM number `vm`; 0: there is none. */
  vmFile(vm: number): number {
    return this.view.getInt32(VMS + vm * VM_BYTES + VM_FD);
  }
  setVmFile(vm: number, fd: number): void {
    this.view.setInt32(VMS + vm * VM_BYTES + VM_FD, fd);
  }

  vcpuFile(vm: number, vcpu: number): number {
    return this.view.getInt32(VMS + vm * VM_BYTES + VCPU_FDS + 4 * vcpu);
  }
  setVcpuFile(vm: number, vcpu: number, fd: number): void {
    this.view.setInt32(VMS + vm * VM_BYTES + VCPU_FDS + 4 * vcpu, fd);
  }

  /** Address of the memory that is that VM's. */
  guestMemory(vm: number): number {
    return this.view.getFloat64(VMS + vm * VM_BYTES + VM_MEMORY);
  }
  setGuestMemory(vm: number, address: number): void {
    this.view.setFloat64(VMS + vm * VM_BYTES + VM_MEMORY, address);
  }

  /** A number that the kernel wrote to RESULT_ADDRESS plus `offset`. */
  result32(offset: number): number {
    return this.view.getInt32(RESULTS + offset, true);
  }

  /** Writes an argument to its place. */
  writeArgument(place: ArgumentPlace): void {
    const at = place.address - PUPPET_STATE;
    place.bytes.forEach((byte, i) => {
      this.view.setUint8(at + i, byte);
    });
  }

  /** What the kernel wrote is of no use any more. */
  clearResults(): void {
    for (let at = RESULTS; at < this.view.byteLength; at += 4) if (this.view.getUint32(at) !== 0) this.view.setUint32(at, 0);
  }
}
