// Encodings are checked against GNU as 2.40 (objdump of the bytes gives the instruction back) and the examples of SDM volume 2.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Assembler,
  AssemblyError,
  ah,
  al,
  assemble,
  assembler,
  at,
  bh,
  bl,
  byte,
  cl,
  cr2,
  cr3,
  cr8,
  ds,
  dword,
  dx,
  eax,
  ecx,
  edi,
  formsOf,
  gs,
  MNEMONICS,
  mem,
  memIndexed,
  qword,
  r9,
  r12,
  r13,
  r15,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rsi,
  rsp,
  sil,
  xmm0,
} from "./index.ts";

function hexOf(write: (a: Assembler) => void, origin = 0x1000): string {
  const a = assembler();
  write(a);
  return Buffer.from(assemble(a.program(), { origin }).bytes).toString("hex");
}

/** Instruction by instruction: what to write, and GNU as's bytes. */
const ENCODINGS: readonly (readonly [string, (a: Assembler) => void, string])[] = [
  ["swapgs", (a) => a.swapgs(), "0f01f8"],
  ["mov gs:0x20, rsp", (a) => a.mov(gs(0x20), rsp), "654889242520000000"],
  ["mov rsp, gs:0x5000", (a) => a.mov(rsp, gs(0x5000)), "65488b242500500000"],
  ["mov rax, -1 takes the sign-extended form", (a) => a.mov(rax, -1), "48c7c0ffffffff"],
  ["mov rax, 0x80000000 does not", (a) => a.mov(rax, 0x80000000), "48b80000008000000000"],
  ["mov rax, imm64", (a) => a.mov(rax, 0x123456789abcdef0n), "48b8f0debc9a78563412"],
  ["mov byte [rdi], 5", (a) => a.mov(byte(mem(rdi)), 5), "c60705"],
  ["mov qword [rdi+8], -1", (a) => a.mov(qword(mem(rdi, 8)), -1), "48c74708ffffffff"],
  ["mov ah, bl", (a) => a.mov(ah, bl), "88dc"],
  ["mov cr3, rax", (a) => a.mov(cr3, rax), "0f22d8"],
  ["mov rax, cr2", (a) => a.mov(rax, cr2), "0f20d0"],
  ["mov rax, cr8", (a) => a.mov(rax, cr8), "440f20c0"],
  ["mov ds, eax", (a) => a.mov(ds, eax), "8ed8"],
  ["mov rbx, [rax+rcx*8-16]", (a) => a.mov(rbx, memIndexed(rax, rcx, 8, -16)), "488b5cc8f0"],
  ["mov rbx, [rcx*8+64] has a 32-bit displacement", (a) => a.mov(rbx, memIndexed(null, rcx, 8, 64)), "488b1ccd40000000"],
  ["[r13] needs a displacement", (a) => a.mov(mem(r13), r12), "4d896500"],
  ["[rsp] needs an index byte", (a) => a.mov(mem(rsp), r12), "4c892424"],
  ["add rax, 5", (a) => a.add(rax, 5), "4883c005"],
  ["add rax, 500", (a) => a.add(rax, 500), "4805f4010000"],
  ["add byte [rax], 0xff", (a) => a.add(byte(mem(rax)), 0xff), "8000ff"],
  ["sub rsp, 0x80", (a) => a.sub(rsp, 0x80), "4881ec80000000"],
  ["dec dword [rdi]", (a) => a.dec(dword(mem(rdi))), "ff0f"],
  ["neg r9", (a) => a.neg(r9), "49f7d9"],
  ["shl rax, 1", (a) => a.shl(rax, 1), "48d1e0"],
  ["shl rax, 12", (a) => a.shl(rax, 12), "48c1e00c"],
  ["sar ecx, cl", (a) => a.sar(ecx, cl), "d3f9"],
  ["shrd [rdi], rbx, cl", (a) => a.shrd(mem(rdi), rbx, cl), "480fad1f"],
  ["imul rax, rbx, 1000", (a) => a.imul(rax, rbx, 1000), "4869c3e8030000"],
  ["push rbp; push 5; push 500", (a) => a.push(rbp).push(5).push(500), "556a0568f4010000"],
  ["push qword [rdi]; pop r15", (a) => a.push(mem(rdi)).pop(r15), "ff37415f"],
  ["ret; ret 8", (a) => a.ret().ret(8), "c3c20800"],
  ["call rax; jmp [rax+8]", (a) => a.call(rax).jmp(mem(rax, 8)), "ffd0ff6008"],
  ["iretq; sysretq", (a) => a.iretq().sysretq(), "48cf480f07"],
  ["verw [rsp]", (a) => a.verw(mem(rsp)), "0f002c24"],
  ["invpcid rax, [rdi]", (a) => a.invpcid(rax, mem(rdi)), "660f388207"],
  ["vmread rax, rbx", (a) => a.vmread(rax, rbx), "0f78d8"],
  ["vmwrite rax, rbx", (a) => a.vmwrite(rax, rbx), "0f79c3"],
  ["vmptrld [rdi]", (a) => a.vmptrld(mem(rdi)), "0fc737"],
  ["vmlaunch; vmresume; vmcall", (a) => a.vmlaunch().vmresume().vmcall(), "0f01c20f01c30f01c1"],
  ["lidt [rax]; ltr eax", (a) => a.lidt(mem(rax)).ltr(eax), "0f01180f00d8"],
  ["in al, dx; out 0xf4, al", (a) => a.in(al, dx).out(0xf4, al), "ece6f4"],
  ["btr qword [rdi], 3", (a) => a.btr(qword(mem(rdi)), 3), "480fba3703"],
  ["cmovz rax, rbx; setne al", (a) => a.cmovz(rax, rbx).setne(al), "480f44c30f95c0"],
  ["lock xadd [rdi], eax", (a) => a.lock().xadd(mem(rdi), eax), "f00fc107"],
  ["lock cmpxchg16b [rdi]", (a) => a.lock().cmpxchg16b(mem(rdi)), "f0480fc70f"],
  ["rep movsq; repne scasb", (a) => a.rep().movsq().repne().scasb(), "f348a5f2ae"],
  ["movsxd rax, ecx", (a) => a.movsxd(rax, ecx), "4863c1"],
  ["movq xmm0, rax", (a) => a.movq(xmm0, rax), "66480f6ec0"],
  ["movzx eax, byte [rdi]", (a) => a.movzx(eax, byte(mem(rdi))), "0fb607"],
  ["xor edi, edi; cmp rdi, rsi", (a) => a.xor(edi, edi).cmp(rdi, rsi), "31ff4839f7"],
];

for (const [name, write, expected] of ENCODINGS) {
  test(`encodes ${name}`, () => assert.equal(hexOf(write), expected));
}

test("every mnemonic has a form or is a relative branch", () => {
  const missing = MNEMONICS.filter((m) => formsOf(m).length === 0);
  assert.deepEqual(missing, []);
});

test("a branch is short when its target is near, forwards and backwards", () => {
  assert.equal(
    hexOf((a) => a.label("x").jne("y").jmp("x").label("y")),
    "7502ebfc",
  );
});

test("a branch grows when its target is 128 bytes away, and pushes the next one over the limit too", () => {
  // 126 bytes of data and two short branches would just fit; the outer one sees 130 and must grow to 6 bytes.
  const a = assembler();
  a.je("end").jmp("end").space(126).label("end");
  const { bytes, symbols } = assemble(a.program(), { origin: 0 });
  assert.equal(Buffer.from(bytes.subarray(0, 8)).toString("hex"), "0f8480000000eb7e");
  assert.equal(symbols.get("end"), 134);
});

test("calls, RIP-relative memory, addresses as immediates and as data resolve at a kernel address", () => {
  const origin = -0x7f000000; // 0xffffffff81000000
  const a = assembler();
  a.call("f").mov(rax, at("value", 8)).mov(rbx, "value").ret().label("f").ret().section("data").label("value").dq("f", 1);
  const { bytes, symbols, origin: placed } = assemble(a.program(), { origin });
  assert.equal(placed, origin);
  assert.equal(symbols.get("f"), origin + 23);
  assert.equal(symbols.get("value"), origin + 64);
  assert.equal(Buffer.from(bytes.subarray(0, 24)).toString("hex"), "e812000000488b053c00000048bb40000081ffffffffc3c3");
  assert.equal(Buffer.from(bytes.subarray(64)).toString("hex"), "17000081ffffffff0100000000000000");
});

test("labels of other programs come with the placement", () => {
  const a = assembler();
  a.jmp("elsewhere");
  const { bytes } = assemble(a.program(), { origin: 0x1000, symbols: new Map([["elsewhere", 0x3000]]) });
  assert.equal(Buffer.from(bytes).toString("hex"), "e9fb1f0000");
});

test("a trap is UD0 eax, eax, and its address is recorded under its name", () => {
  const a = assembler();
  a.push(rax).trap("do_syscall_64").sysretq();
  const { bytes, traps } = assemble(a.program(), { origin: 0x2000 });
  assert.equal(Buffer.from(bytes).toString("hex"), "500fffc0480f07");
  assert.deepEqual([...traps], [[0x2001, "do_syscall_64"]]);
});

test("align pads with NOP to the address, not to the offset", () => {
  assert.equal(
    hexOf((a) => a.ret().align(4).ret(), 0x1002),
    "c390c3",
  );
});

test("the same program can be placed twice", () => {
  const a = assembler();
  a.label("x").mov(rax, "x");
  const program = a.program();
  assert.equal(Buffer.from(assemble(program, { origin: 0x10 }).bytes).toString("hex"), "48b81000000000000000");
  assert.equal(Buffer.from(assemble(program, { origin: 0x20 }).bytes).toString("hex"), "48b82000000000000000");
});

test("mistakes are named", () => {
  assert.throws(() => assembler().inc(mem(rax)), { name: "AssemblyError", message: /size of memory stated.*inc mem/ });
  assert.throws(() => assembler().mov(rax, ecx), { name: "AssemblyError", message: /mov rax, ecx/ });
  assert.throws(() => assembler().mov(ah, memIndexed(r9, rsi)), AssemblyError); // a high byte beside a REX prefix
  assert.throws(() => assemble(assembler().jmp("nowhere").program(), { origin: 0 }), { message: "label not defined: nowhere" });
  assert.throws(() => assemble(assembler().label("a").label("a").program(), { origin: 0 }), { message: "label defined twice: a" });
  assert.throws(() => assemble(assembler().jrcxz("far").space(200).label("far").program(), { origin: 0 }), { message: /reaches 127/ });
});

test("an instruction that cannot be encoded leaves nothing behind in the next one", () => {
  assert.throws(() => assembler().and(bh, sil), AssemblyError);
  assert.equal(
    hexOf((a) => a.ret()),
    "c3",
  );
});
