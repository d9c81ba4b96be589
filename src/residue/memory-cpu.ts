// The first layer of a CPU of the abstract machine: its state, and memory as kernel code reaches it, through the MMU, with faults that are
// delivered and the access tried again.
import {
  assert,
  type CpuId,
  type CpuModel,
  cr3Root,
  fail,
  hex,
  LogicalCpu,
  type Observer,
  PAGE_SIZE,
  type PhysAddr,
  type RmwOp,
  VECTOR_PF,
  type VirtAddr,
  type Width,
} from "../hardware/index.ts";
import { CoreState, RCX } from "./core-state.ts";
import type { LinearAccess } from "./frames.ts";
import { Labels } from "./labels.ts";
import { type Access, FAULT, Mmu, READ, WRITE } from "./mmu.ts";
import { ResiduePath } from "./residue-path.ts";
import type { TrackedMemory } from "./tracked-memory.ts";

/** Faults of one access without progress before the machine gives up (spec S6). */
const FAULT_LIMIT = 8;

/** Told what steps touch: for whoever wants to know which of them could be exchanged. */
export interface AccessWatch {
  /** Memory: `bytes` bytes in one page. `va` is NaN for an entry of page tables that the processor read. */
  access(cpu: MemoryCpu, va: number, pa: number, bytes: number, isWrite: boolean): void;
  /** Anything else that kernel code reads or changes, apart from its general registers. */
  register(): void;
}

const WORD_BYTES = 8;

export abstract class MemoryCpu extends LogicalCpu {
  declare readonly memory: TrackedMemory;
  declare path: ResiduePath;
  readonly state: CoreState;
  readonly labels: Labels;
  readonly mmu: Mmu;
  /** Page faults that were delivered. */
  faults = 0;
  protected readonly linear: LinearAccess;
  protected watch: AccessWatch | undefined;
  /** Addresses of the stubs whose effects run, innermost last. */
  protected readonly running: VirtAddr[] = [];

  protected constructor(id: CpuId, model: CpuModel, memory: TrackedMemory, observer: Observer) {
    super(id, model, memory, observer);
    this.state = new CoreState(memory);
    this.labels = new Labels(model, memory, id);
    this.mmu = new Mmu(memory, this.state, this.labels, id);
    this.path = new ResiduePath(memory.log);
    this.linear = {
      readWord: (va) => this.memory.readWord(this.at(va, READ)),
      read32: (va) => this.memory.read32(this.tableEntry(va)),
      writeWord: (va, value) => this.memory.writeWord(this.at(va, WRITE), value),
      canWrite: (va, bytes) => this.mmu.translate(va, WRITE, false) !== FAULT && this.mmu.translate(va + bytes - 1, WRITE, false) !== FAULT,
    };
  }

  /** Delivers `vector` to its handler and returns when that has returned. */
  protected abstract deliverNested(vector: number, error: number | undefined): void;

  /** Physical address of a supervisor access; faults are delivered and the access tried again. */
  private at(va: number, access: Access): PhysAddr {
    const { mmu } = this;
    for (let tries = 0; ; tries++) {
      const pa = mmu.translate(va, access, false);
      if (pa !== FAULT) {
        if (!this.memory.has(pa, 1)) fail(`access beyond RAM: ${hex(va)} -> physical ${hex(pa)}`);
        if (this.watch !== undefined) this.watch.access(this, va, pa, Math.min(WORD_BYTES, PAGE_SIZE - (pa % PAGE_SIZE)), access === WRITE);
        return pa as PhysAddr;
      }
      if (tries >= FAULT_LIMIT) fail(`S6: the access to ${hex(va)} faulted ${tries} times without progress on cpu ${this.id}`);
      this.fault(va);
    }
  }

  /** An access of the processor's own to IDT, GDT or TSS while it delivers something. */
  private tableEntry(va: number): PhysAddr {
    const pa = this.mmu.translate(va, READ, false);
    if (pa === FAULT)
      fail(`triple fault: the descriptor table at ${hex(va)} is not mapped, CR3 ${hex(this.state.cr3)}, RIP ${hex(this.state.rip)}`);
    return pa as PhysAddr;
  }

  private fault(va: number): void {
    this.faults++;
    const { faultVector, faultError } = this.mmu;
    if (faultVector === VECTOR_PF) this.state.cr2 = va as VirtAddr;
    this.deliverNested(faultVector, faultError);
  }

  /** Runs `act` on each piece of `[va, va + bytes)` that lies in one page. */
  private byPage(va: number, bytes: number, act: (va: number, done: number, count: number) => void): void {
    for (let done = 0; done < bytes; ) {
      const here = va + done;
      const count = Math.min(bytes - done, PAGE_SIZE - (here - Math.floor(here / PAGE_SIZE) * PAGE_SIZE));
      act(here, done, count);
      done += count;
    }
  }

  /** Tells `watch` what steps touch from now on. */
  watchAccesses(watch: AccessWatch): void {
    this.watch = watch;
    this.labels.onChange = () => watch.register();
    this.mmu.onWalk = (entry) => watch.access(this, Number.NaN, entry, WORD_BYTES, false);
  }

  override unhashed(va: VirtAddr, bytes: number): void {
    const pa = this.isLive ? this.mmu.peek(va, cr3Root(this.state.cr3)) : undefined;
    if (pa !== undefined) this.memory.unhash(pa, bytes);
  }

  protected rawLoad(va: VirtAddr, width: Width): number {
    const pa = this.at(va, READ);
    return width === 4 ? this.memory.read32(pa) : width === 1 ? this.memory.read8(pa) : this.memory.read16(pa);
  }

  protected rawLoadWord(va: VirtAddr): number {
    return this.memory.readWord(this.at(va, READ));
  }

  protected rawLoad64(va: VirtAddr): number {
    const pa = this.at(va, READ);
    this.high = this.memory.read32((pa + 4) as PhysAddr);
    return this.memory.read32(pa);
  }

  protected rawStore(va: VirtAddr, width: Width, value: number): void {
    this.put(this.at(va, WRITE), width, value);
  }

  private put(pa: PhysAddr, width: Width, value: number): void {
    if (width === 4) this.memory.write32(pa, value >>> 0);
    else if (width === 1) this.memory.write8(pa, value & 0xff);
    else this.memory.write16(pa, value & 0xffff);
  }

  protected rawStoreWord(va: VirtAddr, value: number): void {
    this.memory.writeWord(this.at(va, WRITE), value);
  }

  protected rawStore64(va: VirtAddr, low: number, high: number): void {
    const pa = this.at(va, WRITE);
    this.memory.write32(pa, low >>> 0);
    this.memory.write32((pa + 4) as PhysAddr, high >>> 0);
  }

  protected rawRmw(op: RmwOp, va: VirtAddr, width: Width, operand: number): number {
    const pa = this.at(va, WRITE);
    const old = width === 4 ? this.memory.read32(pa) : width === 1 ? this.memory.read8(pa) : this.memory.read16(pa);
    let next = operand;
    if (op === "or") next = old | operand;
    else if (op === "and") next = old & operand;
    else if (op === "add") next = old + operand;
    this.put(pa, width, next);
    return old;
  }

  protected rawExchangeWord(va: VirtAddr, value: number): number {
    const pa = this.at(va, WRITE);
    const old = this.memory.readWord(pa);
    this.memory.writeWord(pa, value);
    return old;
  }

  protected rawCompareExchange(va: VirtAddr, width: Width, expected: number, next: number): boolean {
    const pa = this.at(va, WRITE);
    const old = width === 4 ? this.memory.read32(pa) : width === 1 ? this.memory.read8(pa) : this.memory.read16(pa);
    const wanted = width === 4 ? expected >>> 0 : expected & (width === 1 ? 0xff : 0xffff);
    if (old !== wanted) return false;
    this.put(pa, width, next);
    return true;
  }

  protected rawCompareExchange64(va: VirtAddr, expectedLow: number, expectedHigh: number, low: number, high: number): boolean {
    const pa = this.at(va, WRITE);
    const upper = (pa + 4) as PhysAddr;
    if (this.memory.read32(pa) !== expectedLow >>> 0 || this.memory.read32(upper) !== expectedHigh >>> 0) return false;
    this.memory.write32(pa, low >>> 0);
    this.memory.write32(upper, high >>> 0);
    return true;
  }

  protected rawFill(va: VirtAddr, value: number, bytes: number): void {
    this.byPage(va, bytes, (here, _done, count) => {
      const pa = this.at(here, WRITE);
      this.watch?.access(this, here, pa, count, true);
      this.memory.fill(pa, value, count);
    });
  }

  protected rawCopy(to: VirtAddr, from: VirtAddr, bytes: number): void {
    this.byPage(to, bytes, (target, done, count) => {
      this.byPage(from + done, count, (source, part, length) => {
        const read = this.at(source, READ);
        const write = this.at(target + part, WRITE);
        this.watch?.access(this, source, read, length, false);
        this.watch?.access(this, target + part, write, length, true);
        this.memory.copyWithin(write, read, length);
      });
    });
  }

  protected override rawCopyFixable(to: VirtAddr, from: VirtAddr, bytes: number): number {
    const { state } = this;
    const stub = this.running.at(-1) ?? fail("copyFixable() outside a stub's effect");
    let left = bytes;
    // A fixup that was taken while the path was brought back: RIP is no longer the stub's.
    while (state.rip === stub && left > 0) {
      const source = from + (bytes - left);
      const target = to + (bytes - left);
      state.setRegister(RCX, left);
      const read = this.translateOnce(source, READ, stub);
      if (read === FAULT) continue;
      const write = this.translateOnce(target, WRITE, stub);
      if (write === FAULT) continue;
      const count = Math.min(left, PAGE_SIZE - (read % PAGE_SIZE), PAGE_SIZE - (write % PAGE_SIZE));
      this.watch?.access(this, source, read, count, false);
      this.watch?.access(this, target, write, count, true);
      this.memory.copyWithin(write as PhysAddr, read as PhysAddr, count);
      left -= count;
    }
    if (state.rip !== stub) left = state.register(RCX);
    state.rip = stub;
    return left;
  }

  /** One try of an access whose fault may be fixed up: FAULT after the handler ran. */
  private translateOnce(va: number, access: Access, stub: VirtAddr): number {
    const pa = this.mmu.translate(va, access, false);
    if (pa === FAULT && this.state.rip === stub) this.fault(va);
    return pa;
  }

  protected rawTouch(va: VirtAddr, bytes: number): void {
    this.byPage(va, bytes, (here) => {
      const pa = this.mmu.translate(here, READ, false);
      assert(pa !== FAULT, () => `touch() of memory that is not mapped: ${hex(here)}`);
    });
  }
}
