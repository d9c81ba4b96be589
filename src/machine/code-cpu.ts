// A logical CPU as a runner of machine code: the loop around core.run(), traps and what they begin, delivery of interrupts at
// instruction boundaries and between the steps of a kernel path. Turns and sleep are in turn-cpu.ts, the steps themselves are in simulated-cpu.ts.
import {
  assert,
  CR4_MCE,
  EXIT_REASON,
  fail,
  INTR_TYPE_EXT_INTR,
  INTR_TYPE_HARD_EXCEPTION,
  INTR_TYPE_NMI_INTR,
  isSuspension,
  type PathRoot,
  PIN_BASED_EXT_INTR_MASK,
  PIN_BASED_NMI_EXITING,
  RFLAGS_IF,
  SUSPEND,
  setAmbientCpu,
  VECTOR_MC,
  VECTOR_NMI,
  VECTOR_PF,
  VM_EXIT_ACK_INTR_ON_EXIT,
  VMCS,
} from "../hardware/index.ts";
import {
  CPU_CPL,
  CPU_CR2,
  CPU_CR4,
  CPU_CR8,
  CPU_CYCLES,
  CPU_EXIT_PHYSICAL,
  CPU_FAULT_ADDRESS,
  CPU_FAULT_ERROR,
  CPU_FAULT_VECTOR,
  CPU_GUEST_MODE,
  CPU_HALTED,
  CPU_INTERRUPT_PENDING,
  CPU_NMI_BLOCKED,
  CPU_REGS,
  CPU_RFLAGS,
  CPU_RIP,
  CPU_SHADOW,
  EVENT_EXCEPTION,
  EVENT_INTERRUPT,
  EVENT_NMI,
  EXIT_ASSIST,
  EXIT_BUDGET,
  EXIT_EPT_MISCONFIG,
  EXIT_EPT_VIOLATION,
  EXIT_HALT,
  EXIT_INTERCEPT,
  EXIT_NMI_WINDOW,
  EXIT_TRAP,
  EXIT_TRIPLE_FAULT,
  EXIT_WINDOW,
  PENDING_INTERRUPT,
  PENDING_NMI,
} from "./core/layout.gen.ts";
import { type Level, PHASE_NONE } from "./machine-path.ts";
import { TurnCpu } from "./turn-cpu.ts";
import { type Vmx, wantsInterruptWindow, wantsNmiWindow } from "./vmx.ts";

/** What the machine code that runs belongs to. */
const ROOT = 0;
/** A stub that a kernel path called; ends at `stub_return`. */
const STUB = 1;
/** The delivery of an event between two steps of a kernel path; ends when its IRET is back at the trap. */
const DELIVERY = 2;
type Kind = typeof ROOT | typeof STUB | typeof DELIVERY;

/** Bytes of the trap instruction. */
const TRAP_BYTES = 3;
const RSP = CPU_REGS + 4 * 8;
/** Most cycles of one run of the core when nothing is due: a bound on how late the machine notices that it shall stop. */
const LONGEST_RUN = 10_000_000;
const NO_ERROR_CODE = -1;

export abstract class CodeCpu extends TurnCpu {
  /** A kernel path has ended: what its stub leads to may be user mode, which whoever looks on wants to see entered. */
  private mayReturnToUser = false;

  abstract readonly vmxUnit: Vmx;

  // ---------------------------------------------------------------- turns

  /** Runs until `turnEnd` or as long as there is something to do. The core has this CPU selected. */
  takeTurn(turnEnd: number): void {
    this.turnEnd = turnEnd;
    setAmbientCpu(this);
    this.rearm();
    while (!this.board.isStopping && this.now < this.turnEnd && this.wakeTime <= this.turnEnd && this.wakeTime < Number.POSITIVE_INFINITY) {
      try {
        if (this.hasPath) this.resumePath();
        else this.runCode(ROOT, 0, 0);
      } catch (error) {
        if (!isSuspension(error)) throw error;
      }
    }
  }

  // ---------------------------------------------------------------- kernel paths

  private resumePath(): void {
    this.path.rewind();
    this.path.root();
    this.endEvent();
  }

  private beginEvent(root: PathRoot): void {
    this.path.restart(root);
    this.hasPath = true;
    root();
    this.endEvent();
  }

  private endEvent(): void {
    assert(!this.path.isReplaying && this.path.depth === 0, () => `cpu ${this.id}: a kernel path ended inside its log: not deterministic`);
    this.hasPath = false;
    this.skipTrap();
    this.mayReturnToUser = true;
  }

  /** A trap inside a stub or a delivery: its handler is nested in the path. */
  private runNested(root: PathRoot, level: Level): void {
    this.path.enter(level, root);
    root();
    this.path.leave();
    this.skipTrap();
  }

  protected override finishNested(root: PathRoot): void {
    const level = this.path.reenteredLevel;
    root();
    this.path.leave();
    this.skipTrap();
    if (!level.isInStub) this.runCode(DELIVERY, level.site, level.stackPointer);
  }

  private skipTrap(): void {
    this.fields.setWord(CPU_RIP, this.fields.word(CPU_RIP) + TRAP_BYTES);
  }

  // ---------------------------------------------------------------- delivery between steps

  protected override due(): void {
    // A step that is already under way (a guest runs, HLT waits) looks for itself.
    if (this.path.phase !== PHASE_NONE) return;
    this.board.stepHook?.(this);
    this.apic.collect(this.now);
    while (this.deliverOne());
    if (this.isSuspensionAsked && !this.mustNotYield) {
      this.isSuspensionAsked = false;
      throw SUSPEND;
    }
    if (!this.mustNotYield && this.isTurnOver()) throw SUSPEND;
    this.rearm();
  }

  /** Delivers the most urgent event that is not masked, and runs its handlers. @returns false: there is none. */
  protected deliverOne(): boolean {
    if (this.takeMachineCheck()) {
      this.deliverBetween(VECTOR_MC, EVENT_EXCEPTION, NO_ERROR_CODE);
      return true;
    }
    if (this.apic.isNmiPending && this.fields.low(CPU_NMI_BLOCKED) === 0) {
      this.apic.isNmiPending = false;
      this.deliverBetween(VECTOR_NMI, EVENT_NMI, NO_ERROR_CODE);
      return true;
    }
    const vector = this.deliverableVector();
    if (vector < 0) return false;
    this.apic.acknowledge(vector);
    this.deliverBetween(vector, EVENT_INTERRUPT, NO_ERROR_CODE);
    return true;
  }

  /** True: a machine check is due now. Without CR4.MCE it is a shutdown (SDM vol. 3, 7.15, #MC). */
  private takeMachineCheck(): boolean {
    if (!this.isMachineCheckPending) return false;
    this.isMachineCheckPending = false;
    if ((this.fields.low(CPU_CR4) & CR4_MCE) !== 0) return true;
    this.board.stopWithTripleFault(this);
    throw SUSPEND;
  }

  /** Delivers an event while a kernel path stands at its trap, and runs until the frame's IRET is back there. */
  protected deliverBetween(vector: number, type: number, errorCode: number): void {
    const site = this.board.physicalOfText(this.fields.word(CPU_RIP));
    const stackPointer = this.fields.word(RSP);
    this.deliver(vector, type, errorCode);
    this.runCode(DELIVERY, site, stackPointer);
  }

  /** Pushes the frame and loads RIP from the gate. A fault of the delivery itself (#DF, triple fault) is the core's. */
  private deliver(vector: number, type: number, errorCode: number): void {
    this.isAsleep = false;
    this.fields.setLow(CPU_HALTED, 0);
    this.fields.setLow(CPU_SHADOW, 0);
    this.afterDelivery(this.core.deliver(vector, type, Math.max(0, errorCode), 0));
  }

  /** The outcome of a delivery: 0, or the exit that it ended in. */
  protected afterDelivery(exit: number): void {
    if (exit !== 0) this.leaveCore(exit, DELIVERY, 0, 0);
  }

  /** The fault that a step's memory access met: the #PF is delivered and handled; the caller tries again. */
  protected faultOfStep(): void {
    const vector = this.fields.low(CPU_FAULT_VECTOR);
    if (vector === VECTOR_PF) this.fields.set(CPU_CR2, this.fields.low(CPU_FAULT_ADDRESS), this.fields.high(CPU_FAULT_ADDRESS));
    this.deliverBetween(vector, EVENT_EXCEPTION, this.fields.low(CPU_FAULT_ERROR));
  }

  // ---------------------------------------------------------------- machine code

  /** Runs a stub that was called, until its return. May be suspended while a guest runs behind it. */
  protected runStub(): void {
    this.runCode(STUB, 0, 0);
  }

  /** Runs machine code until what `kind` waits for; at the root until the turn is over. */
  private runCode(kind: Kind, site: number, stackPointer: number): void {
    for (;;) {
      if (this.isAsleep && !this.sleepOn(kind)) return;
      const isGuest = this.boundary();
      const canYield = kind === ROOT || (kind === STUB && isGuest);
      if (canYield && this.isTurnOver()) {
        if (kind === ROOT) return;
        throw SUSPEND;
      }
      const end = canYield ? Math.min(this.turnEnd, this.apic.nextArrival) : this.apic.nextArrival;
      const isWatched = kind === ROOT && this.mayReturnToUser && this.board.entryHook !== undefined;
      const exit = isWatched ? this.runCore(1) : this.runCore(Math.min(Math.max(1, end - this.now), LONGEST_RUN));
      if (isWatched) this.watchReturn();
      if (this.leaveCore(exit, kind, site, stackPointer)) {
        this.rearm();
        return;
      }
    }
  }

  /** Instruction by instruction to the end of the stub: the first instruction of user mode has not run yet when it is told. */
  private watchReturn(): void {
    if (this.fields.low(CPU_CPL) !== 3) return;
    this.mayReturnToUser = false;
    this.board.entryHook?.(this, "user");
  }

  /** One run of the core for at most `cycles` cycles of simulated time. */
  private runCore(cycles: number): number {
    this.fields.setWord(CPU_CYCLES, this.now);
    const exit = this.core.run(cycles);
    this.now = this.fields.word(CPU_CYCLES);
    return exit;
  }

  /** Acts on an exit of the core. @returns true: what `kind` waited for has come. */
  private leaveCore(exit: number, kind: Kind, site: number, stackPointer: number): boolean {
    switch (exit) {
      case EXIT_BUDGET:
      case EXIT_WINDOW:
      case EXIT_NMI_WINDOW:
        return false;
      case EXIT_TRAP:
        return this.trap(kind, site, stackPointer);
      case EXIT_ASSIST:
        this.assist();
        if (kind !== ROOT && this.board.isStopping) throw SUSPEND;
        return false;
      case EXIT_HALT:
        this.fallAsleep();
        return false;
      case EXIT_INTERCEPT:
      case EXIT_EPT_VIOLATION:
      case EXIT_EPT_MISCONFIG:
        this.guestExit(exit);
        return false;
      case EXIT_TRIPLE_FAULT:
        if (this.fields.low(CPU_GUEST_MODE) !== 0) this.guestExit(exit);
        else this.board.stopWithTripleFault(this);
        if (this.board.isStopping) throw SUSPEND;
        return false;
      default:
        return fail(`cpu ${this.id}: core.run() ended with unknown exit ${exit}`);
    }
  }

  /** Performs the instruction at RIP that the core leaves to its host. */
  protected abstract assist(): void;
  /** The guest did what it may not do by itself. */
  protected abstract guestExit(exit: number): void;
  /** Runs the puppet whose trap is at physical address `trap`. */
  protected abstract runPuppet(trap: number): void;

  private trap(kind: Kind, site: number, stackPointer: number): boolean {
    const at = this.fields.word(CPU_EXIT_PHYSICAL);
    this.fields.setWord(CPU_RIP, this.fields.word(CPU_RIP) - TRAP_BYTES);
    if (kind === STUB && at === this.board.stubReturn) return true;
    if (kind === DELIVERY && at === site && this.fields.word(RSP) === stackPointer) return true;
    if (this.fields.low(CPU_CPL) === 3) {
      assert(kind === ROOT, () => `cpu ${this.id}: a puppet's trap inside a kernel path`);
      this.board.entryHook?.(this, "user");
      this.runPuppet(at);
      return false;
    }
    const handler = this.board.handlers.get(at);
    assert(handler !== undefined, () => `cpu ${this.id}: trap without a handler at physical ${at}`);
    if (kind === ROOT) this.beginEvent(handler);
    else this.runNested(handler, { isInStub: kind === STUB, site, stackPointer });
    return false;
  }

  // ---------------------------------------------------------------- instruction boundaries

  /** Takes what is due at an instruction boundary of machine code. @returns true in a guest. */
  private boundary(): boolean {
    this.apic.collect(this.now);
    if (this.fields.low(CPU_GUEST_MODE) !== 0) return this.guestBoundary();
    const hasShadow = this.fields.low(CPU_SHADOW) !== 0;
    if (this.takeMachineCheck()) this.deliver(VECTOR_MC, EVENT_EXCEPTION, NO_ERROR_CODE);
    else if (this.apic.isNmiPending && !hasShadow && this.fields.low(CPU_NMI_BLOCKED) === 0) {
      this.apic.isNmiPending = false;
      this.deliver(VECTOR_NMI, EVENT_NMI, NO_ERROR_CODE);
    } else {
      const vector = hasShadow ? -1 : this.deliverableVector();
      if (vector >= 0) {
        this.apic.acknowledge(vector);
        this.deliver(vector, EVENT_INTERRUPT, NO_ERROR_CODE);
      }
    }
    const isPending = this.apic.pending(this.fields.low(CPU_CR8)) >= 0;
    const windows = (this.apic.isNmiPending ? PENDING_NMI : 0) | (isPending ? PENDING_INTERRUPT : 0);
    this.fields.setLow(CPU_INTERRUPT_PENDING, windows);
    return false;
  }

  /** The same in VMX non-root operation: NMIs, interrupts and open windows leave. SDM vol. 3, 27.2. */
  private guestBoundary(): boolean {
    const vmcs = this.vmxUnit.vmcs;
    if (vmcs === null) return fail(`cpu ${this.id}: in a guest without a VMCS`);
    const pin = vmcs.low(VMCS.PIN_BASED_VM_EXEC_CONTROL);
    if (this.isMachineCheckPending) {
      // As an exception of the guest's: it leaves if the bitmap says so, else the guest's handler gets it.
      this.isMachineCheckPending = false;
      if (((vmcs.low(VMCS.EXCEPTION_BITMAP) >>> VECTOR_MC) & 1) !== 0) {
        this.vmxUnit.setInterruption(VECTOR_MC, INTR_TYPE_HARD_EXCEPTION, NO_ERROR_CODE);
        this.vmxUnit.exit(EXIT_REASON.EXCEPTION_NMI, 0, 0, 0);
        return false;
      }
      this.deliver(VECTOR_MC, EVENT_EXCEPTION, NO_ERROR_CODE);
    }
    if (this.apic.isNmiPending && (pin & PIN_BASED_NMI_EXITING) !== 0) {
      this.apic.isNmiPending = false;
      this.vmxUnit.setInterruption(VECTOR_NMI, INTR_TYPE_NMI_INTR, NO_ERROR_CODE);
      this.vmxUnit.exit(EXIT_REASON.EXCEPTION_NMI, 0, 0, 0);
      // SDM vol. 3, 29.5.5: an exit due to an NMI leaves NMIs blocked.
      this.fields.setLow(CPU_NMI_BLOCKED, 1);
      return false;
    }
    const vector = this.apic.pending(this.fields.low(CPU_CR8));
    if (vector >= 0 && (pin & PIN_BASED_EXT_INTR_MASK) !== 0) {
      if ((vmcs.low(VMCS.VM_EXIT_CONTROLS) & VM_EXIT_ACK_INTR_ON_EXIT) !== 0) {
        this.apic.acknowledge(vector);
        this.vmxUnit.setInterruption(vector, INTR_TYPE_EXT_INTR, NO_ERROR_CODE);
      } else this.vmxUnit.clearInterruption();
      this.vmxUnit.exit(EXIT_REASON.EXTERNAL_INTERRUPT, 0, 0, 0);
      return false;
    }
    const wantsNmi = wantsNmiWindow(vmcs);
    const wantsInterrupt = wantsInterruptWindow(vmcs);
    if (wantsNmi || wantsInterrupt) return this.windowBoundary(wantsNmi, wantsInterrupt);
    this.fields.setLow(CPU_INTERRUPT_PENDING, 0);
    return true;
  }

  private windowBoundary(wantsNmi: boolean, wantsInterrupt: boolean): boolean {
    const hasShadow = this.fields.low(CPU_SHADOW) !== 0;
    if (wantsNmi && !hasShadow && this.fields.low(CPU_NMI_BLOCKED) === 0) {
      this.vmxUnit.exit(EXIT_REASON.NMI_WINDOW, 0, 0, 0);
      return false;
    }
    if (wantsInterrupt && !hasShadow && (this.fields.low(CPU_RFLAGS) & RFLAGS_IF) !== 0) {
      this.vmxUnit.exit(EXIT_REASON.INTERRUPT_WINDOW, 0, 0, 0);
      return false;
    }
    this.fields.setLow(CPU_INTERRUPT_PENDING, (wantsNmi ? PENDING_NMI : 0) | (wantsInterrupt ? PENDING_INTERRUPT : 0));
    return true;
  }

  // ---------------------------------------------------------------- sleep

  private sleepOn(kind: Kind): boolean {
    if (this.sleep()) return true;
    if (kind === ROOT) return false;
    // Another kernel runs inside a path of this one's (kexec), and has nothing more to do.
    if (kind === STUB && (this.fields.low(CPU_RFLAGS) & RFLAGS_IF) === 0 && this.fields.low(CPU_GUEST_MODE) === 0) this.rawPark();
    assert(kind === STUB && this.fields.low(CPU_GUEST_MODE) !== 0, () => `cpu ${this.id}: HLT in kernel code inside a kernel path`);
    throw SUSPEND;
  }
}
