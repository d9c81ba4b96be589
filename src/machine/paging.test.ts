// Paging of the core: permissions and error codes, accessed and dirty flags, page sizes, and a TLB that keeps what software forgot to
// invalidate. Expected values: SDM vol. 3, chapter 5 (5.6 access rights, 5.7 error codes, 5.8 A and D flags, 5.10 caching).
import assert from "node:assert/strict";
import { test } from "node:test";
import { A, CoreFixture, D, G, NX, P, U, W, WINDOW, WINDOW_FRAMES } from "../../test/core-fixture.ts";
import { cr0, cr3, mem, qword, r8, rax, rbx, rcx, rdx, rsp } from "../assembler/index.ts";
import { CPU_CR2, CPU_CR3, CPU_CR4, CPU_EFER, CPU_REGS } from "./core/layout.gen.ts";

const PF = "#14";
const CR4_PCIDE = 0x20000;
const CR4_SMEP = 0x100000;
const CR4_SMAP = 0x200000;
const PAGE = 4096;

/** Error code of the page fault that a program ends with, checking CR2. */
function faultOf(f: CoreFixture, end: { trap: string }, address: number): number {
  assert.equal(end.trap, PF);
  assert.equal(f.core.fields.word(CPU_CR2), address);
  return f.frame(true).error;
}

test("a read of a page that is not present faults with error 0, in user mode 4; a write adds 2", () => {
  const f = new CoreFixture();
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(rax, mem(WINDOW + 8))),
      WINDOW + 8,
    ),
    0,
  );
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(rax, mem(WINDOW + 8)), true),
      WINDOW + 8,
    ),
    4,
  );
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(mem(WINDOW + 16), rax)),
      WINDOW + 16,
    ),
    2,
  );
});

test("user mode reaches user pages alone, and writes writable ones alone", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  f.map(1, P | U);
  f.map(2, P | U | W);
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(rax, mem(WINDOW)), true),
      WINDOW,
    ),
    5,
  );
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(rax, mem(WINDOW + PAGE)).mov(mem(WINDOW + PAGE), rax), true),
      WINDOW + PAGE,
    ),
    7,
  );
  assert.equal(f.run((a) => a.mov(mem(WINDOW + 2 * PAGE), rax).trap("done"), true).trap, "done");
});

test("the supervisor writes read-only pages only with CR0.WP clear", () => {
  const f = new CoreFixture();
  f.map(0, P);
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(mem(WINDOW), rax)),
      WINDOW,
    ),
    3,
  );
  const end = f.run((a) =>
    a.mov(rcx, cr0).btr(rcx, 16).mov(cr0, rcx).mov(mem(WINDOW), rax).bts(rcx, 16).mov(cr0, rcx).mov(mem(WINDOW), rax),
  );
  assert.equal(faultOf(f, end, WINDOW), 3);
  assert.equal(f.bits(0), P | A | D);
});

test("NX forbids fetches with error 16 + 1, and is a reserved bit without EFER.NXE", () => {
  const f = new CoreFixture();
  f.map(0, P | NX);
  f.view.setUint8(WINDOW_FRAMES, 0x90);
  const jump = (): ReturnType<CoreFixture["run"]> => f.run((a) => a.mov(rax, WINDOW).jmp(rax));
  assert.equal(faultOf(f, jump(), WINDOW), 0x11);
  assert.equal(f.frame(true).rip, WINDOW);
  f.core.fields.setWord(CPU_EFER, f.core.fields.word(CPU_EFER) & ~0x800);
  f.core.functions.contextChanged();
  // Without NXE the error code does not tell fetches apart.
  assert.equal(faultOf(f, jump(), WINDOW), 9);
});

test("a reserved physical-address bit faults with error 8 + 1", () => {
  const f = new CoreFixture();
  f.map(0, P | (1n << 50n));
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(rax, mem(WINDOW))),
      WINDOW,
    ),
    9,
  );
});

test("SMEP forbids supervisor fetches from user pages, SMAP accesses to them until STAC", () => {
  const f = new CoreFixture();
  f.map(0, P | U | W);
  f.view.setUint8(WINDOW_FRAMES, 0xc3);
  // The code itself must not lie in user pages then.
  f.setEntry(0x3000, 0x83n);
  f.core.fields.setWord(CPU_CR4, f.core.fields.word(CPU_CR4) + CR4_SMEP + CR4_SMAP);
  f.core.functions.contextChanged();
  f.core.functions.flushAllTlb();
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(rax, WINDOW).call(rax)),
      WINDOW,
    ),
    0x11,
  );
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(rax, mem(WINDOW))),
      WINDOW,
    ),
    1,
  );
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.stac().mov(rax, mem(WINDOW)).clac().mov(mem(WINDOW), rax)),
      WINDOW,
    ),
    3,
  );
});

test("a read sets A at every level, a write also D in the leaf; D is set although the TLB holds a clean entry", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  f.run((a) => a.mov(rax, mem(WINDOW)).trap("read"));
  assert.equal(f.bits(0), P | W | A);
  assert.equal(f.entry(CoreFixture.entries.directory) & A, A);
  assert.equal(f.entry(CoreFixture.entries.pdpt) & A, A);
  f.run((a) => a.mov(rax, mem(WINDOW)).mov(mem(WINDOW), rax).trap("written"));
  assert.equal(f.bits(0), P | W | A | D);
});

test("a faulting access sets no D", () => {
  const f = new CoreFixture();
  f.map(0, P | U);
  f.run((a) => a.mov(mem(WINDOW), rax), true);
  assert.equal(f.bits(0) & D, 0n);
});

test("pages of 2 MiB and 1 GiB translate, and misaligned ones are reserved-bit faults", () => {
  const f = new CoreFixture();
  f.view.setBigUint64(0x600040, 77n, true);
  f.setEntry(CoreFixture.entries.directory, 0x600000n | 0x80n | P | W);
  f.run((a) => a.mov(rax, mem(WINDOW + 0x40)).trap("large"));
  assert.equal(f.bare.register(0), 77);
  assert.equal(f.entry(CoreFixture.entries.directory) & (A | D), A);
  f.setEntry(CoreFixture.entries.pdpt, 0x80n | P | W);
  f.core.functions.flushAllTlb();
  f.run((a) => a.mov(rax, mem(WINDOW + 0x600040)).trap("huge"));
  assert.equal(f.bare.register(0), 77);
  f.setEntry(CoreFixture.entries.pdpt, 0x200080n | P | W);
  f.core.functions.flushAllTlb();
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(rax, mem(WINDOW + 0x40))),
      WINDOW + 0x40,
    ),
    9,
  );
});

test("a translation stays until INVLPG: a changed entry is not seen before", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  f.map(1, P | W);
  f.view.setBigUint64(WINDOW_FRAMES, 1n, true);
  f.view.setBigUint64(WINDOW_FRAMES + PAGE, 2n, true);
  // The page table is reached through the identity map: entry 0 takes the frame of entry 1.
  f.run((a) =>
    a
      .mov(rax, mem(WINDOW))
      .mov(rcx, WINDOW_FRAMES + PAGE + 3)
      .mov(mem(CoreFixture.entries.page), rcx)
      .mov(rbx, mem(WINDOW))
      .invlpg(mem(WINDOW))
      .mov(rdx, mem(WINDOW))
      .trap("done"),
  );
  assert.deepEqual([f.bare.register(0), f.bare.register(3), f.bare.register(2)], [1, 1, 2]);
});

test("MOV CR3 drops translations but global ones", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  f.map(1, P | W | G);
  f.map(2, P | W);
  f.view.setBigUint64(WINDOW_FRAMES, 1n, true);
  f.view.setBigUint64(WINDOW_FRAMES + PAGE, 2n, true);
  f.view.setBigUint64(WINDOW_FRAMES + 2 * PAGE, 3n, true);
  f.run((a) => {
    a.mov(rax, mem(WINDOW))
      .mov(rax, mem(WINDOW + PAGE))
      .mov(rcx, WINDOW_FRAMES + 2 * PAGE + 3);
    a.mov(mem(CoreFixture.entries.page), rcx).mov(mem(CoreFixture.entries.page + 8), rcx);
    a.mov(rdx, cr3)
      .mov(cr3, rdx)
      .mov(rax, mem(WINDOW))
      .mov(rbx, mem(WINDOW + PAGE))
      .trap("done");
  });
  assert.deepEqual([f.bare.register(0), f.bare.register(3)], [3, 2]);
});

test("with PCIDs, NOFLUSH keeps both address spaces' translations; without it, those of the new PCID go", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  f.map(1, P | W);
  f.view.setBigUint64(WINDOW_FRAMES, 1n, true);
  f.view.setBigUint64(WINDOW_FRAMES + PAGE, 2n, true);
  f.core.fields.setWord(CPU_CR4, f.core.fields.word(CPU_CR4) + CR4_PCIDE);
  f.core.functions.contextChanged();
  const noflush = 1n << 63n;
  f.run((a) => {
    a.mov(rax, mem(WINDOW)); // PCID 0 knows the page
    a.mov(rcx, WINDOW_FRAMES + PAGE + 3).mov(mem(CoreFixture.entries.page), rcx);
    a.mov(rcx, 0x1001n | noflush)
      .mov(cr3, rcx)
      .mov(rax, mem(WINDOW)); // PCID 1 walks: 2
    a.mov(rcx, 0x1000n | noflush)
      .mov(cr3, rcx)
      .mov(rbx, mem(WINDOW)); // PCID 0 still has 1
    a.mov(rcx, 0x1000).mov(cr3, rcx).mov(rdx, mem(WINDOW)); // flushed: 2
    a.trap("done");
  });
  assert.deepEqual([f.bare.register(0), f.bare.register(3), f.bare.register(2)], [2, 1, 2]);
  assert.equal(f.core.fields.word(CPU_CR3), 0x1000);
});

test("what several address spaces know of one page stays apart, and goes with each one's own invalidations", () => {
  const f = new CoreFixture();
  const PLACE = WINDOW + PAGE; // not of the same set as the pages of the program
  const SPACES = 7; // more than the core keeps beside what is in use
  f.map(1, P | W);
  for (let n = 0; n <= SPACES; n++) f.view.setBigUint64(WINDOW_FRAMES + n * PAGE, BigInt(n), true);
  f.core.fields.setWord(CPU_CR4, f.core.fields.word(CPU_CR4) + CR4_PCIDE);
  f.core.functions.contextChanged();
  const noflush = 1n << 63n;
  const results = WINDOW_FRAMES + 9 * PAGE;
  f.map(9, P | W, results);
  const seen = () => Array.from({ length: SPACES }, (_, n) => Number(f.view.getBigUint64(results + n * 8, true)));
  const lookAround = (a: Parameters<Parameters<CoreFixture["run"]>[0]>[0]) => {
    for (let n = 0; n < SPACES; n++) {
      a.mov(rcx, BigInt(0x1000 + n) | noflush).mov(cr3, rcx);
      a.mov(rax, mem(PLACE)).mov(mem(WINDOW + 9 * PAGE + n * 8), rax);
    }
  };
  f.run((a) => {
    for (let n = 0; n < SPACES; n++) {
      a.mov(rcx, WINDOW_FRAMES + n * PAGE + 3).mov(mem(CoreFixture.entries.page + 8), rcx);
      a.mov(rcx, BigInt(0x1000 + n) | noflush)
        .mov(cr3, rcx)
        .mov(rax, mem(PLACE));
    }
    a.mov(rcx, WINDOW_FRAMES + SPACES * PAGE + 3).mov(mem(CoreFixture.entries.page + 8), rcx);
    lookAround(a);
    lookAround(a);
    a.trap("done");
  });
  assert.deepEqual(seen(), [0, 1, 2, 3, 4, 5, 6], "nobody has invalidated anything");
  // INVPCID type 0 of PCID 2, INVLPG in PCID 4, MOV CR3 without NOFLUSH to PCID 5.
  f.view.setBigUint64(0x1a0000, 2n, true);
  f.view.setBigUint64(0x1a0008, BigInt(PLACE), true);
  f.run((a) => {
    a.mov(rcx, 0x1001n | noflush).mov(cr3, rcx);
    a.mov(r8, 0).invpcid(r8, mem(0x1a0000));
    a.mov(rcx, 0x1004n | noflush)
      .mov(cr3, rcx)
      .invlpg(mem(PLACE));
    a.mov(rcx, 0x1005).mov(cr3, rcx);
    lookAround(a);
    lookAround(a);
    a.trap("done");
  });
  assert.deepEqual(seen(), [0, 1, 7, 3, 7, 7, 6]);
});

test("INVPCID of another PCID's address leaves ours, and of all contexts takes global ones too", () => {
  const f = new CoreFixture();
  f.map(0, P | W | G);
  f.map(1, P | W);
  f.view.setBigUint64(WINDOW_FRAMES, 1n, true);
  f.view.setBigUint64(WINDOW_FRAMES + PAGE, 2n, true);
  f.core.fields.setWord(CPU_CR4, f.core.fields.word(CPU_CR4) + CR4_PCIDE);
  f.core.functions.contextChanged();
  f.run((a) => {
    a.mov(rax, mem(WINDOW))
      .mov(rcx, WINDOW_FRAMES + PAGE + 3)
      .mov(mem(CoreFixture.entries.page), rcx);
    a.mov(r8, 3).invpcid(r8, mem(0x1a0000)).mov(rbx, mem(WINDOW)); // all but global: still 1
    a.mov(r8, 2).invpcid(r8, mem(0x1a0000)).mov(rdx, mem(WINDOW)); // all: 2
    a.trap("done");
  });
  assert.deepEqual([f.bare.register(3), f.bare.register(2)], [1, 2]);
});

test("accesses that cross a page use both translations, and a fault on the second part writes nothing", () => {
  const f = new CoreFixture();
  f.map(0, P | W, WINDOW_FRAMES + 5 * PAGE);
  f.map(1, P | W, WINDOW_FRAMES);
  f.map(2, P);
  f.run((a) =>
    a
      .mov(rax, 0x1122334455667788n)
      .mov(mem(WINDOW + PAGE - 3), rax)
      .mov(rbx, mem(WINDOW + PAGE - 3))
      .lock()
      .add(qword(mem(WINDOW + PAGE - 3)), 1)
      .trap("done"),
  );
  assert.equal(f.view.getUint8(WINDOW_FRAMES + 6 * PAGE - 1), 0x66);
  assert.equal(f.view.getUint32(WINDOW_FRAMES, true), 0x22334455);
  assert.equal(f.core.view.getBigUint64(CPU_REGS + 3 * 8, true), 0x1122334455667788n);
  assert.equal(
    faultOf(
      f,
      f.run((a) => a.mov(mem(WINDOW + 2 * PAGE - 4), rax)),
      WINDOW + 2 * PAGE,
    ),
    3,
  );
  assert.equal(f.view.getUint32(WINDOW_FRAMES + PAGE - 4, true), 0);
});

test("a non-canonical address is #GP(0), through the stack #SS(0)", () => {
  const f = new CoreFixture();
  assert.equal(f.run((a) => a.mov(rax, 1n << 47n).mov(rbx, mem(rax))).trap, "#13");
  assert.equal(f.frame(true).error, 0);
  assert.equal(f.run((a) => a.mov(rsp, (1n << 47n) + 64n).push(rax), true).trap, "#12");
  assert.equal(f.frame(true).error, 0);
});
