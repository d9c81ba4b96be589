// Static keys that change while the kernel runs (kernel: jump labels): a branch in kernel text that is patched. Reading one executes that
// branch, which is a step, unlike the keys of static-key.ts, which are settled at boot.
import type { Assembler } from "../assembler/index.ts";
import { cpu } from "../hardware/index.ts";
import { symbolAddress } from "./boot/kernel-text.ts";
import { textPokeByte } from "./mm/text-poke.ts";
import type { StubProgram } from "./stub-program.ts";

/** TEST AL, imm8: does nothing that anybody looks at. Differs from the jump in one byte, so one store patches it and no INT3 is needed. */
const OPCODE_OFF = 0xa8;
/** JMP rel8. */
const OPCODE_ON = 0xeb;
/** Bytes of XOR EAX, EAX; RET behind the branch. */
const DISTANCE = 3;

export interface StaticBranch {
  readonly stub: StubProgram;
  /** A step: executes the branch (kernel: `static_branch_unlikely()`). */
  isEnabled(): boolean;
  /** Patches the branch on every CPU (kernel: `static_branch_enable()`, `_disable()`). As `textPokeByte`. */
  set(isOn: boolean): void;
}

/** Declares a branch, off at first. Its stub goes into `jumpLabelStubs`. */
function staticBranch(name: string): StaticBranch {
  const symbol = `static_branch_${name}`;
  const stub: StubProgram = {
    symbol,
    program: (a: Assembler) => {
      a.db(OPCODE_OFF, DISTANCE, 0x31, 0xc0).ret(); // XOR EAX, EAX: its encoding has the length that the jump counts on
      a.db(0xb8, 1, 0, 0, 0).ret(); // MOV EAX, 1
    },
    effect: () => (cpu.load(symbolAddress(symbol), 1) === OPCODE_ON ? 1 : 0),
  };
  return {
    stub,
    isEnabled: () => cpu.callStub(symbol) !== 0,
    set: (isOn) => textPokeByte(symbolAddress(symbol), isOn ? OPCODE_ON : OPCODE_OFF),
  };
}

/** Guards nothing: what the tests of static keys patch (kernel: lib/test_static_keys.c). */
export const testStaticKey = staticBranch("test_static_key");

export const jumpLabelStubs: readonly StubProgram[] = [testStaticKey.stub];
