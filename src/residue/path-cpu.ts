// The third layer: kernel paths. Delivery through the IDT as nested roots, entry stubs as events, stub calls by their effects, and the
// switch from one task's path to another's. Everything nested is a root that can be run again from its beginning (law 3).
import {
  assert,
  CR4_MCE,
  fail,
  fromHalves,
  hex,
  LEAVE_SYSRETQ,
  PAGE_SIZE,
  type PathRoot,
  type PhysAddr,
  RFLAGS_IF,
  STUB_CLEAR_CPU_BUFFERS,
  STUB_FILL_RETURN_BUFFER,
  STUB_L1D_FLUSH_SOFTWARE,
  STUB_RETURN,
  type Stub,
  SUSPEND,
  VECTOR_MC,
  VECTOR_NMI,
  type VirtAddr,
} from "../hardware/index.ts";
import { RCX, RDI, RDX, RSI, RSP } from "./core-state.ts";
import { interruptReturn, pushFrame, systemReturn } from "./frames.ts";
import { RegisterCpu } from "./register-cpu.ts";
import { ResiduePath } from "./residue-path.ts";
import type { Undoable } from "./undo-log.ts";

const PUSHED_BY_CALL = 16;
/** RIP, CS, RFLAGS, RSP, SS. */
const FRAME_BYTES = 40;
/** So many clear words in a row end a dead stack: more than any frame leaves untouched. */
const CLEAN_WORDS = 96;
const INTERRUPT_VECTOR_LIMIT = 256;

export abstract class PathCpu extends RegisterCpu implements Undoable {
  /** Result of a stub call or of an invoked vector that came to its end while its path was brought back; the step takes it. */
  protected completed: number | undefined;

  /** Delivery from user mode: a new event. */
  protected deliverEvent(vector: number, error: number | undefined): void {
    pushFrame(this.state, this.linear, vector, error);
    const top = this.state.rsp + FRAME_BYTES + (error === undefined ? 0 : 8);
    this.enterKernel(this.host.stubAt(this.state.rip) ?? fail(`the gate of vector ${vector} leads to no stub: ${hex(this.state.rip)}`));
    this.path.putStackTop(top);
  }

  /** `argument`: RDI of a CPU's first entry. */
  protected enterKernel(stub: Stub, argument = 0): void {
    const { state } = this;
    state.activity = "kernel";
    const address = this.host.symbol(stub.symbol);
    if (address !== undefined) state.rip = this.host.trapOf(address);
    const entered = state.rip;
    const enter: PathRoot = () => {
      this.running.push(entered);
      const instruction = stub.effect(argument, 0, 0, 0);
      this.running.pop();
      this.leave(instruction);
    };
    this.path.begin(stub, enter, argument);
  }

  /** The end of an event: IRETQ or SYSRETQ to user mode. */
  protected leave(instruction: number): void {
    this.returnBy(instruction);
    this.clearDeadStack(this.path.stackTop);
    assert(this.state.cpl === 3, () => `an event ended in kernel mode at ${hex(this.state.rip)}`);
    this.state.activity = "user";
    this.path.end();
  }

  private returnBy(instruction: number): void {
    const { state } = this;
    if (instruction === LEAVE_SYSRETQ) {
      systemReturn(state);
    } else {
      const frame = state.rsp;
      interruptReturn(state, this.linear);
      this.clearDeadStack(frame + FRAME_BYTES);
    }
    this.attend();
  }

  /**
   * Nothing reads below the stack pointer: what handlers left below `top` is cleared, so that states that no code can tell apart are equal.
   * It ends where nothing was left for a while.
   */
  private clearDeadStack(top: number): void {
    const { mmu } = this;
    if (!this.memory.isTracking) return;
    let clean = 0;
    for (let end = top; clean < CLEAN_WORDS; ) {
      const page = Math.floor((end - 8) / PAGE_SIZE) * PAGE_SIZE;
      const frame = mmu.lookUp(page);
      if (frame === undefined) return;
      clean = this.clearWords(frame, frame + (end - page), clean);
      end = page;
    }
  }

  /** Clears `[start, end)`, physical addresses, from its end on, until enough words were clear. @returns how many were at last */
  private clearWords(start: number, end: number, cleanBefore: number): number {
    const { memory } = this;
    const { words } = memory;
    let clean = cleanBefore;
    for (let slot = (end >>> 2) - 2; slot >= start >>> 2; slot -= 2) {
      if (words[slot] === 0 && words[slot + 1] === 0) {
        if (++clean >= CLEAN_WORDS) break;
        continue;
      }
      clean = 0;
      memory.writeWord((slot * 4) as PhysAddr, 0); // inside memory: what is cleared was read there
    }
    return clean;
  }

  /** Something pends that is not masked. */
  get isDeliverable(): boolean {
    const { state, apic } = this;
    if (state.isEventPending) return true;
    return (state.rflags & RFLAGS_IF) !== 0 && apic.isRequesting && apic.pending(0) >= 0;
  }

  /** The vector to deliver now. */
  protected acknowledge(): number {
    const { state } = this;
    if (state.isMachineCheckPending) {
      state.isMachineCheckPending = false;
      assert((state.cr4 & CR4_MCE) !== 0, () => "a machine check without CR4.MCE: the CPU shuts down");
      return VECTOR_MC;
    }
    if (state.isNmiPending && !state.isNmiBlocked) {
      state.isNmiPending = false;
      return VECTOR_NMI;
    }
    const vector = this.apic.pending(0);
    this.apic.acknowledge(vector);
    return vector;
  }

  /** The step that comes was begun before, when what has just ended was delivered: it was charged and looked at then. */
  protected isStepKnown = false;

  protected finishNested(root: PathRoot): void {
    const isDelivery = this.path.reenteredVector >= 0;
    root();
    this.path.endNested();
    if (!isDelivery) return;
    this.isStepKnown = true;
    this.attention = true;
  }

  private nest(root: PathRoot, vector?: number): void {
    this.path.beginNested(root, vector);
    root();
    this.path.endNested();
  }

  protected deliverNested(vector: number, error: number | undefined): void {
    assert(vector >= 0 && vector < INTERRUPT_VECTOR_LIMIT, () => `not a vector: ${vector}`);
    pushFrame(this.state, this.linear, vector, error);
    const stub = this.host.stubAt(this.state.rip) ?? fail(`the gate of vector ${vector} leads to no stub: ${hex(this.state.rip)}`);
    const trap = this.host.trapOf(this.state.rip);
    const top = this.state.rsp + FRAME_BYTES + (error === undefined ? 0 : 8);
    this.state.rip = trap;
    this.attend();
    this.nest(() => {
      this.running.push(trap);
      const instruction = stub.effect(0, 0, 0, 0);
      this.running.pop();
      this.returnBy(instruction);
      this.clearDeadStack(top);
    }, vector);
  }

  protected rawCallStub(symbol: string, a0: number, a1: number, a2: number, a3: number): number {
    if (this.completed === undefined) this.runStub(symbol, a0, a1, a2, a3);
    return this.takeCompleted();
  }

  private takeCompleted(): number {
    const value = this.completed ?? fail("a stub ended without a result");
    this.completed = undefined;
    return value;
  }

  private runStub(symbol: string, a0: number, a1: number, a2: number, a3: number): void {
    const stub = this.host.stub(symbol) ?? fail(`no stub ${symbol}`);
    const address = this.host.symbol(symbol) ?? this.state.rip;
    this.pushReturn();
    const { state } = this;
    const saved = state.generalRegisters();
    state.setRegister(RDI, a0);
    state.setRegister(RSI, a1);
    state.setRegister(RDX, a2);
    state.setRegister(RCX, a3);
    state.rip = address;
    this.nest(() => {
      this.running.push(address);
      const value = stub.effect(a0, a1, a2, a3);
      this.running.pop();
      this.structuresEffect(symbol);
      this.popReturn();
      state.putGeneralRegisters(saved);
      this.completed = value;
    });
  }

  /** The host's part of a call: RIP, then the address of the trap that ends the stub. */
  private pushReturn(): void {
    const { state } = this;
    this.linear.writeWord(state.rsp - 8, state.rip);
    this.linear.writeWord(state.rsp - PUSHED_BY_CALL, this.host.symbol(STUB_RETURN) ?? 0);
    state.rsp = (state.rsp - PUSHED_BY_CALL) as VirtAddr;
  }

  private popReturn(): void {
    const { state } = this;
    const expected = this.host.symbol(STUB_RETURN) ?? 0;
    const found = this.linear.readWord(state.rsp);
    assert(found === expected, () => `a stub returned to ${hex(found)} instead of stub_return: RSP ${hex(state.rsp)} is not what it was`);
    state.rip = this.linear.readWord(state.rsp + 8) as VirtAddr;
    state.rsp = (state.rsp + PUSHED_BY_CALL) as VirtAddr;
    this.clearDeadStack(state.rsp);
  }

  private structuresEffect(symbol: string): void {
    if (symbol === STUB_FILL_RETURN_BUFFER) this.labels.fillReturnStack();
    else if (symbol === STUB_L1D_FLUSH_SOFTWARE) this.labels.flushL1d(false);
    else if (symbol === STUB_CLEAR_CPU_BUFFERS) this.labels.clearBuffers();
  }

  protected rawInvokeVector(vector: number): void {
    if (this.completed === undefined) {
      pushFrame(this.state, this.linear, vector, undefined);
      const stub = this.host.stubAt(this.state.rip) ?? fail(`the gate of vector ${vector} leads to no stub: ${hex(this.state.rip)}`);
      const trap = this.host.trapOf(this.state.rip);
      const top = this.state.rsp + FRAME_BYTES;
      this.state.rip = trap;
      this.attend();
      this.nest(() => {
        this.running.push(trap);
        const instruction = stub.effect(0, 0, 0, 0);
        this.running.pop();
        this.returnBy(instruction);
        this.clearDeadStack(top);
        this.completed = 0;
      });
    }
    this.takeCompleted();
  }

  protected rawStackPointer(): number {
    return this.state.rsp;
  }

  protected rawSwitchTo(symbol: string, prev: VirtAddr, next: VirtAddr): void {
    if (prev === next) return;
    const stub = this.host.stub(symbol) ?? fail(`no stub ${symbol}`);
    this.path.sleepStack = this.state.rsp;
    this.clearDeadStack(this.state.rsp);
    this.pushReturn();
    this.nest(() => {
      stub.effect(prev, next, 0, 0);
      this.popReturn();
      this.path.endNested();
      this.changePath(prev, next);
      throw SUSPEND;
    });
  }

  /**
   * The stacks are switched. `next` goes on with its sleeping path if that slept on just this stack; a path of another stack is of a
   * dead task whose address was used again, and `next` is new.
   */
  private changePath(prev: VirtAddr, next: VirtAddr): void {
    const { sleeping } = this.host;
    const { state } = this;
    this.path.isPastStep = true;
    state.forgetScratch();
    sleeping.set(prev, this.path);
    const found = sleeping.take(next);
    if (found !== undefined && found.sleepStack === state.rsp) {
      this.setPath(found);
      return;
    }
    const first = this.host.stubAt(state.rip);
    if (first === undefined) fail(`task ${hex(next)} has neither a sleeping path nor a first stub at ${hex(state.rip)}`);
    this.setPath(new ResiduePath(this.memory.log));
    this.enterKernel(first);
  }

  /** The CPU goes on with another path. */
  private setPath(path: ResiduePath): void {
    this.memory.log.object(this, 0, this.path);
    this.path = path;
  }

  undo(_key: number, old: unknown): void {
    this.path = old as ResiduePath; // as setPath() told it
  }

  protected rawForgetPath(task: VirtAddr): void {
    this.host.sleeping.take(task);
  }

  protected override rawReadRegister(register: number): number {
    this.high = this.state.registerHigh(register);
    return this.state.registerLow(register);
  }

  protected override rawWriteRegister(register: number, low: number, high: number): void {
    // The first thing behind SYSCALL that moves the stack goes to the top of the task's.
    if (register === RSP && this.path.stackTop === 0 && this.path.depth === 0) this.path.putStackTop(fromHalves(low, high));
    this.state.setRegisterHalves(register, low, high);
  }
}
