// What random operands of one instruction do not reach: repeats and directions, branches taken and not, compare-and-exchange that
// succeeds, quotients that fit, prefixes in odd orders, code that changes itself, and instructions that user mode refuses.
import { byte, eax, GPR32, GPR64, mem, qword, rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp } from "../../src/assembler/index.ts";
import { branchCases } from "./branch-cases.ts";
import { ARITHMETIC_FLAGS, COMPARED_FLAGS, HOT_MIDDLE, RAX, RBP, RBX, RCX, RDI, RDX, RegisterClass, RSI, RSP } from "./case.ts";
import { type Directed, type Draft, directed } from "./draft.ts";
import { undefinedFlags } from "./undefined-flags.ts";

const STRING_POINTERS = [RegisterClass.pointer, RegisterClass.pointerOdd, RegisterClass.pointerCrossing, RegisterClass.pointerOdd] as const;

function stringState({ classes, random }: Draft): void {
  classes[RSI] = random.pick(STRING_POINTERS);
  classes[RDI] = random.oneIn(12) ? RegisterClass.pointerEnd : random.pick(STRING_POINTERS);
  classes[RCX] = RegisterClass.repeat;
  classes[RSP] = random.oneIn(3) ? RegisterClass.stackDirectionDown : RegisterClass.stack;
}

const STRING_OPCODES: readonly (readonly [string, number])[] = [
  ["movs", 0xa4],
  ["cmps", 0xa6],
  ["stos", 0xaa],
  ["lods", 0xac],
  ["scas", 0xae],
];
const PREFIXES: readonly (readonly [string, readonly number[]])[] = [
  ["", []],
  ["rep ", [0xf3]],
  ["repne ", [0xf2]],
];
const SIZES: readonly (readonly [string, readonly number[], number])[] = [
  ["b", [], 0],
  ["w", [0x66], 1],
  ["d", [], 1],
  ["q", [0x48], 1],
];

/** RDI within the hot bytes, after what was compared there faulted: SDM volume 2 (REP) restores the flags, AMD leaves them. */
function stringCases(): Directed[] {
  return STRING_OPCODES.flatMap(([op, opcode]) =>
    PREFIXES.flatMap(([prefixName, prefix]) =>
      SIZES.map(([suffix, size, wide]) =>
        directed(`${prefixName}${op}${suffix}`, (draft) => {
          stringState(draft);
          const isCompare = op === "cmps" || op === "scas";
          if (isCompare) draft.classes[RDI] = RegisterClass.pointerOdd; // no fault half way: see above
          const is32 = draft.random.oneIn(8);
          if (is32) draft.classes[RDI] = draft.classes[RSI] = RegisterClass.pointerDirty;
          draft.a.db(...(is32 ? [0x67] : []), ...prefix, ...size.filter((b) => b === 0x66));
          draft.a.db(...size.filter((b) => b === 0x48), opcode + wide);
        }),
      ),
    ),
  );
}

/** Strings that are equal for a while. */
function equalStringCases(): Directed[] {
  const compare = SIZES.map(([suffix, size, wide]) =>
    directed(`repe cmps${suffix} of equal strings`, (draft) => {
      stringState(draft);
      draft.classes[RDI] = RegisterClass.pointerOdd;
      draft.classes[RSI] = RegisterClass.pointerOdd;
      draft.a.mov(rsi, rdi).db(...size.filter((b) => b === 0x66), 0xf3, ...size.filter((b) => b === 0x48), 0xa6 + wide);
    }),
  );
  const scan = SIZES.map(([suffix, size, wide]) =>
    directed(`repe scas${suffix} of a filled string`, (draft) => {
      const { a, random } = draft;
      stringState(draft);
      draft.classes[RDI] = RegisterClass.pointerOdd;
      const prefix = [...size.filter((b) => b === 0x66), 0xf3, ...size.filter((b) => b === 0x48)];
      a.push(rdi)
        .push(rcx)
        .db(...prefix, 0xaa + wide)
        .pop(rcx)
        .pop(rdi);
      a.mov(byte(mem(rdi, random.below(64) - 32)), random.below(128)).db(...prefix, 0xae + wide);
    }),
  );
  return [...compare, ...scan];
}

const NEVER_POPPED = 0x100 | 0x4000 | 0x40000; // TF would trap, NT and AC change what later instructions do

function stackCases(): Directed[] {
  return [
    directed("push imm32; popfq; pushfq", ({ a, random }) => {
      a.push((random.u32() & 0x7fffffff & ~NEVER_POPPED) | 0x10000)
        .popfq()
        .pushfq();
    }),
    directed("pushf16; popf16", ({ a, random }) => {
      a.push(random.below(0x10000) & ~NEVER_POPPED).db(0x66, 0x9d, 0x66, 0x9c);
    }),
    directed("push rsp; pop rsp", ({ a }) => a.push(rsp).pop(rsp).push(rsp)),
    directed("pop qword [rsp + disp]", ({ a, random }) => a.push(rax).pop(qword(mem(rsp, 8 * random.below(8))))),
    directed("enter; leave", ({ a, random, classes }) => {
      classes[RBP] = RegisterClass.pointer;
      a.enter(random.below(64), random.below(8)).push(rbp).pop(rax).leave();
    }),
    directed("call and return", ({ a, random }) => {
      a.call("f").jmp("end").label("f").add(rax, random.below(100)).ret().label("end");
    }),
    directed("ret imm16 drops arguments", ({ a, random }) => {
      const words = random.below(6);
      for (let i = 0; i < words; i++) a.push(rcx);
      a.call("f")
        .jmp("end")
        .label("f")
        .mov(rax, mem(rsp, 8))
        .ret(8 * words)
        .label("end");
    }),
    directed("call by register, jump by memory", ({ a }) => {
      a.mov(rdx, "f").call(rdx).jmp("end").label("f").mov(rbx, "g").push(rbx).jmp(mem(rsp)).label("g").pop(rcx).ret().label("end");
    }),
    directed("call by memory", ({ a }) => a.mov(rdx, "f").push(rdx).call(mem(rsp)).jmp("end").label("f").ret(8).label("end")),
    directed("call rsp-relative reads its target before it pushes", ({ a }) =>
      a
        .mov(rdx, "f")
        .mov(rax, "g")
        .push(rax)
        .push(rdx)
        .call(mem(rsp, 8))
        .jmp("end")
        .label("f")
        .mov(eax, 1)
        .ret()
        .label("g")
        .mov(eax, 2)
        .ret()
        .label("end"),
    ),
  ];
}

function exchangeCases(): Directed[] {
  const widths = [GPR32, GPR64] as const;
  return [
    ...widths.map((registers) =>
      directed(`cmpxchg that succeeds, ${registers === GPR32 ? 32 : 64} bits`, ({ a, classes, random }) => {
        classes[RDI] = random.pick(STRING_POINTERS);
        const accumulator = registers[RAX] ?? rax;
        if (random.oneIn(2))
          a.mov(accumulator, mem(rdi))
            .lock()
            .cmpxchg(mem(rdi), registers[RDX] ?? rdx);
        else a.mov(accumulator, mem(rdi)).cmpxchg(mem(rdi), registers[RDX] ?? rdx);
      }),
    ),
    directed("cmpxchg of a register with itself", ({ a }) => a.mov(rax, rcx).cmpxchg(rcx, rdx).cmpxchg(rax, rbx)),
    directed("cmpxchg8b that succeeds", ({ a, classes }) => {
      classes[RDI] = RegisterClass.pointerOdd;
      a.mov(eax, mem(rdi))
        .mov(GPR32[RDX] ?? eax, mem(rdi, 4))
        .lock()
        .cmpxchg8b(mem(rdi));
    }),
    directed("cmpxchg16b that succeeds", ({ a, classes }) => {
      classes[RDI] = RegisterClass.pointer;
      a.mov(rax, mem(rdi)).mov(rdx, mem(rdi, 8)).lock().cmpxchg16b(mem(rdi));
    }),
    directed("cmpxchg16b at an odd address", ({ a, classes }) => {
      classes[RDI] = RegisterClass.pointerOdd;
      a.cmpxchg16b(mem(rdi));
    }),
    directed("xadd of a register with itself", ({ a }) => a.xadd(rcx, rcx)),
    directed("xchg of a register with itself", ({ a }) => a.db(0x48, 0x87, 0xc9)),
    directed("xlatb", ({ a, classes }) => {
      classes[RBX] = RegisterClass.pointerOdd;
      a.xlatb();
    }),
  ];
}

function divisionCases(): Directed[] {
  const mask = COMPARED_FLAGS & ~ARITHMETIC_FLAGS;
  return [
    directed("cqo; idiv", (draft) => {
      draft.flagMask = mask;
      draft.a.cqo().idiv(rcx);
    }),
    directed("cdq; idiv", (draft) => {
      draft.flagMask = mask;
      draft.a.cdq().idiv(GPR32[RCX] ?? eax);
    }),
    directed("cwd; idiv", (draft) => {
      draft.flagMask = mask;
      draft.a.cwd().db(0x66, 0xf7, 0xf9);
    }),
    directed("cbw; idiv", (draft) => {
      draft.flagMask = mask;
      draft.a.cbw().db(0xf6, 0xf9);
    }),
    directed("mul; div gives the factor back", (draft) => {
      draft.flagMask = mask;
      draft.a.mul(rcx).div(rcx);
    }),
    directed("128-bit dividend below the divisor", (draft) => {
      draft.flagMask = mask;
      draft.classes[RDX] = draft.classes[RCX] = RegisterClass.random64;
      draft.a
        .shr(rdx, 1 + draft.random.below(8))
        .db(0x48, 0x0f, 0xba, 0xe9, 63)
        .div(rcx); // bts rcx, 63
    }),
    directed("signed 128-bit dividend", (draft) => {
      draft.flagMask = mask;
      draft.classes[RDX] = draft.classes[RCX] = RegisterClass.random64;
      draft.a.sar(rdx, 2 + draft.random.below(40)).idiv(rcx);
    }),
  ];
}

/** Bytes that the assembler would not choose. */
function encodingCases(): Directed[] {
  const raw = (name: string, ...bytes: number[]): Directed => directed(name, ({ a }) => a.db(...bytes));
  const pointer = (name: string, ...bytes: number[]): Directed =>
    directed(name, ({ a, classes }) => {
      classes[RDI] = RegisterClass.pointerOdd;
      a.db(...bytes);
    });
  return [
    raw("REX before 66 is ignored: add ax, ax", 0x48, 0x66, 0x01, 0xc0),
    raw("66 before REX.W: add rax, rcx", 0x66, 0x48, 0x01, 0xc8),
    raw("two REX prefixes: the last counts", 0x48, 0x41, 0x01, 0xc8),
    raw("66 66 add ax, cx", 0x66, 0x66, 0x01, 0xc8),
    raw("F3 before add is ignored", 0xf3, 0x01, 0xc8),
    raw("66 mov r16, imm16", 0x66, 0xb9, 0x34, 0x12),
    raw("long NOP of 9 bytes", 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0),
    raw("xchg eax, eax is NOP, not a zero extension", 0x90),
    raw("xchg eax, r8d is no NOP", 0x41, 0x90),
    raw("mov eax, eax clears the upper half", 0x89, 0xc0),
    directed("second form of test, F6 /1", (draft) => {
      draft.flagMask &= ~undefinedFlags("test", 8, null);
      draft.a.db(0xf6, 0xc9, 0x81);
    }),
    directed("second form of shl, D0 /6", (draft) => {
      draft.flagMask &= ~undefinedFlags("shl", 8, 1);
      draft.a.db(0xd0, 0xf1);
    }),
    raw("rdgsbase", 0xf3, 0x48, 0x0f, 0xae, 0xc8),
    pointer("cs: ds: es: ss: prefixes do nothing", 0x2e, 0x8b, 0x07, 0x3e, 0x8b, 0x0f, 0x26, 0x8b, 0x17, 0x36, 0x8b, 0x1f),
    pointer("67: 32-bit address", 0x67, 0x8b, 0x07),
    pointer("disp32 where disp8 would do", 0x8b, 0x87, 0x10, 0, 0, 0),
    pointer("SIB without an index", 0x8b, 0x04, 0x27),
    directed("mov al, moffs", ({ a }) => a.db(0xa0).dq(HOT_MIDDLE + 3)),
    directed("mov rax, moffs", ({ a }) => a.db(0x48, 0xa1).dq(HOT_MIDDLE - 3)),
    directed("mov moffs, eax", ({ a }) => a.db(0xa3).dq(HOT_MIDDLE + 5)),
    directed("mov moffs, al with a 32-bit address", ({ a }) => a.db(0x67, 0xa2).dd(HOT_MIDDLE + 7)),
  ];
}

function selfModifyingCases(): Directed[] {
  return [
    directed("a store changes the next instruction", ({ a, random }) => {
      a.mov(rdi, "patched")
        .mov(byte(mem(rdi, 1)), random.below(128))
        .label("patched")
        .db(0xb0, 0x55)
        .mov(rcx, rax);
    }),
    directed("a store changes an instruction that has run", ({ a, random }) => {
      a.mov(rdi, "patched").mov(rcx, 2).label("again").label("patched").db(0xb0, 0x55).add(rdx, rax);
      a.mov(byte(mem(rdi, 1)), random.below(128))
        .dec(rcx)
        .jnz("again");
    }),
    directed("rep movsb over the code ahead", ({ a, classes }) => {
      classes[RCX] = RegisterClass.random64;
      a.cld().mov(rsi, "source").mov(rdi, "target").mov(rcx, 7).rep().movsb();
      a.label("target").mov(rax, 0x11111111).jmp("end").label("source").mov(rax, 0x22222222).label("end");
    }),
  ];
}

/** Refused in user mode, or not an instruction at all: SDM volume 3, 5.9, and the opcode maps of volume 2, appendix A. */
function refusedCases(): Directed[] {
  const list: readonly (readonly [string, readonly number[]])[] = [
    ["hlt", [0xf4]],
    ["cli", [0xfa]],
    ["sti", [0xfb]],
    ["rdmsr", [0x0f, 0x32]],
    ["wrmsr", [0x0f, 0x30]],
    ["mov rax, cr0", [0x0f, 0x20, 0xc0]],
    ["mov cr3, rax", [0x0f, 0x22, 0xd8]],
    ["mov rax, dr7", [0x0f, 0x21, 0xf8]],
    ["invlpg [rdi]", [0x0f, 0x01, 0x3f]],
    ["lgdt [rdi]", [0x0f, 0x01, 0x17]],
    ["lidt [rdi]", [0x0f, 0x01, 0x1f]],
    ["ltr ax", [0x0f, 0x00, 0xd8]],
    ["lldt ax", [0x0f, 0x00, 0xd0]],
    ["lmsw ax", [0x0f, 0x01, 0xf0]],
    ["clts", [0x0f, 0x06]],
    ["swapgs", [0x0f, 0x01, 0xf8]],
    ["wbinvd", [0x0f, 0x09]],
    ["invd", [0x0f, 0x08]],
    ["in al, dx", [0xec]],
    ["out dx, al", [0xee]],
    ["in eax, 0x60", [0xe5, 0x60]],
    ["ud2", [0x0f, 0x0b]],
    ["ud0 eax, eax", [0x0f, 0xff, 0xc0]],
    ["ud1 eax, eax", [0x0f, 0xb9, 0xc0]],
    ["int3", [0xcc]],
    ["push es", [0x06]],
    ["daa", [0x27]],
    ["aaa", [0x37]],
    ["pusha", [0x60]],
    ["opcode 82", [0x82, 0xc0, 0x01]],
    ["call far immediate", [0x9a, 0, 0, 0, 0, 0, 0]],
    ["into", [0xce]],
    ["aam", [0xd4, 0x0a]],
    ["salc", [0xd6]],
    ["jmp far immediate", [0xea, 0, 0, 0, 0, 0, 0]],
    ["lock nop", [0xf0, 0x90]],
    ["lock add eax, ecx", [0xf0, 0x01, 0xc8]],
    ["lock mov [rdi], eax", [0xf0, 0x89, 0x07]],
    ["lea eax, eax", [0x8d, 0xc0]],
    ["cmpxchg8b eax", [0x0f, 0xc7, 0xc8]],
    ["FE /2", [0xfe, 0xd0]],
    ["FF /7", [0xff, 0xf8]],
    ["8F /1", [0x8f, 0xc8]],
    ["C6 /1", [0xc6, 0xc8, 0x00]],
  ];
  return list.map(([name, bytes]) =>
    directed(name, ({ a, classes }) => {
      classes[RDI] = RegisterClass.pointer;
      a.add(rbx, rcx)
        .db(...bytes)
        .add(rbx, rdx);
    }),
  );
}

export const DIRECTED: readonly Directed[] = [
  ...stringCases(),
  ...equalStringCases(),
  ...stackCases(),
  ...branchCases(),
  ...exchangeCases(),
  ...divisionCases(),
  ...encodingCases(),
  ...selfModifyingCases(),
  ...refusedCases(),
];
