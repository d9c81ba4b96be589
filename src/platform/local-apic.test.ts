// SDM vol. 3, 12.8 (handling of interrupts: IRR, ISR, priorities), 12.5.4.1 (TSC-deadline mode).
import assert from "node:assert/strict";
import { test } from "node:test";
import { LocalApic } from "./local-apic.ts";

const ENABLED = 0x1ff;
const NEVER = Number.POSITIVE_INFINITY;

function enabledApic(): LocalApic {
  const apic = new LocalApic();
  apic.spurious = ENABLED;
  return apic;
}

test("a disabled APIC takes no requests, and no APIC takes a vector below 16", () => {
  const apic = new LocalApic();
  apic.request(0x40);
  assert.equal(apic.pending(0), -1);
  apic.spurious = ENABLED;
  apic.request(15);
  assert.equal(apic.pending(0), -1);
});

test("the highest vector comes first; a class in service holds back its own and lower classes until the end of interrupt", () => {
  const apic = enabledApic();
  apic.request(0x41);
  apic.request(0xec);
  assert.equal(apic.pending(0), 0xec);
  apic.acknowledge(0xec);
  assert.equal(apic.pending(0), -1);
  apic.request(0xed);
  assert.equal(apic.pending(0), -1);
  apic.request(0xf0);
  assert.equal(apic.pending(0), 0xf0);
  apic.endOfInterrupt();
  assert.equal(apic.pending(0), 0xf0);
  apic.acknowledge(0xf0);
  apic.endOfInterrupt();
  assert.equal(apic.pending(0), 0xed);
});

test("the task priority holds back classes up to its own", () => {
  const apic = enabledApic();
  apic.request(0x51);
  assert.equal(apic.pending(5), -1);
  assert.equal(apic.pending(4), 0x51);
});

test("the timer fires once at its deadline and disarms itself; masked it only disarms", () => {
  const apic = enabledApic();
  apic.lvtTimer = 0x400ec;
  apic.deadline = 1000;
  assert.equal(apic.nextArrival, 1000);
  apic.collect(999);
  assert.equal(apic.pending(0), -1);
  apic.collect(1000);
  assert.equal(apic.pending(0), 0xec);
  assert.equal(apic.nextArrival, NEVER);
  apic.acknowledge(0xec);
  apic.endOfInterrupt();
  apic.lvtTimer = 0x500ec;
  apic.deadline = 2000;
  apic.collect(2000);
  assert.equal(apic.pending(0), -1);
  assert.equal(apic.deadline, NEVER);
});

test("messages arrive in order of time, NMIs beside the request register", () => {
  const apic = enabledApic();
  apic.send(300, 2, true);
  apic.send(100, 0x60, false);
  apic.send(200, 0x70, false);
  assert.equal(apic.nextArrival, 100);
  apic.collect(250);
  assert.equal(apic.pending(0), 0x70);
  assert.equal(apic.isNmiPending, false);
  apic.collect(300);
  assert.equal(apic.isNmiPending, true);
});

test("its state comes back from a copy", () => {
  const apic = enabledApic();
  apic.request(0x80);
  apic.acknowledge(0x80);
  apic.request(0x90);
  apic.send(500, 0xa0, false);
  const other = new LocalApic();
  other.restore(apic.save());
  assert.equal(other.serviceWord(4), 1);
  assert.equal(other.pending(0), 0x90);
  assert.equal(other.nextArrival, 500);
});
