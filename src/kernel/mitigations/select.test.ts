import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { EINVAL } from "../../abi/index.ts";
import { cpu, MSR_IA32_SPEC_CTRL, SPEC_CTRL_IBRS, SPEC_CTRL_SSBD } from "../../hardware/index.ts";
import { doCpuBufferClear, doL1tfFlush, hasIbpb } from "../asi/asi-state.ts";
import { commandLineOption } from "../boot/command-line.ts";
import { l1tfVmxMitigation, vmentryL1dFlushGet, vmentryL1dFlushSet } from "../kvm/l1d-flush.ts";
import { bootCpuHas, bootCpuHasBug } from "./cpu-features.ts";
import { kernelIbrs, ptiFeature, rsbCtxsw, x86SpecCtrlBase } from "./feature-keys.ts";
import { x86SpecCtrlCurrent } from "./spec-ctrl.ts";
import {
  VMENTER_L1D_FLUSH_ALWAYS,
  VMENTER_L1D_FLUSH_AUTO,
  VMENTER_L1D_FLUSH_COND,
  VMENTER_L1D_FLUSH_NEVER,
  VMENTER_L1D_FLUSH_NOT_REQUIRED,
} from "./vulnerabilities.ts";

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

for (const [line, state] of SELECTION) {
  test(`"${line}": KVM's L1D flush follows l1tf=, its own parameter and mitigations= (vmx_setup_l1d_flush)`, () => {
    assert.equal(inKernel(l1tfVmxMitigation, { commandLine: line }).result, state);
  });
}

test("a CPU without L1TF needs no L1D flush, and the parameter changes nothing", () => {
  const { result } = inKernel(
    () => {
      const before = l1tfVmxMitigation();
      return [before, vmentryL1dFlushSet("never"), l1tfVmxMitigation(), vmentryL1dFlushGet()];
    },
    { model: "clx", commandLine: "kvm-intel.vmentry_l1d_flush=always" },
  );
  assert.deepEqual(result, [VMENTER_L1D_FLUSH_NOT_REQUIRED, 0, VMENTER_L1D_FLUSH_NOT_REQUIRED, "not required"]);
});

test("the parameter can be written at run time, but not against l1tf=full,force; other texts are refused (vmentry_l1d_flush_set)", () => {
  const write = (texts: readonly string[]) => (): readonly unknown[] =>
    texts.map((text) => [vmentryL1dFlushSet(text), l1tfVmxMitigation(), vmentryL1dFlushGet()]);
  assert.deepEqual(inKernel(write(["never", "always", "cond", "auto", "sometimes"])).result, [
    [0, VMENTER_L1D_FLUSH_NEVER, "never"],
    [0, VMENTER_L1D_FLUSH_ALWAYS, "always"],
    [0, VMENTER_L1D_FLUSH_COND, "cond"],
    [0, VMENTER_L1D_FLUSH_COND, "cond"],
    [EINVAL, VMENTER_L1D_FLUSH_COND, "cond"],
  ]);
  const forced = inKernel(write(["never"]), { commandLine: "l1tf=full,force" }).result;
  assert.deepEqual(forced, [[0, VMENTER_L1D_FLUSH_ALWAYS, "always"]]);
  assert.equal(VMENTER_L1D_FLUSH_AUTO, 0);
});

test("page-table isolation: on where Meltdown is, off with ASI even if asked for, as the options say otherwise", () => {
  const isOn = (commandLine: string, model = "skx"): boolean => inKernel(() => ptiFeature.isEnabled(), { commandLine, model }).result;
  assert.equal(isOn("asi=off"), true);
  assert.equal(isOn("asi=on pti=on"), false);
  assert.equal(isOn("asi=off nopti"), false);
  assert.equal(isOn("asi=off", "clx"), false);
  assert.equal(isOn("asi=off pti=on", "clx"), true);
});

test("IBRS: at every entry on Skylake, for ever on Cascade Lake; every CPU's SPEC_CTRL follows", () => {
  const seen = (): readonly unknown[] => [
    kernelIbrs.isEnabled(),
    rsbCtxsw.isEnabled(),
    x86SpecCtrlBase.value(),
    x86SpecCtrlCurrent.get(),
    cpu.readMsr(MSR_IA32_SPEC_CTRL),
  ];
  const { result } = inKernel(seen, { commandLine: "mitigations=off" });
  assert.deepEqual(result, [false, false, 0, 0, 0]);
  assert.deepEqual(inKernel(seen, { model: "clx" }).result, [false, false, SPEC_CTRL_IBRS, SPEC_CTRL_IBRS, SPEC_CTRL_IBRS]);
  assert.deepEqual(inKernel(seen).result, [true, true, SPEC_CTRL_IBRS, SPEC_CTRL_IBRS, SPEC_CTRL_IBRS]);
  const strict = "spec_store_bypass_disable=on spectre_v2_user=on mitigations=auto,no_user_kernel,no_guest_host";
  const bits = inKernel(seen, { commandLine: strict }).result;
  // One thread a core: STIBP has nobody to keep out.
  assert.deepEqual(bits, [false, false, SPEC_CTRL_SSBD, SPEC_CTRL_SSBD, SPEC_CTRL_SSBD]);
});

test("wrong values are told, with the accepted ones", () => {
  const { told } = inKernel(() => undefined, { commandLine: "l1tf=some mitigations=few" });
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
