// The seam: everything the kernel can do to silicon. Each public method of LogicalCpu that is marked *step* is one instruction's
// worth of effect and the one place where a pending interrupt or NMI may be delivered, as a nested call on the same CPU. The three
// machines implement the protected half; the order record, replay, deliver, act is written once, here.
import type { CpuId, Cr3, PhysAddr, VirtAddr } from "./addresses.ts";
import { assert, fail } from "./assert.ts";
import type { CpuModel } from "./models/model.ts";
import type { Observer } from "./observer.ts";
import { Path, type PathRoot, SUSPEND } from "./path.ts";
import type { PhysicalMemory } from "./physical-memory.ts";

/** Read-modify-write operations of one instruction (LOCK-prefixed or on %gs: the same to one CPU; other CPUs never come between). */
export type RmwOp = "or" | "and" | "add" | "exchange";

/** Width in bytes of a memory step. */
export type Width = 1 | 2 | 4;

/** Outcome of a VMX instruction. SDM vol. 3, 31.2 "Conventions". */
export const VMX_SUCCEED = 0;
export const VMX_FAIL_INVALID = 1;
export const VMX_FAIL_VALID = 2;

/** INVPCID types. SDM vol. 2, INVPCID. */
export const INVPCID_ADDRESS = 0;
export const INVPCID_SINGLE = 1;
export const INVPCID_ALL_GLOBAL = 2;
export const INVPCID_ALL = 3;

/**
 * One logical CPU as the kernel sees it. 64-bit results come back as their low half, with the high half in `high`; addresses and
 * values known to fit (pointers, counters below 2^53) travel as one number.
 */
export abstract class LogicalCpu {
  readonly id: CpuId;
  readonly model: CpuModel;
  /** Physical memory, for observers: free of time, never a step. */
  readonly memory: PhysicalMemory;
  readonly observer: Observer;
  /** High 32 bits of the last 64-bit result of a step. */
  high = 0;
  /** Base of this CPU's per-CPU area: what GS base holds while the kernel runs. Written once, by the CPU's own boot code. */
  perCpuBase = 0 as VirtAddr;
  /** Log of the running kernel path. */
  path: Path = new Path(() => undefined);
  /** Simulated time of this CPU, in core cycles. */
  now = 0;
  /** Cycles that every step costs on top of what its effect costs. */
  protected stepCost = 1;
  /** The step hook runs when this is set: something may be due, or somebody wants to see every step. */
  protected attention = false;
  /** `now` at which the step hook runs regardless (a timer, another CPU's turn). */
  protected horizon = Number.POSITIVE_INFINITY;

  protected constructor(id: CpuId, model: CpuModel, memory: PhysicalMemory, observer: Observer) {
    this.id = id;
    this.model = model;
    this.memory = memory;
    this.observer = observer;
  }

  // ---------------------------------------------------------------- memory, through the MMU with the current CR3, supervisor mode

  /** Step: reads `width` bytes, zero-extended. */
  load(va: VirtAddr, width: Width): number {
    if (this.before()) return this.path.take();
    const value = this.rawLoad(va, width);
    this.path.record(value);
    return value;
  }

  /** Step: reads 8 bytes that hold an address or a value in -2^47..2^53 (sign-extended from 64 bits; exact below 2^53). */
  loadWord(va: VirtAddr): number {
    if (this.before()) return this.path.take();
    const value = this.rawLoadWord(va);
    this.path.record(value);
    return value;
  }

  /** Step: reads 8 bytes; low half returned, high half in `high`. */
  load64(va: VirtAddr): number {
    if (this.before()) return this.take64();
    return this.record64(this.rawLoad64(va));
  }

  /** Step. */
  store(va: VirtAddr, width: Width, value: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawStore(va, width, value);
    this.path.record(0);
  }

  /** Step: writes 8 bytes, the sign-extended value. */
  storeWord(va: VirtAddr, value: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawStoreWord(va, value);
    this.path.record(0);
  }

  /** Step. */
  store64(va: VirtAddr, low: number, high: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawStore64(va, low, high);
    this.path.record(0);
  }

  /** Step: read-modify-write in one instruction; returns the old value, zero-extended. */
  rmw(op: RmwOp, va: VirtAddr, width: Width, operand: number): number {
    if (this.before()) return this.path.take();
    const old = this.rawRmw(op, va, width, operand);
    this.path.record(old);
    return old;
  }

  /** Step: as `rmw`, when nobody wants the old value: it is not in the log of the path, so that a count does not tell paths apart. */
  modify(op: RmwOp, va: VirtAddr, width: Width, operand: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawRmw(op, va, width, operand);
    this.path.record(0);
  }

  /**
   * The `bytes` bytes at `va` only count or label: the abstract machine does not tell states apart by them until their memory is given back.
   * Not a step; repeatable.
   */
  unhashed(_va: VirtAddr, _bytes: number): void {
    // Only the abstract machine tells states apart.
  }

  /** Step: XCHG of an 8-byte word (pointer or counter); returns the old one. */
  exchangeWord(va: VirtAddr, value: number): number {
    if (this.before()) return this.path.take();
    const old = this.rawExchangeWord(va, value);
    this.path.record(old);
    return old;
  }

  /** Step: CMPXCHG of `width` bytes; true when `expected` was found and replaced. */
  compareExchange(va: VirtAddr, width: Width, expected: number, next: number): boolean {
    if (this.before()) return this.path.take() !== 0;
    const done = this.rawCompareExchange(va, width, expected, next);
    this.path.record(done ? 1 : 0);
    return done;
  }

  /** Step: CMPXCHG of 8 bytes given as halves. */
  compareExchange64(va: VirtAddr, expectedLow: number, expectedHigh: number, low: number, high: number): boolean {
    if (this.before()) return this.path.take() !== 0;
    const done = this.rawCompareExchange64(va, expectedLow, expectedHigh, low, high);
    this.path.record(done ? 1 : 0);
    return done;
  }

  /** Step: fills `bytes` bytes with `value` (REP STOSB; charged by length). Must not cross into an unmapped page. */
  fill(va: VirtAddr, value: number, bytes: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawFill(va, value, bytes);
    this.path.record(0);
  }

  /** Step: copies `bytes` bytes within kernel memory (REP MOVSB; charged by length). User copies go through a stub with a fixup. */
  copy(to: VirtAddr, from: VirtAddr, bytes: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawCopy(to, from, bytes);
    this.path.record(0);
  }

  // ---------------------------------------------------------------- control registers, MSRs, TLB

  /** Step. */
  readCr0(): number {
    if (this.before()) return this.path.take();
    const value = this.rawReadControl(0);
    this.path.record(value);
    return value;
  }

  /** Step. */
  writeCr0(value: number): void {
    this.writeControl(0, value);
  }

  /** Step. */
  readCr2(): VirtAddr {
    if (this.before()) return this.path.take() as VirtAddr;
    const value = this.rawReadControl(2);
    this.path.record(value);
    return value as VirtAddr;
  }

  /** Step (the NMI entry restores what a page fault inside the NMI overwrote). */
  writeCr2(value: VirtAddr): void {
    this.writeControl(2, value);
  }

  /** Step: the hardware CR3 (never with bit 63). Kernel: `__read_cr3_raw()`. */
  readCr3(): Cr3 {
    if (this.before()) return this.path.take() as Cr3;
    const value = this.rawReadControl(3);
    this.path.record(value);
    return value as Cr3;
  }

  /** Step. With `noflush` (bit 63) the TLB entries of the PCID stay. SDM vol. 3, 5.10.4.1. */
  writeCr3(value: Cr3, noflush: boolean): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawWriteCr3(value, noflush);
    this.path.record(0);
  }

  /** Step. */
  readCr4(): number {
    if (this.before()) return this.path.take();
    const value = this.rawReadControl(4);
    this.path.record(value);
    return value;
  }

  /** Step. */
  writeCr4(value: number): void {
    this.writeControl(4, value);
  }

  /** Step: RDMSR; low half returned, high half in `high`. An unknown MSR is an invariant violation (the kernel asks CPUID first). */
  readMsr(msr: number): number {
    if (this.before()) return this.take64();
    return this.record64(this.rawReadMsr(msr));
  }

  /** Step: WRMSR, with all its effects (IBPB, L1D flush, timers, IPIs through the x2APIC). */
  writeMsr(msr: number, low: number, high: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawWriteMsr(msr, low >>> 0, high >>> 0);
    this.path.record(0);
  }

  /** Step: INVLPG of the current address space and global entries. */
  invlpg(va: VirtAddr): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawInvlpg(va);
    this.path.record(0);
  }

  /** Step: INVPCID. `type`: INVPCID_*. */
  invpcid(type: number, pcid: number, va: VirtAddr): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawInvpcid(type, pcid, va);
    this.path.record(0);
  }

  // ---------------------------------------------------------------- interrupts, time, identification, tables, ports

  /** Step: CLI. */
  disableInterrupts(): void {
    this.setInterrupts(false);
  }

  /** Step: STI; what is pending is delivered at the next step. */
  enableInterrupts(): void {
    this.setInterrupts(true);
  }

  /** Step: RFLAGS (PUSHF). Bit 9 is IF. */
  readFlags(): number {
    if (this.before()) return this.path.take();
    const value = this.rawReadFlags();
    this.path.record(value);
    return value;
  }

  /** Step: STI; HLT. Returns after an interrupt or NMI was handled (kernel: `safe_halt()`). */
  halt(): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawHalt();
    this.path.record(0);
  }

  /**
   * Step: gives the CPU back to the firmware (in ACPI's words, it plays dead): nothing but memory remembers that it ran, and it does nothing
   * until the wakeup mailbox starts it anew. Does not return; the running path is forgotten. Interrupts off; not in a guest.
   */
  park(): void {
    this.before();
    this.rawPark();
  }

  /** Step: PAUSE in a spin loop: other CPUs get their turn first. */
  pause(): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.path.record(0);
    this.path.isPastStep = true;
    this.rawPause();
  }

  /** Step: RDTSC as a number (cycles since boot, below 2^53). */
  readTsc(): number {
    if (this.before()) return this.path.take();
    const value = this.rawReadTsc();
    this.path.record(value);
    return value;
  }

  /** Step: CPUID. One register of the result: 0 EAX, 1 EBX, 2 ECX, 3 EDX. */
  cpuid(leaf: number, subleaf: number, register: 0 | 1 | 2 | 3): number {
    if (this.before()) return this.path.take();
    const value = this.rawCpuid(leaf, subleaf, register);
    this.path.record(value);
    return value;
  }

  /** Step: LGDT, LIDT, LTR; `which` names the register, `base`/`limit` for the first two, the selector in `base` for "tr". */
  loadTable(which: "gdt" | "idt" | "tr", base: number, limit: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawLoadTable(which, base, limit);
    this.path.record(0);
  }

  /** Step: IN. */
  portIn(port: number, width: Width): number {
    if (this.before()) return this.path.take();
    const value = this.rawPortIn(port, width);
    this.path.record(value);
    return value;
  }

  /** Step: OUT. */
  portOut(port: number, width: Width, value: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawPortOut(port, width, value);
    this.path.record(0);
  }

  // ---------------------------------------------------------------- VMX (SDM vol. 3, 31)

  /** Step: VMXON, VMXOFF (operand ignored), VMCLEAR, VMPTRLD with the physical address of the region. @returns VMX_* */
  vmx(instruction: "vmxon" | "vmxoff" | "vmclear" | "vmptrld", region: PhysAddr): number {
    if (this.before()) return this.path.take();
    const status = this.rawVmx(instruction, region);
    this.path.record(status);
    return status;
  }

  /** Step: VMREAD of the current VMCS; low half returned, high half in `high`. A failure is an invariant violation. */
  vmread(field: number): number {
    if (this.before()) return this.take64();
    return this.record64(this.rawVmread(field));
  }

  /** Step: VMWRITE to the current VMCS. @returns VMX_* */
  vmwrite(field: number, low: number, high: number): number {
    if (this.before()) return this.path.take();
    const status = this.rawVmwrite(field, low >>> 0, high >>> 0);
    this.path.record(status);
    return status;
  }

  /** Step: INVEPT or INVVPID of one context or (id 0) all. `id`: the EPT pointer's root, or the VPID. */
  invalidateGuest(kind: "ept" | "vpid", id: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawInvalidateGuest(kind, id);
    this.path.record(0);
  }

  // ---------------------------------------------------------------- machine code and paths

  /**
   * Step: calls a stub of kernel text by its symbol with up to four arguments (RDI, RSI, RDX, RCX) and returns RAX as a number.
   * Interrupts and faults inside it are delivered as on silicon; a guest that the stub enters runs inside this step.
   */
  callStub(symbol: string, a0 = 0, a1 = 0, a2 = 0, a3 = 0): number {
    if (this.before()) return this.path.take();
    const value = this.rawCallStub(symbol, a0, a1, a2, a3);
    this.path.record(value);
    return value;
  }

  /** Step: delivers `vector` as the hardware would, through the IDT (a VM exit that acknowledged an interrupt; an NMI that caused one). */
  invokeVector(vector: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawInvokeVector(vector);
    this.path.record(0);
  }

  /** Step: RSP, which at an entry's trap points to the saved registers (struct pt_regs). */
  stackPointer(): VirtAddr {
    if (this.before()) return this.path.take() as VirtAddr;
    const value = this.rawStackPointer();
    this.path.record(value);
    return value as VirtAddr;
  }

  /**
   * Step: switches kernel stacks with the stub `symbol` (RDI = prev, RSI = next: task addresses). The running path goes to sleep with
   * `prev`; it returns from here when somebody switches back to `prev`.
   */
  switchTo(symbol: string, prev: VirtAddr, next: VirtAddr): void {
    if (this.before()) {
      this.path.take();
      // The stub itself was interrupted or suspended: it goes on now, for no step need follow.
      if (this.path.isAtNested) {
        this.finishNested(this.path.reenter());
        this.path.isBehind = true;
      }
      return;
    }
    this.path.record(0);
    this.path.isPastStep = true;
    this.rawSwitchTo(symbol, prev, next);
  }

  /**
   * The task at address `task` is dead and its stack is given back: what it last slept in is forgotten, so that a task that is new at the
   * same address begins at its own beginning. Called by whoever gives the stack back. Not a step; repeatable.
   */
  forgetPath(task: VirtAddr): void {
    if (this.isLive) this.rawForgetPath(task);
  }

  /**
   * Cut point: the log ends here, and if the path is suspended later it goes on by calling `resume` instead of the entry it began
   * with. `resume` must do what the live code does from here to the end of the event. Not inside a nested handler. Not a step.
   */
  cutPoint(resume: PathRoot): void {
    if (this.path.isReplaying) return;
    assert(this.path.depth === 0, () => `cut point inside a nested handler: cpu ${this.id}`);
    this.path.restart(resume);
  }

  /** Charges time for work that is not simulated step by step; never a delivery point. */
  charge(cost: number): void {
    if (this.isLive) this.now += cost;
  }

  /** Charges the cache footprint of a real path that is longer than ours: `bytes` at `va` are touched. Never a delivery point. */
  touch(va: VirtAddr, bytes: number): void {
    if (this.isLive) this.rawTouch(va, bytes);
  }

  /** Tells the machine that the trap instruction at physical address `trap` belongs to puppet `name`. Not a step; repeatable. */
  abstract registerPuppet(name: string, trap: PhysAddr): void;

  /**
   * Step: VMLAUNCH or VMRESUME and the guest behind it, until its exit. Only for stub effects: where there are instructions, the
   * stub's program holds the instruction and this is an invariant violation. @returns 0 after a VM exit, else VMX_FAIL_*.
   */
  enterGuest(resume: boolean): number {
    if (this.before()) return this.path.take();
    const status = this.rawEnterGuest(resume);
    this.path.record(status);
    return status;
  }

  /**
   * Step of a stub effect: a general register by its encoding (0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, 5 RBP, 6 RSI, 7 RDI, 8..15); low half
   * returned, high half in `high`. For stub effects only: where there are instructions, registers belong to them.
   */
  readRegister(register: number): number {
    if (this.before()) return this.take64();
    return this.record64(this.rawReadRegister(register));
  }

  /** Step of a stub effect: writes a general register. Writing RSP (4) moves the stack. */
  writeRegister(register: number, low: number, high: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawWriteRegister(register, low >>> 0, high >>> 0);
    this.path.record(0);
  }

  /**
   * Step of a stub effect: REP MOVSB whose fault may be fixed up. While it runs RIP is the address of the stub's symbol (the handler
   * finds the fixup by that); when the handler sends RIP elsewhere the copy ends. @returns bytes not copied.
   */
  copyFixable(to: VirtAddr, from: VirtAddr, bytes: number): number {
    if (this.before()) return this.path.take();
    const left = this.rawCopyFixable(to, from, bytes);
    this.path.record(left);
    return left;
  }

  /** True when observers should listen: the running code has effects (it is not a replay). */
  get isLive(): boolean {
    return !this.path.isReplaying && !this.path.isBehind;
  }

  // ---------------------------------------------------------------- what a machine implements

  /** Delivers what is due; may throw SUSPEND to give other CPUs their turn. Called before a live step when attention or the horizon asks. */
  protected abstract due(): void;
  /** Goes on with the delivery of the nested handler that the path is re-entering, until its return. */
  protected abstract finishNested(root: PathRoot): void;

  protected abstract rawLoad(va: VirtAddr, width: Width): number;
  protected abstract rawLoadWord(va: VirtAddr): number;
  /** Sets `high`. */
  protected abstract rawLoad64(va: VirtAddr): number;
  protected abstract rawStore(va: VirtAddr, width: Width, value: number): void;
  protected abstract rawStoreWord(va: VirtAddr, value: number): void;
  protected abstract rawStore64(va: VirtAddr, low: number, high: number): void;
  protected abstract rawRmw(op: RmwOp, va: VirtAddr, width: Width, operand: number): number;
  protected abstract rawExchangeWord(va: VirtAddr, value: number): number;
  protected abstract rawCompareExchange(va: VirtAddr, width: Width, expected: number, next: number): boolean;
  protected abstract rawCompareExchange64(va: VirtAddr, expectedLow: number, expectedHigh: number, low: number, high: number): boolean;
  protected abstract rawFill(va: VirtAddr, value: number, bytes: number): void;
  protected abstract rawCopy(to: VirtAddr, from: VirtAddr, bytes: number): void;
  protected abstract rawReadControl(register: 0 | 2 | 3 | 4): number;
  protected abstract rawWriteControl(register: 0 | 2 | 4, value: number): void;
  protected abstract rawWriteCr3(value: Cr3, noflush: boolean): void;
  /** Sets `high`. */
  protected abstract rawReadMsr(msr: number): number;
  protected abstract rawWriteMsr(msr: number, low: number, high: number): void;
  protected abstract rawInvlpg(va: VirtAddr): void;
  protected abstract rawInvpcid(type: number, pcid: number, va: VirtAddr): void;
  protected abstract rawSetInterrupts(enabled: boolean): void;
  protected abstract rawReadFlags(): number;
  protected abstract rawHalt(): void;
  /** Throws SUSPEND, the path dropped. */
  protected abstract rawPark(): void;
  protected abstract rawPause(): void;
  protected abstract rawReadTsc(): number;
  protected abstract rawCpuid(leaf: number, subleaf: number, register: 0 | 1 | 2 | 3): number;
  protected abstract rawLoadTable(which: "gdt" | "idt" | "tr", base: number, limit: number): void;
  protected abstract rawPortIn(port: number, width: Width): number;
  protected abstract rawPortOut(port: number, width: Width, value: number): void;
  protected abstract rawVmx(instruction: "vmxon" | "vmxoff" | "vmclear" | "vmptrld", region: PhysAddr): number;
  /** Sets `high`. */
  protected abstract rawVmread(field: number): number;
  protected abstract rawVmwrite(field: number, low: number, high: number): number;
  protected abstract rawInvalidateGuest(kind: "ept" | "vpid", id: number): void;
  protected abstract rawCallStub(symbol: string, a0: number, a1: number, a2: number, a3: number): number;
  protected abstract rawInvokeVector(vector: number): void;
  protected abstract rawStackPointer(): number;
  /** Parks the path with `prev` and throws SUSPEND (or returns when `next` is `prev`). */
  protected abstract rawSwitchTo(symbol: string, prev: VirtAddr, next: VirtAddr): void;
  protected abstract rawForgetPath(task: VirtAddr): void;
  protected abstract rawEnterGuest(resume: boolean): number;
  protected abstract rawTouch(va: VirtAddr, bytes: number): void;
  // For machines without instructions only, which override them; `high` is set by the first.
  protected rawReadRegister(_register: number): number {
    return fail("readRegister() is for stub effects");
  }
  protected rawWriteRegister(_register: number, _low: number, _high: number): void {
    fail("writeRegister() is for stub effects");
  }
  protected rawCopyFixable(_to: VirtAddr, _from: VirtAddr, _bytes: number): number {
    return fail("copyFixable() is for stub effects");
  }

  // ---------------------------------------------------------------- private

  /** What precedes every step. @returns true when the result comes from the log. */
  private before(): boolean {
    const path = this.path;
    if (path.isReplaying) {
      while (path.isAtNested) this.finishNested(path.reenter());
      if (path.isReplaying) return true;
    }
    path.isPastStep = false;
    path.isBehind = false;
    this.now += this.stepCost;
    if (this.attention || this.now >= this.horizon) this.due();
    return false;
  }

  private record64(low: number): number {
    this.path.record(low);
    this.path.record(this.high);
    return low;
  }

  private take64(): number {
    const low = this.path.take();
    this.high = this.path.take();
    return low;
  }

  private writeControl(register: 0 | 2 | 4, value: number): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawWriteControl(register, value);
    this.path.record(0);
  }

  private setInterrupts(enabled: boolean): void {
    if (this.before()) {
      this.path.take();
      return;
    }
    this.rawSetInterrupts(enabled);
    this.path.record(0);
  }
}

/** The logical CPU that runs the current kernel code; set by the seam at each entry, as %gs is. A live binding. */
export let cpu: LogicalCpu;

/** Makes `next` the ambient CPU. Called by machines only. */
export function setAmbientCpu(next: LogicalCpu): void {
  cpu = next;
}

/** True for the exception that drops a kernel path's stack. Machines' loops only. */
export function isSuspension(error: unknown): boolean {
  return error === SUSPEND;
}
