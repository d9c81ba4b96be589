// The machine code around sleep state S3: saves what the C code cannot, tells the board to sleep, and is where the firmware comes back to
// (kernel: acpi/wakeup_64.S). The CPU then stands on the image's early tables, without a stack, without a per-CPU area.
import { cr3, cr4, dx, eax, ecx, edx, mem, r12, r13, r14, r15, rax, rbp, rbx, rdi, rsp } from "../../assembler/index.ts";
import { addVirt, type Cr3, cpu, high32, low32, MSR_GS_BASE, struct, u32, virtual, word } from "../../hardware/index.ts";
import { staticStruct } from "../static-data.ts";
import type { StubProgram } from "../stub-program.ts";

/** RDI: value for the board's port that makes it sleep. @returns 0 after the sleep, 1 when the board did not sleep. */
export const DO_SUSPEND_LOWLEVEL = "do_suspend_lowlevel";
/** Where the firmware enters the kernel again. */
export const WAKEUP_LONG64 = "wakeup_long64";
/** ACPI PM1a control of this board. */
export const PORT_PM1A_CONTROL = 0x604;

/** Kernel: saved_rsp and its kin. In the image, which the early tables map. */
const WakeupState = struct("wakeup_state", { rsp: virtual, cr3: word, cr4: u32, gsLow: u32, gsHigh: u32 });
const wakeupState = staticStruct("wakeup_state", WakeupState);
const field = (name: keyof typeof WakeupState.offset): ReturnType<typeof addVirt> => addVirt(wakeupState, WakeupState.offset[name]);

const CALLEE_SAVED = [rbx, rbp, r12, r13, r14, r15] as const;
const RSP_CODE = 4;

/** What the waking code must have before it can use the stack. Interrupts off, unrestricted. */
export function saveWakeupState(): void {
  const state = WakeupState.at(wakeupState);
  state.cr3 = cpu.readCr3();
  state.cr4 = cpu.readCr4();
  state.gsLow = low32(cpu.perCpuBase);
  state.gsHigh = high32(cpu.perCpuBase);
}

const doSuspendLowlevel: StubProgram = {
  symbol: DO_SUSPEND_LOWLEVEL,
  program: (a) => {
    for (const register of CALLEE_SAVED) a.push(register);
    a.pushfq();
    a.mov(rax, BigInt.asUintN(64, BigInt(field("rsp")))).mov(mem(rax), rsp);
    a.mov(rax, rdi).mov(edx, PORT_PM1A_CONTROL).out(dx, eax);
    // Still here: the board does not sleep.
    a.mov(eax, 1).jmp("do_suspend_lowlevel.end");

    a.align(16).label(WAKEUP_LONG64);
    // PCIDE while CR3 names no process-context identifier, then the tables that have the stack.
    a.mov(rbx, BigInt.asUintN(64, BigInt(wakeupState)));
    a.mov(eax, mem(rbx, WakeupState.offset.cr4)).mov(cr4, rax);
    a.mov(rax, mem(rbx, WakeupState.offset.cr3)).mov(cr3, rax);
    a.mov(rsp, mem(rbx, WakeupState.offset.rsp));
    a.mov(ecx, MSR_GS_BASE).mov(eax, mem(rbx, WakeupState.offset.gsLow)).mov(edx, mem(rbx, WakeupState.offset.gsHigh)).wrmsr();
    a.xor(eax, eax);
    a.label("do_suspend_lowlevel.end").popfq();
    for (const register of [...CALLEE_SAVED].reverse()) a.pop(register);
    a.ret();
  },
  effect: (value) => {
    const stack = cpu.stackPointer();
    const state = WakeupState.at(wakeupState);
    state.rsp = stack;
    cpu.portOut(PORT_PM1A_CONTROL, 4, value);
    cpu.writeCr4(state.cr4);
    cpu.writeCr3(state.cr3 as Cr3, false); // as it was read
    cpu.writeRegister(RSP_CODE, low32(stack), high32(stack));
    const { gsLow } = state;
    cpu.writeMsr(MSR_GS_BASE, gsLow, state.gsHigh);
    return 0;
  },
};

export const SUSPEND_STUBS: readonly StubProgram[] = [doSuspendLowlevel];
