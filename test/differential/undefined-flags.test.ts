// Our table of undefined flags against the decoder's, which was written from the same manuals by other hands.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Decoder, DecoderOptions, RflagsBits } from "iced-x86";
import { encodeForm } from "../../src/assembler/index.ts";
import { Flag } from "./case.ts";
import { Random } from "./random.ts";
import { randomClasses, randomOperand } from "./random-operands.ts";
import { formBits, SINGLE_FORMS } from "./single-cases.ts";
import { undefinedFlags } from "./undefined-flags.ts";

const BITS: readonly (readonly [number, number])[] = [
  [RflagsBits.CF, Flag.CF],
  [RflagsBits.PF, Flag.PF],
  [RflagsBits.AF, Flag.AF],
  [RflagsBits.ZF, Flag.ZF],
  [RflagsBits.SF, Flag.SF],
  [RflagsBits.OF, Flag.OF],
];

test("flags that we do not compare are flags that the decoder's tables call undefined too", () => {
  const random = new Random(1);
  for (const { mnemonic, form } of SINGLE_FORMS) {
    if (/^(ro|rc|sh|sa)/.test(mnemonic)) continue; // depends on the count; next test
    for (let draw = 0; draw < 20; draw++) {
      const operands = form.slots.map((slot) => randomOperand(random, slot, randomClasses(random)));
      let bytes: Uint8Array;
      try {
        bytes = encodeForm(
          form,
          operands.filter((o) => o !== null),
          0,
          () => 0,
        );
      } catch {
        continue; // AH beside REX
      }
      const decoder = new Decoder(64, bytes, DecoderOptions.None);
      const instruction = decoder.decode();
      let theirs = 0;
      for (const [bit, flag] of BITS) if (instruction.rflagsUndefined & bit) theirs |= flag;
      instruction.free();
      decoder.free();
      assert.equal(undefinedFlags(mnemonic, formBits(form), null), theirs, form.name);
      break;
    }
  }
});

test("shifts: a count of 0 leaves no flag undefined, 1 only AF, more also OF, the operand's size also CF (SDM: SAL/SAR/SHL/SHR)", () => {
  assert.equal(undefinedFlags("shl", 32, 0), 0);
  assert.equal(undefinedFlags("shl", 32, 32), 0); // 32 is masked to 0
  assert.equal(undefinedFlags("shl", 32, 1), Flag.AF);
  assert.equal(undefinedFlags("shl", 32, 2), Flag.AF | Flag.OF);
  assert.equal(undefinedFlags("shl", 8, 8), Flag.AF | Flag.OF | Flag.CF);
  assert.equal(undefinedFlags("sar", 8, 8), Flag.AF | Flag.OF);
  assert.equal(undefinedFlags("rol", 64, 1), 0);
  assert.equal(undefinedFlags("rol", 64, 3), Flag.OF);
});
