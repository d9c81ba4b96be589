// What a running kernel tells of itself, and that the report made outside agrees with it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { fail, findCpuModel } from "../../hardware/index.ts";
import { PRESETS, type Preset } from "../asi/asi-options.ts";
import { mitigationReport } from "./host-report.ts";
import { MITIGATION_FILES } from "./report-files.ts";

const read = (path: string): string => (MITIGATION_FILES.get(path) ?? fail(`no file ${path}`)).show();
const V = "/sys/devices/system/cpu/vulnerabilities";

test("Skylake with isolation: the files, as they are in force", () => {
  const { result } = inKernel(() => new Map([...MITIGATION_FILES.keys()].map((path) => [path, read(path)])));
  assert.equal(result.get(`${V}/meltdown`), "Vulnerable\n");
  assert.equal(result.get(`${V}/l1tf`), "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT disabled\n");
  assert.equal(result.get(`${V}/mds`), "Mitigation: Clear CPU buffers; SMT disabled\n");
  assert.equal(result.get(`${V}/vmscape`), "Mitigation: IBPB before exit to userspace\n");
  assert.equal(result.get("/sys/devices/system/cpu/smt/control"), "notsupported\n");
  assert.equal(result.get("/sys/module/kvm_intel/parameters/vmentry_l1d_flush"), "cond\n");
  const asi = result.get("/sys/devices/system/cpu/asi") ?? "";
  assert.ok(asi.startsWith("on: KVM, userspace\nmeltdown: Covered: kernel secrets are not mapped in a process's domain, instead of PTI\n"));
  assert.ok(asi.includes("\nl1tf: Covered: data flush before entering a domain that must not see what ran; also KVM's L1D flush\n"));
  const cpuinfo = result.get("/proc/cpuinfo") ?? "";
  assert.match(cpuinfo, /^flags\t\t: .* asi ssbd ibrs ibpb stibp rtm md_clear flush_l1d arch_capabilities$/m);
  assert.match(
    cpuinfo,
    /^bugs\t\t: cpu_meltdown spectre_v1 spectre_v2 spec_store_bypass l1tf mds swapgs taa itlb_multihit mmio_stale_data retbleed spectre_v2_user vmscape$/m,
  );
});

test("without isolation the flags say pti and the file says off", () => {
  const seen = (): readonly string[] => [read("/proc/cpuinfo"), read("/sys/devices/system/cpu/asi"), read(`${V}/meltdown`)];
  const { result } = inKernel(seen, { commandLine: "asi=off" });
  assert.match(result[0] ?? "", /^flags\t\t: .* pti ssbd/m);
  assert.deepEqual(result.slice(1), ["off\n", "Mitigation: PTI\n"]);
});

test("with asi_userspace=off processes are not covered, and Meltdown is said to be open", () => {
  const { result } = inKernel(() => read("/sys/devices/system/cpu/asi"), { commandLine: "asi=on asi_userspace=off" });
  assert.ok(result.startsWith("on: KVM\nmeltdown: Not covered: "));
  assert.ok(
    result.includes("\nretbleed: Covered: barrier and return-stack fill on leaving a domain (guests only); also IBRS at every entry\n"),
  );
});

for (const model of ["skx", "clx"]) {
  for (const commandLine of [
    "asi=on",
    "asi=off",
    "asi=on mitigations=off",
    "asi=on l1tf=full tsx=on retbleed=off",
    "asi=on cordon.flush_taints=on",
    "asi=on cordon.core_sched=on",
  ]) {
    test(`the report from outside agrees with the files of a kernel: ${model}, "${commandLine}"`, () => {
      const found = findCpuModel(model) ?? fail("no such model");
      const report = mitigationReport({ model: found, commandLine, preset: "cordon", isSmt: false });
      const files = inKernel(() => report.files.map(({ file }) => read(`${V}/${file}`)), { commandLine, model }).result;
      assert.deepEqual(
        files,
        report.files.map(({ text }) => `${text}\n`),
      );
      const asi = inKernel(() => read("/sys/devices/system/cpu/asi"), { commandLine, model }).result;
      assert.deepEqual(
        asi.split("\n").slice(1, -1),
        report.asi.map(({ name, text }) => `${name}: ${text}`),
      );
    });
  }
}

test("the parameter's file can be written", () => {
  const path = "/sys/module/kvm_intel/parameters/vmentry_l1d_flush";
  const { result } = inKernel(() => [MITIGATION_FILES.get(path)?.store?.("never\n"), read(path), read(`${V}/l1tf`)]);
  assert.deepEqual(result, [0, "never\n", "Mitigation: PTE Inversion; VMX: vulnerable, SMT disabled\n"]);
});

test("siblings: nothing is claimed that does not happen, and asking for it is answered", () => {
  const model = findCpuModel("skx") ?? fail("no such model");
  const report = (preset: Preset, commandLine: string): readonly [siblings: string, messages: string] => {
    const { asi, messages } = mitigationReport({ model, commandLine: `asi=on ${commandLine}`, preset, isSmt: true });
    return [asi.find(({ name }) => name === "siblings")?.text ?? "", messages.join("\n")];
  };
  for (const preset of PRESETS) assert.match(report(preset, "")[0], /^Not covered: /);
  assert.match(report("cordon", "cordon.core_sched=on")[0], /^Covered: one domain at a time/);
  for (const [preset, words, why] of [
    ["cordon-fast", "", /ephemeral mappings/],
    ["cordon", "cordon.ephmap=on", /ephemeral mappings/],
    ["cordon", "asi_userspace=off", /processes have no restricted address space/],
  ] as const) {
    const [siblings, messages] = report(preset, `cordon.core_sched=on ${words}`);
    assert.match(siblings, /^Not covered: /);
    assert.match(messages, /^cordon\.core_sched=on is not available: /m);
    assert.match(messages, why);
  }
});
