// prctl(PR_SET_SPECULATION_CTRL) and what it does to IA32_SPEC_CTRL: Documentation/userspace-api/spec_ctrl.rst.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { EINVAL, ENODEV, ENXIO, EPERM, ERANGE } from "../../abi/index.ts";
import { cpu, MSR_IA32_SPEC_CTRL, SPEC_CTRL_IBRS, SPEC_CTRL_SSBD } from "../../hardware/index.ts";
import {
  PR_GET_SPECULATION_CTRL,
  PR_SET_SPECULATION_CTRL,
  PR_SPEC_DISABLE,
  PR_SPEC_ENABLE,
  PR_SPEC_FORCE_DISABLE,
  PR_SPEC_INDIRECT_BRANCH,
  PR_SPEC_PRCTL,
  PR_SPEC_STORE_BYPASS,
  sysPrctl,
} from "./prctl.ts";
import { speculationCtrlUpdate, TIF_SSBD, x86SpecCtrlCurrent } from "./spec-ctrl.ts";

const get = (which: number): number => sysPrctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0);
const set = (which: number, wanted: number): number => sysPrctl(PR_SET_SPECULATION_CTRL, which, wanted, 0, 0);

test("a task disables store bypass for itself, in the register too, and enables it again unless it forced it", () => {
  const { result } = inKernel(
    () => {
      const register = (): number => cpu.readMsr(MSR_IA32_SPEC_CTRL);
      return [
        get(PR_SPEC_STORE_BYPASS),
        set(PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE),
        get(PR_SPEC_STORE_BYPASS),
        register(),
        set(PR_SPEC_STORE_BYPASS, PR_SPEC_ENABLE),
        register(),
        set(PR_SPEC_STORE_BYPASS, PR_SPEC_FORCE_DISABLE),
        set(PR_SPEC_STORE_BYPASS, PR_SPEC_ENABLE),
        get(PR_SPEC_STORE_BYPASS),
      ];
    },
    { model: "clx" },
  );
  assert.deepEqual(result, [
    PR_SPEC_PRCTL | PR_SPEC_ENABLE,
    0,
    PR_SPEC_PRCTL | PR_SPEC_DISABLE,
    SPEC_CTRL_IBRS | SPEC_CTRL_SSBD,
    0,
    SPEC_CTRL_IBRS,
    0,
    EPERM,
    PR_SPEC_PRCTL | PR_SPEC_FORCE_DISABLE,
  ]);
});

test("with IBRS at every entry the register is left to the return to user mode, the variable follows at once", () => {
  const { result } = inKernel(() => {
    speculationCtrlUpdate(0, TIF_SSBD);
    const seen = [x86SpecCtrlCurrent.get(), cpu.readMsr(MSR_IA32_SPEC_CTRL)];
    speculationCtrlUpdate(TIF_SSBD, 0);
    return [...seen, x86SpecCtrlCurrent.get()];
  });
  assert.deepEqual(result, [SPEC_CTRL_IBRS | SPEC_CTRL_SSBD, SPEC_CTRL_IBRS, SPEC_CTRL_IBRS]);
});

test("what is not conditional cannot be asked for, and unknown requests are refused", () => {
  const seen = (): readonly number[] => [
    set(PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE),
    get(PR_SPEC_STORE_BYPASS),
    set(PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE),
    set(PR_SPEC_INDIRECT_BRANCH, PR_SPEC_ENABLE),
    get(PR_SPEC_INDIRECT_BRANCH),
    set(PR_SPEC_INDIRECT_BRANCH, 1 << 9),
    set(2, PR_SPEC_DISABLE),
    sysPrctl(PR_SET_SPECULATION_CTRL, 0, 0, 1, 0),
    sysPrctl(1, 0, 0, 0, 0),
  ];
  const refused = [ERANGE, ENODEV, EINVAL, EINVAL];
  const off = inKernel(seen, { commandLine: "mitigations=off" }).result;
  assert.deepEqual(off, [ENXIO, PR_SPEC_ENABLE, EPERM, 0, PR_SPEC_ENABLE, ...refused]);
  const strict = inKernel(seen, { commandLine: "spectre_v2_user=on spec_store_bypass_disable=on" }).result;
  assert.deepEqual(strict, [ENXIO, PR_SPEC_DISABLE, 0, EPERM, PR_SPEC_DISABLE, ...refused]);
});
