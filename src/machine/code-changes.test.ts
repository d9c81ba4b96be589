// Translated code that changes, crosses pages, or is reached under other addresses: what runs must always be what memory holds.
// SDM vol. 3, 10.1.3 "Handling self- and cross-modifying code": the processor that writes its own code executes the new bytes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { CODE, CoreFixture, P, W, WINDOW, WINDOW_FRAMES } from "../../test/core-fixture.ts";
import { byte, dword, eax, ebx, ecx, mem, rax, rbx, rcx, rdi, rsi } from "../assembler/index.ts";
import { CPU_BYTES, CPU_CR2, CPU_REGION, CPU_REGS, EXIT_BUDGET, SHARED_CODE_EPOCH } from "./core/layout.gen.ts";

const MOV_EAX = 0xb8;
const RET = 0xc3;
const PAGE = 4096;

/** mov eax, value; ret */
function returning(value: number): number[] {
  return [MOV_EAX, value & 0xff, value >> 8, 0, 0, RET];
}

test("code that was executed and then written runs as written", () => {
  const f = new CoreFixture();
  f.bare.load(0x110000, Uint8Array.from(returning(1)));
  f.run((a) =>
    a
      .call(0x110000)
      .mov(ebx, eax)
      .mov(byte(mem(0x110001)), 2)
      .call(0x110000)
      .mov(ecx, eax)
      .trap("done"),
  );
  assert.deepEqual([f.bare.register(3), f.bare.register(1)], [1, 2]);
});

test("an instruction that writes the next one of its own block sees it changed", () => {
  const f = new CoreFixture();
  // The patched byte is the immediate of the MOV right behind the store; run it twice, with another value.
  f.place((a) =>
    a
      .mov(byte(mem(CODE + 16)), 7)
      .align(8)
      .nop()
      .nop()
      .nop()
      .nop()
      .nop()
      .nop()
      .nop()
      .mov(eax, 1)
      .trap("done"),
  );
  const bytes = f.core.physical;
  assert.equal(bytes[CODE + 15], MOV_EAX);
  for (const value of [7, 9]) {
    f.bare.load(CODE + 7, Uint8Array.from([value]));
    f.start();
    assert.equal(f.go().trap, "done");
    assert.equal(f.bare.register(0), value);
  }
});

test("a store into a page of code that hits no code line leaves the code, and the data right", () => {
  const f = new CoreFixture();
  f.run((a) =>
    a
      .mov(ecx, 1000)
      .label("loop")
      .inc(dword(mem(CODE + 0x800)))
      .dec(ecx)
      .jne("loop")
      .trap("done"),
  );
  assert.equal(f.view.getUint32(CODE + 0x800, true), 1000);
  assert.ok(f.core.counters().blocks < 10, "the loop is not translated again and again");
});

test("REP MOVSB and REP STOSB over code are noticed", () => {
  const f = new CoreFixture();
  f.bare.load(0x110000, Uint8Array.from(returning(1)));
  f.bare.load(0x120000, Uint8Array.from(returning(300)));
  f.run((a) => a.call(0x110000).mov(rsi, 0x120000).mov(rdi, 0x110000).mov(rcx, 6).rep().movsb().call(0x110000).trap("done"));
  assert.equal(f.bare.register(0), 300);
  f.run((a) => a.mov(rdi, 0x110001).mov(rcx, 4).mov(eax, 1).rep().stosb().call(0x110000).trap("done"));
  assert.equal(f.bare.register(0), 0x01010101);
});

test("the host's writes to physical memory are noticed", () => {
  const f = new CoreFixture();
  f.place((a) => a.call(0x110000).trap("done"));
  for (const value of [5, 6]) {
    f.bare.load(0x110000, Uint8Array.from(returning(value)));
    f.start();
    f.go();
    assert.equal(f.bare.register(0), value);
  }
});

test("code under another virtual address is the same code, and RIP-relative operands follow the address", () => {
  const f = new CoreFixture();
  f.map(0, P | W, 0x110000);
  f.map(1, P | W);
  // mov eax, [rip + 4096 - 6]: the first bytes of the page behind
  f.bare.load(0x110000, Uint8Array.from([0x8b, 0x05, 0xfa, 0x0f, 0, 0, RET]));
  f.view.setUint32(0x111000, 11, true);
  f.view.setUint32(WINDOW_FRAMES + PAGE, 22, true);
  f.run((a) => a.call(0x110000).mov(ebx, eax).mov(rcx, WINDOW).call(rcx).trap("done"));
  assert.deepEqual([f.bare.register(3), f.bare.register(0)], [11, 22]);
});

test("an instruction across two pages takes its second part from the page that is mapped now", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  f.map(1, P | W);
  f.map(2, P | W);
  const code = returning(0x11);
  f.core.physical.set(code.slice(0, 1), WINDOW_FRAMES + PAGE - 1);
  f.core.physical.set(code.slice(1), WINDOW_FRAMES + PAGE);
  f.core.physical.set(returning(0x22).slice(1), WINDOW_FRAMES + 2 * PAGE);
  const run = (): number => {
    f.run((a) =>
      a
        .mov(rcx, WINDOW + PAGE - 1)
        .call(rcx)
        .trap("done"),
    );
    return f.bare.register(0);
  };
  assert.equal(run(), 0x11);
  f.map(1, P | W, WINDOW_FRAMES + 2 * PAGE);
  f.core.functions.hostInvlpg(WINDOW + PAGE);
  assert.equal(run(), 0x22);
  // And when those bytes are written.
  f.run((a) => a.mov(byte(mem(WINDOW_FRAMES + 2 * PAGE)), 0x33).trap("done"));
  assert.equal(run(), 0x33);
});

test("an instruction whose second page is not mapped faults at its own address, for the address of that page", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  f.core.physical.set([MOV_EAX], WINDOW_FRAMES + PAGE - 1);
  assert.equal(f.run((a) => a.mov(rcx, WINDOW + PAGE - 1).call(rcx)).trap, "#14");
  assert.equal(f.frame(true).rip, WINDOW + PAGE - 1);
  assert.equal(f.core.fields.word(CPU_CR2), WINDOW + PAGE);
  f.map(1, P | W);
  f.core.physical.set(returning(3).slice(1), WINDOW_FRAMES + PAGE);
  f.run((a) =>
    a
      .mov(rcx, WINDOW + PAGE - 1)
      .call(rcx)
      .trap("done"),
  );
  assert.equal(f.bare.register(0), 3);
});

test("a function remapped to another frame runs from the new frame after INVLPG, not before", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  f.core.physical.set(returning(1), WINDOW_FRAMES);
  f.core.physical.set(returning(2), WINDOW_FRAMES + PAGE);
  f.run((a) => {
    a.mov(rcx, WINDOW)
      .call(rcx)
      .mov(ebx, eax)
      .mov(rax, WINDOW_FRAMES + PAGE + 3)
      .mov(mem(CoreFixture.entries.page), rax);
    a.call(rcx).mov(rdi, rax).invlpg(mem(WINDOW)).call(rcx).trap("done");
  });
  assert.deepEqual([f.bare.register(3), f.bare.register(7), f.bare.register(0)], [1, 1, 2]);
});

test("many pages of code that are written and run again give the new results", () => {
  const f = new CoreFixture();
  const count = 1000;
  const base = 0x800000;
  for (let round = 1; round <= 3; round++) {
    for (let n = 0; n < count; n++) f.bare.load(base + n * PAGE, Uint8Array.from(returning(round)));
    f.run((a) => {
      a.mov(rsi, base).mov(rdi, count).xor(ebx, ebx).label("loop").call(rsi).add(rbx, rax).add(rsi, PAGE).dec(rdi).jne("loop").trap("done");
    });
    assert.equal(f.bare.register(3), count * round);
  }
});

test("more code than the translation cache holds runs right: it is discarded and translated again", () => {
  const f = new CoreFixture();
  const base = 0x800000;
  const count = 800;
  const incEax = [0xff, 0xc0];
  const page = new Uint8Array(PAGE);
  for (let at = 0; at < PAGE - 2; at += 2) page.set(incEax, at);
  page[PAGE - 2] = RET;
  for (let n = 0; n < count; n++) f.bare.load(base + n * PAGE, page);
  const before = f.core.fields.low(SHARED_CODE_EPOCH);
  f.place((a) => a.mov(rsi, base).mov(rdi, count).xor(eax, eax).label("loop").call(rsi).add(rsi, PAGE).dec(rdi).jne("loop").trap("done"));
  f.start();
  assert.equal(f.go(10_000_000).trap, "done");
  assert.equal(f.bare.register(0), count * (PAGE / 2 - 1));
  assert.ok(f.core.fields.low(SHARED_CODE_EPOCH) > before, "the cache did overflow");
});

test("a copy of the CPU block is a snapshot of a run that has not touched memory", () => {
  const f = new CoreFixture();
  f.place((a) => a.xor(eax, eax).label("loop").add(rax, rcx).rol(rax, 7).dec(rcx).jne("loop").trap("done"));
  f.start();
  f.bare.setRegister(1, 10000);
  assert.equal(f.go(5000).exit, EXIT_BUDGET);
  const snapshot = f.core.view.buffer.slice(CPU_REGION, CPU_REGION + CPU_BYTES);
  assert.equal(f.go().trap, "done");
  const expected = f.core.view.getBigUint64(CPU_REGS, true);
  new Uint8Array(f.core.view.buffer).set(new Uint8Array(snapshot), CPU_REGION);
  f.core.functions.contextChanged();
  assert.equal(f.go().trap, "done");
  assert.equal(f.core.view.getBigUint64(CPU_REGS, true), expected);
});
