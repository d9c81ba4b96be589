// The machine code around VM entry, read back instruction by instruction: docs/mitigations.md, section 5.4, invariants 1, 2, 3.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind } from "iced-x86";
import { fail, type VirtAddr } from "../../../hardware/index.ts";
import { kernelText } from "../../boot/kernel-text.ts";
import { KERNEL_TEXT_BASE } from "../../static-data.ts";
import { VMX_ENTER_STUBS } from "./enter-stub.ts";

const STUB_BYTES = 2048;

interface Step {
  readonly mnemonic: Mnemonic;
  readonly flow: FlowControl;
  readonly touchesMemory: boolean;
  readonly at: number;
}

function symbol(name: string): VirtAddr {
  return kernelText().symbols.get(name) ?? fail(`no symbol ${name}`);
}

/** Instructions from `start` up to `end`. */
function code(start: VirtAddr, end: number): readonly Step[] {
  const offset = start - KERNEL_TEXT_BASE;
  const decoder = new Decoder(64, kernelText().bytes.subarray(offset, offset + STUB_BYTES), DecoderOptions.None);
  const steps: Step[] = [];
  const instruction = new Instruction();
  while (start + decoder.position < end) {
    const at = start + decoder.position;
    decoder.decodeOut(instruction);
    const operands = Array.from({ length: instruction.opCount }, (_, i) => instruction.opKind(i));
    const isStack = [Mnemonic.Push, Mnemonic.Pop, Mnemonic.Call, Mnemonic.Ret].includes(instruction.mnemonic);
    steps.push({
      mnemonic: instruction.mnemonic,
      flow: instruction.flowControl,
      touchesMemory: operands.includes(OpKind.Memory) || isStack,
      at,
    });
  }
  decoder.free();
  instruction.free();
  return steps;
}

const isIndirect = ({ flow }: Step): boolean =>
  flow === FlowControl.Return || flow === FlowControl.IndirectBranch || flow === FlowControl.IndirectCall;
const indexOf = (steps: readonly Step[], mnemonic: Mnemonic): number => steps.findIndex((step) => step.mnemonic === mnemonic);

for (const { symbol: run } of VMX_ENTER_STUBS) {
  const vmexit = run.replace("__vmx_vcpu_run", "vmx_vmexit");
  const entry = (): readonly Step[] => code(symbol(run), symbol(vmexit));
  const exit = (): readonly Step[] => code(symbol(vmexit), symbol(vmexit) + STUB_BYTES);

  test(`${run}: between the guest's SPEC_CTRL and the entry there is no RET and no indirect branch (invariant 1)`, () => {
    const steps = entry();
    const written = indexOf(steps, Mnemonic.Wrmsr);
    assert.ok(written >= 0 && written < indexOf(steps, Mnemonic.Vmlaunch));
    assert.deepEqual(steps.slice(written).filter(isIndirect), []);
  });

  test(`${run}: VERW is the last access to memory before the entry (invariant 3)`, () => {
    const steps = entry();
    const verw = indexOf(steps, Mnemonic.Verw);
    assert.ok(verw >= 0 && verw < indexOf(steps, Mnemonic.Vmresume));
    const last = Math.max(indexOf(steps, Mnemonic.Vmlaunch), indexOf(steps, Mnemonic.Vmresume));
    assert.deepEqual(
      steps.slice(verw + 1, last + 1).filter((step) => step.touchesMemory),
      [],
    );
  });

  test(`${run}: after the exit the return stack and SPEC_CTRL are seen to before the first RET (invariant 2)`, () => {
    const steps = exit();
    const firstReturn = steps.findIndex(isIndirect);
    const before = steps.slice(0, firstReturn);
    assert.ok(indexOf(before, Mnemonic.Wrmsr) >= 0);
    const calls = before.slice(0, indexOf(before, Mnemonic.Wrmsr)).filter((step) => step.mnemonic === Mnemonic.Call).length;
    assert.equal(calls, run.includes("_rsb") ? 32 : run.includes("_lite") ? 1 : 0);
  });
}
