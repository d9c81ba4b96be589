// Exceptions, interrupts and the instructions around them on the core: frames, stacks, privilege, double and triple faults, the
// interrupt shadow, exact budgets. Expected values: SDM vol. 3, chapter 7; vol. 2 for IRET, SYSCALL, SYSRET, STI, POPF, HLT.
import assert from "node:assert/strict";
import { test } from "node:test";
import { CODE, CoreFixture, IST1, P, RSP0, STACK_TOP, U, WINDOW } from "../../test/core-fixture.ts";
import { type Assembler, ax, byte, cr2, ds, eax, ecx, mem, qword, r11, rax, rbx, rcx, rdi, rdx, rsi, rsp, ss } from "../assembler/index.ts";
import { KERNEL_CS, KERNEL_SS, USER_CS, USER_SS } from "./bare.ts";
import {
  ASSIST_CPUID,
  ASSIST_OUT,
  ASSIST_RDMSR,
  CPU_CPL,
  CPU_CR2,
  CPU_CYCLES,
  CPU_EXIT_KIND,
  CPU_EXIT_LENGTH,
  CPU_EXIT_PORT,
  CPU_EXIT_SIZE,
  CPU_GS_BASE,
  CPU_IDTR_LIMIT,
  CPU_INTERRUPT_PENDING,
  CPU_MSR_FMASK,
  CPU_MSR_KERNEL_GS_BASE,
  CPU_MSR_LSTAR,
  CPU_MSR_STAR,
  CPU_NMI_BLOCKED,
  CPU_REGS,
  CPU_RETIRED,
  CPU_RFLAGS,
  CPU_RIP,
  EVENT_INTERRUPT,
  EVENT_NMI,
  EXIT_ASSIST,
  EXIT_BUDGET,
  EXIT_HALT,
  EXIT_NMI_WINDOW,
  EXIT_TRIPLE_FAULT,
  EXIT_WINDOW,
  PENDING_INTERRUPT,
  PENDING_NMI,
} from "./core/layout.gen.ts";

const IF = 0x200;
const RF = 0x10000;
const FIXED = 2;

test("a fault in user mode pushes SS RSP RFLAGS CS RIP on the stack of the TSS, with RF set", () => {
  const f = new CoreFixture();
  assert.equal(f.run((a) => a.xor(eax, eax).label("here").ud2(), true).trap, "#6");
  const frame = f.frame(false);
  const zeroFlags = 0x46;
  assert.deepEqual(frame, { error: 0, rip: f.symbol("here"), cs: USER_CS, flags: zeroFlags | RF, rsp: STACK_TOP, ss: USER_SS });
  assert.equal(f.core.fields.word(CPU_REGS + 32), RSP0 - 40);
  assert.equal(f.core.fields.low(CPU_CPL), 0);
});

test("a fault in the kernel stays on its stack, aligned to 16 bytes; an IST entry changes the stack", () => {
  const f = new CoreFixture();
  f.run((a) => a.sub(rsp, 4).ud2());
  assert.equal(f.core.fields.word(CPU_REGS + 32), STACK_TOP - 16 - 40);
  assert.equal(f.frame(false).rsp, STACK_TOP - 4);
  assert.equal(f.frame(false).ss, KERNEL_SS);
  f.setGate(6, 0x8060, 1);
  f.run((a) => a.ud2());
  assert.equal(f.core.fields.word(CPU_REGS + 32), IST1 - 40);
});

test("INT n needs a gate that the privilege level may use, and returns behind itself", () => {
  const f = new CoreFixture();
  assert.equal(f.run((a) => a.int(5), true).trap, "#13");
  assert.equal(f.frame(true).error, 5 * 8 + 2);
  assert.equal(f.frame(true).rip, CODE);
  f.setGate(5, 0x8050, 0, true);
  assert.equal(f.run((a) => a.int(5), true).trap, "#5");
  assert.equal(f.frame(false).rip, CODE + 2);
  assert.equal(f.frame(false).flags & RF, 0);
  assert.equal(f.run((a) => a.int3()).trap, "#3");
  assert.equal(f.frame(false).rip, CODE + 1);
});

test("IRETQ returns from the handler to user mode with flags, stack and privilege", () => {
  const f = new CoreFixture();
  f.place(
    (a) =>
      a
        .mov(rdx, cr2)
        .add(qword(mem(rsp)), 2)
        .iretq(),
    0x110000,
  );
  f.setGate(6, 0x110000);
  const end = f.run(
    (a) =>
      a
        .stc()
        .ud2()
        .label("after")
        .setb(byte(mem(0x1a0000)))
        .trap("done"),
    true,
  );
  assert.equal(end.trap, "done");
  assert.equal(f.view.getUint8(0x1a0000), 1);
  assert.equal(f.core.fields.low(CPU_CPL), 3);
  assert.equal(f.core.fields.word(CPU_REGS + 32), STACK_TOP);
});

test("IRETQ to a non-canonical address, a wrong privilege, or a missing descriptor is #GP with the selector", () => {
  const f = new CoreFixture();
  const iret = (rip: bigint, cs: number, stack: number): number => {
    const end = f.run((a) => a.mov(rcx, rip).push(stack).push(STACK_TOP).push(2).push(cs).push(rcx).iretq());
    assert.equal(end.trap, "#13");
    return f.frame(true).error;
  };
  assert.equal(iret(1n << 47n, KERNEL_CS, KERNEL_SS), 0);
  assert.equal(iret(0x1000n, 0x40, KERNEL_SS), 0x40);
  assert.equal(iret(0x1000n, USER_CS & ~3, KERNEL_SS), USER_CS & ~3);
});

test("a page fault in the delivery of a page fault is a double fault, and one in its delivery ends the machine", () => {
  const f = new CoreFixture();
  // No stack: the frame cannot be pushed.
  f.setGate(8, 0x8080, 1);
  assert.equal(f.run((a) => a.mov(rsp, WINDOW + 64).mov(rax, mem(WINDOW))).trap, "#8");
  assert.equal(f.frame(true).error, 0);
  assert.equal(f.core.fields.word(CPU_CR2), WINDOW + 56);
  f.setGate(8, 0x8080);
  assert.equal(f.run((a) => a.mov(rsp, WINDOW + 64).mov(rax, mem(WINDOW))).exit, EXIT_TRIPLE_FAULT);
});

test("a fault in the delivery of a benign exception is delivered in its place", () => {
  const f = new CoreFixture();
  f.core.fields.setLow(CPU_IDTR_LIMIT, 32 * 16 - 1);
  assert.equal(f.run((a) => a.int(40)).trap, "#13");
  assert.equal(f.frame(true).error, 40 * 8 + 2);
});

test("division overflow and division by zero raise #DE with the registers unchanged", () => {
  const f = new CoreFixture();
  assert.equal(f.run((a) => a.mov(rax, 7).mov(rdx, 5).mov(rcx, 5).div(rcx)).trap, "#0");
  assert.deepEqual([f.bare.register(0), f.bare.register(2)], [7, 5]);
  assert.equal(
    f.run((a) =>
      a
        .mov(rax, 1n << 63n)
        .cqo()
        .mov(rcx, -1)
        .idiv(rcx),
    ).trap,
    "#0",
  );
});

test("SYSCALL saves RIP and RFLAGS, masks flags, and SYSRETQ goes back", () => {
  const f = new CoreFixture();
  const { fields } = f.core;
  fields.set(CPU_MSR_STAR, 0, ((USER_SS - 8) << 16) | KERNEL_CS);
  fields.setWord(CPU_MSR_LSTAR, 0x110000);
  fields.setWord(CPU_MSR_FMASK, IF | 1);
  f.place((a) => a.trap("entry").sysretq(), 0x110000);
  const end = f.run((a) => a.stc().syscall().label("after").trap("back"), true);
  assert.equal(end.trap, "entry");
  assert.equal(f.bare.register(1), f.symbol("after"));
  assert.equal(f.bare.register(11) & 1, 1);
  assert.equal(fields.word(CPU_RFLAGS) & 1, 0);
  assert.equal(fields.low(CPU_CPL), 0);
  assert.equal(f.bare.register(4), STACK_TOP);
  assert.equal(f.go().trap, "back");
  assert.equal(fields.low(CPU_CPL), 3);
  assert.equal(fields.word(CPU_RFLAGS) & 1, 1);
});

test("SYSRETQ to a non-canonical RCX faults in the kernel", () => {
  const f = new CoreFixture();
  assert.equal(
    f.run((a) =>
      a
        .mov(rcx, 1n << 47n)
        .mov(r11, 2)
        .sysretq(),
    ).trap,
    "#13",
  );
  assert.equal(f.frame(true).cs, KERNEL_CS);
});

test("SWAPGS exchanges the bases, and is #GP in user mode", () => {
  const f = new CoreFixture();
  f.core.fields.setWord(CPU_GS_BASE, 0x1111);
  f.core.fields.setWord(CPU_MSR_KERNEL_GS_BASE, 0x2222);
  f.run((a) => a.swapgs().trap("done"));
  assert.equal(f.core.fields.word(CPU_GS_BASE), 0x2222);
  assert.equal(f.core.fields.word(CPU_MSR_KERNEL_GS_BASE), 0x1111);
  assert.equal(f.run((a) => a.swapgs(), true).trap, "#13");
});

test("privileged instructions are #GP in user mode", () => {
  const f = new CoreFixture();
  for (const write of [
    (a: Assembler) => a.cli(),
    (a: Assembler) => a.hlt(),
    (a: Assembler) => a.mov(rax, cr2),
    (a: Assembler) => a.invlpg(mem(rax)),
    (a: Assembler) => a.rdmsr(),
    (a: Assembler) => a.lidt(mem(rsp)),
  ]) {
    assert.equal(f.run(write, true).trap, "#13");
    assert.equal(f.frame(true).rip, CODE);
  }
});

test("a budget of n ends after exactly n instructions, wherever that is in a block", () => {
  const f = new CoreFixture();
  f.place((a) => {
    a.label("loop");
    for (let n = 0; n < 7; n++) a.inc(rax);
    a.cmp(rax, 1000000).jne("loop").trap("done");
  });
  for (const budget of [1, 2, 5, 8, 9, 10, 63, 64, 65, 100, 1000, 12345]) {
    f.start();
    f.bare.setRegister(0, 0);
    const before = f.core.fields.word(CPU_RETIRED);
    assert.equal(f.go(budget).exit, EXIT_BUDGET);
    assert.equal(f.core.fields.word(CPU_RETIRED) - before, budget);
    const rounds = Math.floor(budget / 9);
    assert.equal(f.bare.register(0), rounds * 7 + Math.min(budget % 9, 7), `budget ${budget}`);
    assert.equal(f.core.fields.word(CPU_RIP), CODE + instructionOffset(budget % 9));
  }
  assert.equal(f.core.fields.word(CPU_CYCLES), f.core.fields.word(CPU_RETIRED));
});

/** Offset of the nth instruction of the loop above: seven INC of 3 bytes, CMP RAX, imm32 of 6, JNE. */
function instructionOffset(n: number): number {
  return n <= 7 ? n * 3 : 27;
}

test("an external interrupt goes to its gate with IF cleared, and wakes HLT", () => {
  const f = new CoreFixture();
  f.place((a) => a.iretq(), 0x110000);
  f.setGate(20, 0x110000);
  f.place((a) => a.sti().hlt().label("after").trap("woken"));
  f.start();
  assert.equal(f.go().exit, EXIT_HALT);
  assert.equal(f.core.fields.word(CPU_RIP), f.symbol("after"));
  assert.equal(f.core.functions.deliver(20, EVENT_INTERRUPT, 0, 0), 0);
  assert.equal(f.core.fields.word(CPU_RFLAGS) & IF, 0);
  assert.equal(f.frame(false).flags & IF, IF);
  assert.equal(f.go().trap, "woken");
  assert.equal(f.core.fields.word(CPU_RFLAGS) & IF, IF);
});

test("a pending interrupt ends the run when IF becomes 1, one instruction after STI", () => {
  const f = new CoreFixture();
  f.core.fields.setLow(CPU_INTERRUPT_PENDING, PENDING_INTERRUPT);
  f.place((a) => a.inc(rbx).sti().inc(rcx).label("here").inc(rdx).trap("done"));
  f.start();
  assert.equal(f.go().exit, EXIT_WINDOW);
  assert.equal(f.core.fields.word(CPU_RIP), f.symbol("here"));
  assert.deepEqual([f.bare.register(3), f.bare.register(1), f.bare.register(2)], [1, 1, 0]);
});

test("POPFQ opens the window at once, MOV SS holds it for one instruction", () => {
  const f = new CoreFixture();
  f.core.fields.setLow(CPU_INTERRUPT_PENDING, PENDING_INTERRUPT);
  f.place((a) =>
    a
      .push(IF | FIXED)
      .popfq()
      .label("here")
      .inc(rcx)
      .trap("done"),
  );
  f.start();
  assert.equal(f.go().exit, EXIT_WINDOW);
  assert.equal(f.core.fields.word(CPU_RIP), f.symbol("here"));
  f.core.fields.setLow(CPU_INTERRUPT_PENDING, 0);
  f.place((a) => a.sti().nop().mov(eax, KERNEL_SS).trap("set").mov(ss, ax).inc(rcx).label("here").trap("done"));
  f.start();
  assert.equal(f.go().trap, "set");
  f.core.fields.setLow(CPU_RFLAGS, FIXED);
  f.place((a) => a.mov(eax, KERNEL_SS).mov(ss, ax).inc(rcx).label("here").trap("done"));
  f.start();
  f.core.fields.setLow(CPU_RFLAGS, FIXED | IF);
  f.bare.setRegister(1, 0);
  // The window is open before MOV SS; asked for after it, it opens one instruction later.
  assert.equal(f.core.functions.run(2), EXIT_BUDGET);
  f.core.fields.setLow(CPU_INTERRUPT_PENDING, PENDING_INTERRUPT);
  assert.equal(f.go().exit, EXIT_WINDOW);
  assert.equal(f.core.fields.word(CPU_RIP), f.symbol("here"));
  assert.equal(f.bare.register(1), 1);
});

test("an NMI blocks NMIs until IRETQ, and its end can be waited for", () => {
  const f = new CoreFixture();
  f.place((a) => a.nop().iretq(), 0x110000);
  f.setGate(2, 0x110000);
  f.place((a) => a.label("here").trap("done"));
  f.start();
  assert.equal(f.core.functions.deliver(2, EVENT_NMI, 0, 0), 0);
  assert.equal(f.core.fields.low(CPU_NMI_BLOCKED), 1);
  f.core.fields.setLow(CPU_INTERRUPT_PENDING, PENDING_NMI);
  assert.equal(f.go().exit, EXIT_NMI_WINDOW);
  assert.equal(f.core.fields.word(CPU_RIP), f.symbol("here"));
  assert.equal(f.core.fields.low(CPU_NMI_BLOCKED), 0);
});

test("the trap flag raises #DB after the next instruction", () => {
  const f = new CoreFixture();
  assert.equal(
    f.run((a) =>
      a
        .pushfq()
        .bts(qword(mem(rsp)), 8)
        .popfq()
        .inc(rax)
        .label("here")
        .inc(rbx),
    ).trap,
    "#1",
  );
  assert.equal(f.frame(false).rip, f.symbol("here"));
  assert.equal(f.bare.register(0), 1);
});

test("instructions for the host leave at themselves with their length and operands", () => {
  const f = new CoreFixture();
  const { fields } = f.core;
  f.place((a) => a.nop().cpuid());
  f.start();
  assert.equal(f.go().exit, EXIT_ASSIST);
  assert.deepEqual([fields.low(CPU_EXIT_KIND), fields.low(CPU_EXIT_LENGTH), fields.word(CPU_RIP)], [ASSIST_CPUID, 2, CODE + 1]);
  f.place((a) => a.rdmsr());
  f.start();
  assert.equal(f.go().exit, EXIT_ASSIST);
  assert.equal(fields.low(CPU_EXIT_KIND), ASSIST_RDMSR);
  f.place((a) => a.out(0x80, eax));
  f.start();
  assert.equal(f.go().exit, EXIT_ASSIST);
  assert.deepEqual([fields.low(CPU_EXIT_KIND), fields.low(CPU_EXIT_PORT), fields.low(CPU_EXIT_SIZE)], [ASSIST_OUT, 0x80, 4]);
});

test("the trap opcode is #UD where no trap is registered, and a trap elsewhere, in user mode too", () => {
  const f = new CoreFixture();
  f.bare.load(CODE, Uint8Array.from([0x0f, 0xff, 0xc0]));
  f.start();
  assert.equal(f.go().trap, "#6");
  assert.equal(f.run((a) => a.trap("here"), true).trap, "here");
});

test("an instruction that is not implemented raises #UD and is counted by name", () => {
  const f = new CoreFixture();
  f.bare.load(CODE, Uint8Array.from([0x66, 0x0f, 0xfe, 0xc1])); // PADDD XMM0, XMM1
  f.start();
  assert.equal(f.go().trap, "#6");
  assert.deepEqual([...f.core.unimplemented], [["paddd", 1]]);
});

test("segment registers: a null DS loads, a code selector into SS does not", () => {
  const f = new CoreFixture();
  assert.equal(f.run((a) => a.xor(ecx, ecx).mov(ds, ecx).trap("done")).trap, "done");
  assert.equal(f.run((a) => a.mov(ecx, KERNEL_CS).mov(ss, ecx)).trap, "#13");
  assert.equal(f.frame(true).error, KERNEL_CS);
});

test("a fault inside REP MOVSB leaves the registers where it stopped, and the instruction goes on after it", () => {
  const f = new CoreFixture();
  f.map(0, P | U | 2n);
  f.view.setBigUint64(0x1a0000, 0x8877665544332211n, true);
  f.place((a) =>
    a
      .mov(rsi, 0x1a0000)
      .mov(rdi, WINDOW + 4096 - 4)
      .mov(rcx, 8)
      .rep()
      .movsb()
      .trap("done"),
  );
  f.start();
  assert.equal(f.go().trap, "#14");
  assert.deepEqual([f.bare.register(1), f.bare.register(6), f.bare.register(7)], [4, 0x1a0004, WINDOW + 4096]);
  f.map(1, P | U | 2n);
  const { rip, rsp: oldRsp } = f.frame(true);
  f.core.fields.setWord(CPU_RIP, rip);
  f.bare.setRegister(4, oldRsp);
  assert.equal(f.go().trap, "done");
  assert.equal(f.view.getUint32(0x401000, true), 0x88776655);
});
