// What a process of the soak remembers, in its state page: which slot it is, its regions, file descriptors and children. A
// forked child begins with a copy.
import { PAGE_SIZE } from "../../hardware/index.ts";

const SLOT = 0;
const ROLE = 4;
/** Next part of the process's item. */
const PART = 8;
const ITEM = 20;
const NEXT_REGION = 12;
const NEXT_FD = 16;
const LAST_CHILD = 24;
const BREAK = 32;
const REGIONS = 0x100;
const REGION_BYTES = 24;
export const REGION_SLOTS = 8;
const FDS = 0x200;
export const FD_SLOTS = 8;
const KVM = 0x280;

/** A place in the state page for arguments that the kernel reads or writes. */
export const SCRATCH = 0x800;
export const SCRATCH_BYTES = PAGE_SIZE - SCRATCH;

/** A worker does what the script says; when it dies, whoever forked it forks another one that goes on. */
const ROLES = ["new", "forking", "waiting", "worker"] as const;
export type Role = (typeof ROLES)[number];

export interface Region {
  readonly address: number;
  readonly pages: number;
  readonly protection: number;
}

export class ProcessState {
  private readonly view: DataView;

  constructor(view: DataView) {
    this.view = view;
  }

  /** Slot of the process, from 0; `undefined` before it was told. */
  get slot(): number | undefined {
    const stored = this.view.getUint32(SLOT);
    return stored === 0 ? undefined : stored - 1;
  }

  /** Becomes the process of another slot. */
  begin(slot: number): void {
    this.view.setUint32(SLOT, slot + 1);
    this.role = "worker";
    this.part = 0;
    this.lastChild = 0;
  }

  get role(): Role {
    return ROLES[this.view.getUint32(ROLE)] ?? "new";
  }

  set role(value: Role) {
    this.view.setUint32(ROLE, ROLES.indexOf(value));
  }

  /** Index of the item under way, in its slot's script. */
  get item(): number {
    return this.view.getUint32(ITEM);
  }

  set item(value: number) {
    this.view.setUint32(ITEM, value);
  }

  get part(): number {
    return this.view.getUint32(PART);
  }

  set part(value: number) {
    this.view.setUint32(PART, value);
  }

  get lastChild(): number {
    return this.view.getFloat64(LAST_CHILD);
  }

  set lastChild(value: number) {
    this.view.setFloat64(LAST_CHILD, value);
  }

  /** End of the heap as the kernel last told it. */
  get programBreak(): number {
    return this.view.getFloat64(BREAK);
  }

  set programBreak(value: number) {
    this.view.setFloat64(BREAK, value);
  }

  region(index: number): Region | undefined {
    const at = REGIONS + (index % REGION_SLOTS) * REGION_BYTES;
    const address = this.view.getFloat64(at);
    if (address === 0) return undefined;
    return { address, pages: this.view.getUint32(at + 8), protection: this.view.getUint32(at + 12) };
  }

  setRegion(index: number, region: Region | undefined): void {
    const at = REGIONS + (index % REGION_SLOTS) * REGION_BYTES;
    this.view.setFloat64(at, region?.address ?? 0);
    this.view.setUint32(at + 8, region?.pages ?? 0);
    this.view.setUint32(at + 12, region?.protection ?? 0);
  }

  /** Index of the region that the next one takes the place of: what is forgotten stays mapped until the process ends. */
  takeRegionIndex(): number {
    const index = this.view.getUint32(NEXT_REGION);
    this.view.setUint32(NEXT_REGION, (index + 1) % REGION_SLOTS);
    return index;
  }

  /** A file descriptor, or -1. */
  fd(index: number): number {
    return this.view.getInt32(FDS + (index % FD_SLOTS) * 4) - 1;
  }

  addFd(fd: number): void {
    const index = this.view.getUint32(NEXT_FD);
    this.view.setUint32(NEXT_FD, (index + 1) % FD_SLOTS);
    this.view.setInt32(FDS + index * 4, fd + 1);
  }

  dropFd(fd: number): void {
    for (let i = 0; i < FD_SLOTS; i++) if (this.fd(i) === fd) this.view.setInt32(FDS + i * 4, 0);
  }

  /** Descriptors of the VM: 0 /dev/kvm, 1 VM, 2 vCPU; -1 where there is none. */
  kvmFd(which: 0 | 1 | 2): number {
    return this.view.getInt32(KVM + which * 4) - 1;
  }

  setKvmFd(which: 0 | 1 | 2, fd: number): void {
    this.view.setInt32(KVM + which * 4, fd + 1);
  }

  get guestMemory(): number {
    return this.view.getFloat64(KVM + 16);
  }

  set guestMemory(address: number) {
    this.view.setFloat64(KVM + 16, address);
  }

  scratch32(offset: number): number {
    return this.view.getInt32(SCRATCH + offset, true);
  }
}
