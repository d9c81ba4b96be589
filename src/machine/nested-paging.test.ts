// EPT on the core: two-dimensional walks, violations with their qualification, misconfigurations, tags. Expected values: SDM vol. 3,
// 29.3 (EPT) and table 28-7 (exit qualification for EPT violations); intercepts: 26.1.
import assert from "node:assert/strict";
import { test } from "node:test";
import { CODE, CoreFixture, P, U, W, WINDOW, WINDOW_FRAMES } from "../../test/core-fixture.ts";
import { byte, cr3, ecx, mem, rax, rbx, rcx } from "../assembler/index.ts";
import {
  CPU_EPTP,
  CPU_EXCEPTION_BITMAP,
  CPU_EXIT_ADDRESS,
  CPU_EXIT_KIND,
  CPU_EXIT_LENGTH,
  CPU_EXIT_PHYSICAL,
  CPU_EXIT_QUALIFICATION,
  CPU_EXIT_VECTOR,
  CPU_GUEST_MODE,
  CPU_INTERCEPTS,
  CPU_RIP,
  CPU_VPID,
  EXIT_EPT_MISCONFIG,
  EXIT_EPT_VIOLATION,
  EXIT_INTERCEPT,
  INTERCEPT_CR3_WRITE,
  INTERCEPT_EXCEPTION,
  INTERCEPT_HLT,
  INTERCEPT_VMCALL,
} from "./core/layout.gen.ts";

const EPT_PML4 = 0x300000;
const EPT_PDPT = 0x301000;
const EPT_DIRECTORY = 0x302000;
const EPT_TABLE = 0x303000;
const RWX = 7n;
const LEAF = 0x80n;
const WB = 0x30n;
const PAGE = 4096;
const EPTP = EPT_PML4 | 0x1e;
const EPTP_AD = EPTP | 0x40;

/** Guest-physical memory one to one by 2 MiB pages, but for the 2 MiB of the window's frames, by 4 KiB pages. */
function guest(): CoreFixture {
  const f = new CoreFixture();
  f.setEntry(EPT_PML4, BigInt(EPT_PDPT) | RWX);
  f.setEntry(EPT_PDPT, BigInt(EPT_DIRECTORY) | RWX);
  for (let n = 0; n < 8; n++) f.setEntry(EPT_DIRECTORY + n * 8, BigInt(n * 0x200000) | LEAF | WB | RWX);
  f.setEntry(EPT_DIRECTORY + (WINDOW_FRAMES / 0x200000) * 8, BigInt(EPT_TABLE) | RWX);
  for (let n = 0; n < 512; n++) mapGuestPhysical(f, n, RWX);
  const { fields, functions } = f.core;
  fields.setLow(CPU_GUEST_MODE, 1);
  fields.setLow(CPU_VPID, 1);
  fields.setWord(CPU_EPTP, EPTP);
  functions.contextChanged();
  return f;
}

function mapGuestPhysical(f: CoreFixture, n: number, rights: bigint, frame = WINDOW_FRAMES + n * PAGE): void {
  f.setEntry(EPT_TABLE + n * 8, BigInt(frame) | WB | rights);
}

test("a guest address goes through both tables", () => {
  const f = guest();
  f.map(0, P | W);
  mapGuestPhysical(f, 0, RWX, WINDOW_FRAMES + 9 * PAGE);
  f.view.setBigUint64(WINDOW_FRAMES + 9 * PAGE + 8, 99n, true);
  assert.equal(f.run((a) => a.mov(rax, mem(WINDOW + 8)).trap("done")).trap, "done");
  assert.equal(f.bare.register(0), 99);
});

test("a violation tells access, rights, linear and physical address, and stops at the instruction", () => {
  const f = guest();
  const { fields } = f.core;
  f.map(0, P | W);
  f.map(1, P | W);
  mapGuestPhysical(f, 0, 0n);
  mapGuestPhysical(f, 1, 1n);
  const leave = (write: Parameters<CoreFixture["run"]>[0]): number[] => {
    assert.equal(f.run(write).exit, EXIT_EPT_VIOLATION);
    return [fields.word(CPU_EXIT_QUALIFICATION), fields.word(CPU_EXIT_PHYSICAL), fields.word(CPU_EXIT_ADDRESS)];
  };
  // Bits: 0 read, 1 write, 2 fetch; 3-5 rights; 7 linear address valid; 8 the translation itself.
  assert.deepEqual(
    leave((a) => a.mov(rax, mem(WINDOW + 4))),
    [0x181, WINDOW_FRAMES + 4, WINDOW + 4],
  );
  assert.equal(fields.word(CPU_RIP), CODE);
  assert.deepEqual(
    leave((a) => a.mov(mem(WINDOW + PAGE), rax)),
    [0x18a, WINDOW_FRAMES + PAGE, WINDOW + PAGE],
  );
  assert.deepEqual(
    leave((a) => a.mov(rcx, WINDOW + PAGE).jmp(rcx)),
    [0x18c, WINDOW_FRAMES + PAGE, WINDOW + PAGE],
  );
});

test("a guest page table that EPT does not map is a violation of the walk (bit 8 clear)", () => {
  const f = guest();
  f.setEntry(CoreFixture.entries.directory, BigInt(WINDOW_FRAMES) | P | W);
  mapGuestPhysical(f, 0, 0n);
  assert.equal(f.run((a) => a.mov(rax, mem(WINDOW + PAGE))).exit, EXIT_EPT_VIOLATION);
  assert.deepEqual([f.core.fields.word(CPU_EXIT_QUALIFICATION), f.core.fields.word(CPU_EXIT_PHYSICAL)], [0x81, WINDOW_FRAMES + 8]);
});

test("the guest's own page faults stay in the guest, and need no exit", () => {
  const f = guest();
  assert.equal(f.run((a) => a.mov(rax, mem(WINDOW))).trap, "#14");
  assert.equal(f.frame(true).error, 0);
});

test("write without read is a misconfiguration, and so is a reserved memory type", () => {
  const f = guest();
  f.map(0, P | W);
  for (const entry of [BigInt(WINDOW_FRAMES) | WB | 2n, BigInt(WINDOW_FRAMES) | (7n << 3n) | RWX]) {
    f.setEntry(EPT_TABLE, entry);
    assert.equal(f.run((a) => a.mov(rax, mem(WINDOW))).exit, EXIT_EPT_MISCONFIG);
    assert.equal(f.core.fields.word(CPU_EXIT_PHYSICAL), WINDOW_FRAMES);
  }
});

test("EPT accessed and dirty flags are set when the EPT pointer asks for them", () => {
  const f = guest();
  f.core.fields.setWord(CPU_EPTP, EPTP_AD);
  f.core.functions.contextChanged();
  f.map(0, P | W);
  f.map(1, P | W);
  f.run((a) =>
    a
      .mov(rax, mem(WINDOW))
      .mov(mem(WINDOW + PAGE), rax)
      .trap("done"),
  );
  assert.equal(f.entry(EPT_TABLE) & 0x300n, 0x100n);
  assert.equal(f.entry(EPT_TABLE + 8) & 0x300n, 0x300n);
});

test("a changed EPT entry is not seen until INVEPT, and INVVPID drops it too", () => {
  for (const invalidate of [
    (f: CoreFixture) => f.core.functions.hostInvept(1, EPTP),
    (f: CoreFixture) => f.core.functions.hostInvept(2, 0),
    (f: CoreFixture) => f.core.functions.hostInvvpid(1, 1, 0),
    (f: CoreFixture) => f.core.functions.hostInvvpid(0, 1, WINDOW),
  ]) {
    const f = guest();
    f.map(0, P | W);
    f.view.setBigUint64(WINDOW_FRAMES, 1n, true);
    f.view.setBigUint64(WINDOW_FRAMES + PAGE, 2n, true);
    const read = (): number => {
      f.run((a) => a.mov(rax, mem(WINDOW)).trap("done"));
      return f.bare.register(0);
    };
    assert.equal(read(), 1);
    mapGuestPhysical(f, 0, RWX, WINDOW_FRAMES + PAGE);
    assert.equal(read(), 1);
    invalidate(f);
    assert.equal(read(), 2);
  }
});

test("host and guest translations of one address do not mix", () => {
  const f = guest();
  const { fields, functions } = f.core;
  f.map(0, P | W);
  mapGuestPhysical(f, 0, RWX, WINDOW_FRAMES + 3 * PAGE);
  f.view.setBigUint64(WINDOW_FRAMES, 10n, true);
  f.view.setBigUint64(WINDOW_FRAMES + 3 * PAGE, 20n, true);
  const seen: number[] = [];
  for (const mode of [1, 0, 1, 0]) {
    fields.setLow(CPU_GUEST_MODE, mode);
    functions.contextChanged();
    f.run((a) => a.mov(rax, mem(WINDOW)).trap("done"));
    seen.push(f.bare.register(0));
  }
  assert.deepEqual(seen, [20, 10, 20, 10]);
});

test("intercepted instructions leave with length and class; others run as on the host", () => {
  const f = guest();
  const { fields } = f.core;
  fields.setLow(CPU_INTERCEPTS, (1 << INTERCEPT_HLT) | (1 << INTERCEPT_VMCALL) | (1 << INTERCEPT_CR3_WRITE));
  const leave = (write: Parameters<CoreFixture["run"]>[0]): number[] => {
    assert.equal(f.run(write).exit, EXIT_INTERCEPT);
    return [fields.low(CPU_EXIT_KIND), fields.low(CPU_EXIT_LENGTH), fields.word(CPU_RIP) - CODE];
  };
  assert.deepEqual(
    leave((a) => a.nop().hlt()),
    [INTERCEPT_HLT, 1, 1],
  );
  assert.deepEqual(
    leave((a) => a.vmcall()),
    [INTERCEPT_VMCALL, 3, 0],
  );
  f.core.fields.setLow(CPU_INTERCEPTS, 0);
  assert.equal(f.run((a) => a.mov(rbx, cr3).mov(cr3, rbx).trap("ran")).trap, "ran");
});

test("intercepted exceptions leave before anything of their delivery", () => {
  const f = guest();
  const { fields } = f.core;
  fields.setLow(CPU_EXCEPTION_BITMAP, 1 << 6);
  assert.equal(f.run((a) => a.ud2()).exit, EXIT_INTERCEPT);
  assert.deepEqual([fields.low(CPU_EXIT_KIND), fields.low(CPU_EXIT_VECTOR), fields.word(CPU_RIP)], [INTERCEPT_EXCEPTION, 6, CODE]);
  assert.equal(f.run((a) => a.xor(ecx, ecx).mov(byte(mem(WINDOW)), 1), true).trap, "#14");
  assert.equal(f.frame(true).error, 6);
});

test("a user page of the guest stays a user page under EPT", () => {
  const f = guest();
  f.map(0, P | W);
  f.map(1, P | W | U);
  assert.equal(f.run((a) => a.mov(rax, mem(WINDOW + PAGE)).mov(rax, mem(WINDOW)), true).trap, "#14");
  assert.equal(f.frame(true).error, 5);
});
