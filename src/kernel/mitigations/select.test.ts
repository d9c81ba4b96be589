import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { doCpuBufferClear, doL1tfFlush, hasIbpb } from "../asi/asi-state.ts";
import { commandLineOption } from "../boot/command-line.ts";
import { bootCpuHas, bootCpuHasBug } from "./cpu-features.ts";
import {
  l1tfVmxMitigation,
  selectVmxL1dFlush,
  VMENTER_L1D_FLUSH_ALWAYS,
  VMENTER_L1D_FLUSH_COND,
  VMENTER_L1D_FLUSH_NEVER,
  VMENTER_L1D_FLUSH_NOT_REQUIRED,
} from "./select.ts";

// The table of the specification of mitigations, 3.4: order of conditions and result, on a CPU with L1TF.
const SELECTION: readonly (readonly [string, number])[] = [
  ["", VMENTER_L1D_FLUSH_COND],
  ["l1tf=off", VMENTER_L1D_FLUSH_NEVER],
  ["l1tf=flush,nowarn", VMENTER_L1D_FLUSH_COND],
  ["l1tf=flush,nosmt", VMENTER_L1D_FLUSH_COND],
  ["l1tf=full", VMENTER_L1D_FLUSH_ALWAYS],
  ["kvm-intel.vmentry_l1d_flush=never", VMENTER_L1D_FLUSH_NEVER],
  ["kvm-intel.vmentry_l1d_flush=always", VMENTER_L1D_FLUSH_ALWAYS],
  ["kvm-intel.vmentry_l1d_flush=never l1tf=full", VMENTER_L1D_FLUSH_NEVER],
  ["kvm-intel.vmentry_l1d_flush=never l1tf=full,force", VMENTER_L1D_FLUSH_ALWAYS],
  ["mitigations=off", VMENTER_L1D_FLUSH_NEVER],
  ["mitigations=off l1tf=full", VMENTER_L1D_FLUSH_ALWAYS],
  ["mitigations=off kvm-intel.vmentry_l1d_flush=cond", VMENTER_L1D_FLUSH_COND],
  ["kvm-intel.vmentry_l1d_flush=sometimes", VMENTER_L1D_FLUSH_COND],
];

test("KVM's L1D flush follows l1tf=, its own parameter and mitigations= (vmx_setup_l1d_flush)", () => {
  inKernel(() => {
    for (const [line, state] of SELECTION) {
      selectVmxL1dFlush(line);
      assert.equal(l1tfVmxMitigation(), state, line);
    }
  });
});

test("a CPU without L1TF needs no L1D flush", () => {
  inKernel(
    () => {
      selectVmxL1dFlush("kvm-intel.vmentry_l1d_flush=always");
      assert.equal(l1tfVmxMitigation(), VMENTER_L1D_FLUSH_NOT_REQUIRED);
    },
    { model: "clx" },
  );
});

test("wrong values are told, with the accepted ones", () => {
  const { told } = inKernel(() => selectVmxL1dFlush("l1tf=some mitigations=few"));
  assert.ok(told.lines.includes("Ignoring unknown l1tf=some argument: expected off, flush,nowarn, flush, flush,nosmt, full, full,force"));
  assert.ok(told.lines.includes("Unsupported mitigations=few, system may still be vulnerable"));
});

test("skx has L1TF, MDS and their microcode: transitions flush by MSR, which covers the fill buffers; clx has neither bug", () => {
  const seen = (): readonly boolean[] => [
    bootCpuHasBug("L1TF"),
    bootCpuHasBug("MDS"),
    bootCpuHasBug("CPU_MELTDOWN"),
    bootCpuHas("FLUSH_L1D"),
    doL1tfFlush.isEnabled(),
    doCpuBufferClear.isEnabled(),
    hasIbpb.isEnabled(),
  ];
  assert.deepEqual(inKernel(seen).result, [true, true, true, true, true, false, true]);
  assert.deepEqual(inKernel(seen, { model: "clx" }).result, [false, false, false, true, false, false, true]);
});

test("the last of several equal options counts, and a bare name is the empty value", () => {
  assert.equal(commandLineOption("asi=on quiet asi=off", "asi"), "off");
  assert.equal(commandLineOption("quiet asi=on", "quiet"), "");
  assert.equal(commandLineOption("asix=on", "asi"), undefined);
});
