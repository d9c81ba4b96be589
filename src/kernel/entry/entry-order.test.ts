// What is in the text for each configuration, and in which order the mitigations stand on the way in and out (spec of mitigations, 5.4).
import assert from "node:assert/strict";
import { test } from "node:test";
import { kernelText } from "../boot/kernel-text.ts";
import { type AlternativeFeature, filling } from "./alternatives.ts";

const { alternatives, symbols, bytes } = kernelText();
const BASE = Math.min(...symbols.values());

function sitesOf(feature: AlternativeFeature): readonly number[] {
  return alternatives.filter((site) => site.feature === feature).map(({ address }) => address);
}

/** Stubs, by address, that hold a site of `feature`. */
function stubsWith(feature: AlternativeFeature): ReadonlySet<string> {
  const starts = [...kernelText().stubs.keys()].map((name): [string, number] => [name, symbols.get(name) ?? 0]).sort((a, b) => a[1] - b[1]);
  const found = new Set<string>();
  for (const address of sitesOf(feature)) found.add(starts.filter(([, at]) => at <= address).at(-1)?.[0] ?? "");
  return found;
}

function textAt(address: number, count: number): readonly number[] {
  return [...bytes.subarray(address - BASE, address - BASE + count)];
}

test("the text holds no-ops where code depends on the configuration, of the same length", () => {
  assert.ok(alternatives.length > 100);
  for (const { address, code } of alternatives) assert.deepEqual(textAt(address, code.length), [...filling(code.length)]);
});

test("the branch history is cleared on entries of system calls only (5.4, invariant 5)", () => {
  assert.deepEqual([...stubsWith("bhb")].sort(), [
    "asm_int80_emulation",
    "entry_SYSCALL_64",
    "entry_SYSCALL_compat",
    "entry_SYSENTER_compat",
    "fred_entries",
  ]);
});

test("VERW is followed by nothing that touches memory but the question for espfix, before every return to user mode (5.4, invariant 3)", () => {
  // SYSRETQ, SYSRETL, TEST of SS in the frame, ERETU, JMP to IRET.
  const NEXT = [[0x48, 0x0f, 0x07], [0x0f, 0x07], [0xf6, 0x44, 0x24, 0x20], [0xf3, 0x0f, 0x01, 0xca], [0xeb], [0xe9]];
  const sites = alternatives.filter(({ feature }) => feature === "verw");
  assert.equal(sites.length, 5);
  for (const { address, code } of sites) {
    assert.ok(
      NEXT.some((next) => next.every((byte, i) => textAt(address + code.length, 4)[i] === byte)),
      `after ${address}`,
    );
  }
});

test("every site of VERW comes after the switch to the user's tables, every one of IBRS on entry after that to the kernel's", () => {
  for (const stub of ["error_return", "entry_SYSCALL_64"]) {
    const start = symbols.get(stub) ?? 0;
    const within = (feature: AlternativeFeature): readonly number[] => sitesOf(feature).filter((at) => at >= start && at < start + 1024);
    const verw = Math.min(...within("verw"));
    assert.ok(within("pti").some((at) => at < verw));
  }
});
