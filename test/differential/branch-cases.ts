// Directed cases of branches: each condition taken and not, alone and behind the instruction that sets its flags, and counted loops.
import { CONDITIONS, eax, GPR8, GPR32, GPR64, type Mnemonic, mem, rax, rcx, rdx } from "../../src/assembler/index.ts";
import { HOT_MIDDLE, RCX, RDX, RegisterClass, RSP } from "./case.ts";
import { type Directed, directed } from "./draft.ts";
import { undefinedFlags } from "./undefined-flags.ts";

const FUSED: readonly Mnemonic[] = ["cmp", "test", "sub", "add", "and"];

/** An instruction that sets flags and the branch on them: a core may execute the two as one. */
function fusedCases(): Directed[] {
  return FUSED.flatMap((alu) =>
    CONDITIONS.map((condition) =>
      directed(`${alu}; j${condition}, any size`, (draft) => {
        const { a, random, classes } = draft;
        const registers = random.pick([GPR8, GPR32, GPR64]);
        const n = random.below(8);
        const left = registers[n] ?? rcx;
        const right = random.oneIn(6) ? left : (registers[8 + random.below(8)] ?? rdx);
        if (n !== RSP) classes[n] = random.oneIn(2) ? RegisterClass.edge : RegisterClass.small;
        a[alu](left, random.oneIn(2) ? right : random.pick(IMMEDIATES))
          [`j${condition}`]("over")
          .mov(mem(HOT_MIDDLE), eax)
          .label("over");
        draft.flagMask &= ~undefinedFlags(alu, 64, null);
      }),
    ),
  );
}

const IMMEDIATES: readonly number[] = [0, 1, -1, 2, 7, 15, 127, -128];

export function branchCases(): Directed[] {
  const conditional = CONDITIONS.flatMap((c, i) => {
    const mnemonic: Mnemonic = `j${c}`;
    return [
      directed(`${mnemonic} rel8`, ({ a }) => a[mnemonic]("over").mov(eax, 1).label("over")),
      directed(`${mnemonic} rel32`, ({ a }) => a.db(0x0f, 0x80 + i, 5, 0, 0, 0).mov(eax, 1)),
      directed(`cmp; ${mnemonic}`, (draft) => {
        draft.classes[RCX] = draft.classes[RDX] = draft.random.oneIn(2) ? RegisterClass.edge : RegisterClass.small;
        const [l, r] = draft.random.oneIn(2) ? ([rcx, rdx] as const) : ([GPR32[RCX] ?? eax, GPR32[RDX] ?? eax] as const);
        draft.a.cmp(l, r)[mnemonic]("over").mov(eax, 1).label("over");
      }),
      directed(`test; ${mnemonic}`, (draft) => {
        draft.classes[RCX] = RegisterClass.edge;
        draft.flagMask &= ~undefinedFlags("test", 64, null);
        draft.a
          .test(rcx, draft.random.oneIn(2) ? rcx : rdx)
          [mnemonic]("over")
          .mov(eax, 1)
          .label("over");
      }),
    ];
  });
  const counted = (["loop", "loope", "loopne"] as const).map((mnemonic) =>
    directed(`${mnemonic} over an addition`, (draft) => {
      draft.a
        .mov(rcx, 1 + draft.random.below(9))
        .label("again")
        .add(rdx, 0x1111111111 & 0x7fffffff)
        .xor(rax, rdx)
        [mnemonic]("again");
      draft.flagMask &= ~undefinedFlags("xor", 64, null);
    }),
  );
  return [
    ...conditional,
    ...counted,
    ...fusedCases(),
    directed("jmp by register", ({ a }) => a.mov(rdx, "f").jmp(rdx).mov(eax, 1).label("f").mov(rcx, rax)),
    directed("jrcxz", (draft) => {
      draft.classes[RCX] = draft.random.oneIn(2) ? RegisterClass.edge : RegisterClass.small;
      draft.a.jrcxz("over").mov(eax, 1).label("over");
    }),
    ...[0xe2, 0xe1, 0xe0].map((opcode) =>
      directed(`67 loop, opcode ${opcode.toString(16)}, counts in ECX`, (draft) => {
        draft.classes[RCX] = draft.random.oneIn(2) ? RegisterClass.edge : RegisterClass.repeat;
        draft.a.db(0x67, opcode, 5).mov(eax, 1);
      }),
    ),
    directed("jecxz looks at 32 bits", (draft) => {
      draft.classes[RCX] = RegisterClass.edge;
      draft.a.db(0x67, 0xe3, 5).mov(eax, 1);
    }),
    directed("jmp rel32 and rel8", ({ a }) => a.db(0xe9, 5, 0, 0, 0).mov(eax, 1).db(0xeb, 5).mov(eax, 2)),
    directed("dec; jnz", ({ a, random }) =>
      a
        .mov(rcx, 1 + random.below(20))
        .label("again")
        .adc(rax, rdx)
        .dec(rcx)
        .jnz("again"),
    ),
  ];
}
