// Relative branches: the only instructions whose length depends on where their target is, so they are encoded here, by opcode, once
// the layout knows the distance (SDM volume 2: Jcc, JMP, CALL, LOOP, JRCXZ).
import { CONDITIONS } from "./mnemonics.ts";

export interface Branch {
  /** Opcode bytes before an 8-bit displacement, or null. */
  readonly near: readonly number[] | null;
  /** Opcode bytes before a 32-bit displacement, or null. */
  readonly far: readonly number[] | null;
}

const ALIASES: Readonly<Record<string, string>> = { jz: "je", jnz: "jne", jc: "jb", jnc: "jae" };

const BRANCHES: ReadonlyMap<string, Branch> = new Map<string, Branch>([
  ["jmp", { near: [0xeb], far: [0xe9] }],
  ["call", { near: null, far: [0xe8] }],
  ["loopne", { near: [0xe0], far: null }],
  ["loope", { near: [0xe1], far: null }],
  ["loop", { near: [0xe2], far: null }],
  ["jrcxz", { near: [0xe3], far: null }],
  ...CONDITIONS.map((c, i): [string, Branch] => [`j${c}`, { near: [0x70 + i], far: [0x0f, 0x80 + i] }]),
]);

/** The branch that `mnemonic` names, or null if it is no relative branch. */
export function branchNamed(mnemonic: string): Branch | null {
  return BRANCHES.get(ALIASES[mnemonic] ?? mnemonic) ?? null;
}

export function branchBytes(branch: Branch, isFar: boolean): number {
  const opcode = isFar ? branch.far : branch.near;
  return (opcode?.length ?? 0) + (isFar ? 4 : 1);
}

/** Writes the branch at `offset` of `bytes`; `distance` counts from the end of the instruction. */
export function writeBranch(bytes: Uint8Array, offset: number, branch: Branch, isFar: boolean, distance: number): void {
  const opcode = (isFar ? branch.far : branch.near) ?? [];
  bytes.set(opcode, offset);
  const at = offset + opcode.length;
  bytes[at] = distance;
  if (!isFar) return;
  bytes[at + 1] = distance >> 8;
  bytes[at + 2] = distance >> 16;
  bytes[at + 3] = distance >> 24;
}
