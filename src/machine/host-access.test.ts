// Kernel memory through the core's accessors: the same translations and faults as instructions, one call each.
import assert from "node:assert/strict";
import { test } from "node:test";
import { CODE, CoreFixture, P, U, W, WINDOW, WINDOW_FRAMES } from "../../test/core-fixture.ts";
import { mem, rax } from "../assembler/index.ts";
import {
  ACCESS_READ,
  CPU_ACCESS_HIGH,
  CPU_ACCESS_STATUS,
  CPU_CR0,
  CPU_CR3,
  CPU_CR4,
  CPU_EFER,
  CPU_FAULT_ADDRESS,
  CPU_FAULT_ERROR,
  CPU_FAULT_VECTOR,
  MODE_SUPERVISOR,
} from "./core/layout.gen.ts";
import { RMW_ADD, RMW_AND, RMW_EXCHANGE, RMW_OR } from "./core-functions.ts";

const PAGE = 4096;
const CR4_SMAP = 0x200000;

test("loads and stores of every width reach memory, across pages too", () => {
  const f = new CoreFixture();
  f.map(0, P | W, WINDOW_FRAMES + PAGE);
  f.map(1, P | W, WINDOW_FRAMES);
  const { functions: c, fields } = f.core;
  c.store8(WINDOW, 0x1ff);
  c.store16(WINDOW + 2, 0x12345);
  c.store32(WINDOW + 4, 0xdeadbeef);
  assert.deepEqual([c.load8(WINDOW), c.load16(WINDOW + 2), c.load32(WINDOW + 4) >>> 0], [0xff, 0x2345, 0xdeadbeef]);
  c.store64(WINDOW + PAGE - 4, 0x11111111, 0x22222222);
  assert.equal(c.load64(WINDOW + PAGE - 4), 0x11111111);
  assert.equal(fields.low(CPU_ACCESS_HIGH), 0x22222222);
  assert.equal(f.view.getUint32(WINDOW_FRAMES, true), 0x22222222);
  c.storeNumber(WINDOW + 8, -0x778000000000);
  assert.equal(c.loadNumber(WINDOW + 8), -0x778000000000);
  assert.equal(fields.low(CPU_ACCESS_STATUS), 0);
});

test("read-modify-write and compare-exchange return the old value", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  const { functions: c } = f.core;
  c.store32(WINDOW, 10);
  assert.deepEqual([c.rmw32(RMW_ADD, WINDOW, 5), c.rmw32(RMW_OR, WINDOW, 16), c.rmw32(RMW_AND, WINDOW, 30)], [10, 15, 31]);
  assert.deepEqual([c.rmw32(RMW_EXCHANGE, WINDOW, 7), c.load32(WINDOW)], [30, 7]);
  assert.deepEqual([c.compareExchange32(WINDOW, 8, 1), c.compareExchange32(WINDOW, 7, 1), c.load32(WINDOW)], [7, 7, 1]);
  c.storeNumber(WINDOW + 8, -5);
  assert.deepEqual([c.rmwNumber(RMW_EXCHANGE, WINDOW + 8, 3), c.loadNumber(WINDOW + 8)], [-5, 3]);
});

test("an access that faults says so, returns 0 and changes nothing; the host clears the status", () => {
  const f = new CoreFixture();
  f.map(0, P);
  const { functions: c, fields } = f.core;
  c.store32(WINDOW + 4, 1);
  assert.equal(fields.low(CPU_ACCESS_STATUS), 1);
  assert.deepEqual([fields.low(CPU_FAULT_VECTOR), fields.low(CPU_FAULT_ERROR), fields.word(CPU_FAULT_ADDRESS)], [14, 3, WINDOW + 4]);
  fields.setLow(CPU_ACCESS_STATUS, 0);
  assert.equal(c.load32(WINDOW + PAGE), 0);
  assert.equal(fields.low(CPU_ACCESS_STATUS), 1);
  assert.equal(fields.low(CPU_FAULT_ERROR), 0);
  fields.setLow(CPU_ACCESS_STATUS, 0);
  assert.equal(c.load32(WINDOW), 0);
  assert.equal(fields.low(CPU_ACCESS_STATUS), 0);
});

test("accesses are the supervisor's even while user code runs, and SMAP does not stop them", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  f.map(1, P | U);
  f.view.setUint32(WINDOW_FRAMES + PAGE, 5, true);
  f.core.fields.setWord(CPU_CR4, f.core.fields.word(CPU_CR4) + CR4_SMAP);
  f.core.functions.contextChanged();
  f.start(CODE, true);
  f.core.functions.store32(WINDOW, 9);
  assert.equal(f.core.fields.low(CPU_ACCESS_STATUS), 0);
  assert.equal(f.core.functions.load32(WINDOW + PAGE), 5);
});

test("accessors and instructions share the TLB: what one has cached the other uses", () => {
  const f = new CoreFixture();
  f.map(0, P | W);
  f.view.setUint32(WINDOW_FRAMES, 1, true);
  f.view.setUint32(WINDOW_FRAMES + PAGE, 2, true);
  assert.equal(f.core.functions.load32(WINDOW), 1);
  f.map(0, P | W, WINDOW_FRAMES + PAGE);
  f.run((a) => a.mov(rax, mem(WINDOW)).trap("done"));
  assert.equal(f.bare.register(0), 1);
  f.core.functions.hostInvlpg(WINDOW);
  assert.equal(f.core.functions.load32(WINDOW), 2);
});

test("a store by the host to translated code is noticed", () => {
  const f = new CoreFixture();
  f.run((a) => a.mov(rax, 1).trap("done"));
  const before = f.bare.register(0);
  // The immediate of MOV RAX, imm32 (sign-extended): 48 C7 C0 imm32.
  f.core.functions.store8(f.core.physical[CODE] === 0x48 ? CODE + 3 : CODE + 1, 42);
  f.start();
  f.go();
  assert.deepEqual([before, f.bare.register(0)], [1, 42]);
});

test("each logical CPU has its own block and its own TLB", () => {
  const f = new CoreFixture("architectural", 2);
  f.map(0, P | W);
  f.view.setUint32(WINDOW_FRAMES, 1, true);
  f.view.setUint32(WINDOW_FRAMES + PAGE, 2, true);
  const { functions: c, fields } = f.core;
  assert.equal(c.load32(WINDOW), 1);
  const control = [CPU_CR0, CPU_CR3, CPU_CR4, CPU_EFER].map((field) => [field, fields.low(field), fields.high(field)] as const);
  f.bare.setRegister(0, 111);
  c.selectCpu(1);
  assert.equal(f.bare.register(0), 0);
  for (const [field, low, high] of control) fields.set(field, low, high);
  c.contextChanged();
  f.map(0, P | W, WINDOW_FRAMES + PAGE);
  assert.equal(c.load32(WINDOW), 2);
  c.selectCpu(0);
  assert.equal(f.bare.register(0), 111);
  assert.equal(c.load32(WINDOW), 1);
});

test("hostTranslate walks as an access would, and reports the fault", () => {
  const f = new CoreFixture();
  f.map(0, P, WINDOW_FRAMES + 7 * PAGE);
  assert.equal(f.core.functions.hostTranslate(WINDOW + 5, ACCESS_READ, MODE_SUPERVISOR), WINDOW_FRAMES + 7 * PAGE + 5);
  assert.equal(f.core.functions.hostTranslate(WINDOW + PAGE, ACCESS_READ, MODE_SUPERVISOR), -1);
});
