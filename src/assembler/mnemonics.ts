// The instructions that can be written, by the manual's mnemonic. Which operands each takes is not listed here: forms.ts reads it
// from the encoder. Names that JavaScript reserves, or that the encoder spells otherwise, are mapped in ENCODER_NAME.

const ALU = ["add", "or", "adc", "sbb", "and", "sub", "xor", "cmp", "test", "inc", "dec", "neg", "not"] as const;
const SHIFTS = ["rol", "ror", "rcl", "rcr", "shl", "shr", "sar", "shld", "shrd"] as const;
const MULDIV = ["mul", "imul", "div", "idiv", "cbw", "cwde", "cdqe", "cwd", "cdq", "cqo"] as const;
const BITS = ["bt", "bts", "btr", "btc", "bsf", "bsr", "popcnt", "tzcnt", "lzcnt", "bswap"] as const;
const MOVES = ["mov", "movzx", "movsx", "movsxd", "lea", "xchg", "xadd", "cmpxchg", "cmpxchg8b", "cmpxchg16b", "movnti", "movbe"] as const;
const STACK = ["push", "pop", "pushfq", "popfq", "enter", "leave", "ret", "retf", "iretq"] as const;
const FLAGS = ["clc", "stc", "cmc", "cld", "std", "cli", "sti", "clac", "stac", "lahf", "sahf"] as const;
const FENCES = ["lfence", "mfence", "sfence", "pause", "nop", "endbr64", "hlt", "int3", "int", "int1", "ud2"] as const;
const CACHES = [
  "clflush",
  "clflushopt",
  "clwb",
  "prefetcht0",
  "prefetcht1",
  "prefetcht2",
  "prefetchnta",
  "prefetchw",
  "wbinvd",
  "invd",
] as const;
const SYSTEM = [
  ...["syscall", "sysretq", "swapgs", "cpuid", "rdtsc", "rdtscp", "rdpmc", "rdmsr", "wrmsr", "in", "out", "invlpg", "invpcid"],
  ...["lgdt", "lidt", "sgdt", "sidt", "lldt", "sldt", "ltr", "str", "lmsw", "smsw", "clts", "verr", "verw", "lar", "lsl"],
  ...["rdfsbase", "rdgsbase", "wrfsbase", "wrgsbase", "monitor", "mwait", "xgetbv", "xsetbv", "rdrand", "rdseed", "rdpid"],
] as const;
const VIRTUALIZATION = [
  ...["vmcall", "vmmcall", "vmlaunch", "vmresume", "vmxon", "vmxoff", "vmptrld", "vmptrst", "vmclear", "vmread", "vmwrite"],
  ...["invept", "invvpid", "vmfunc", "vmrun", "vmload", "vmsave", "stgi", "clgi", "invlpga"],
] as const;
const SSE = [
  ...["movd", "movq", "movups", "movaps", "movdqa", "movdqu", "pxor", "xorps", "por", "pand", "punpcklqdq", "pshufd"],
  ...["paddd", "paddq", "psubd", "psubq", "pcmpeqb", "pmovmskb"],
] as const;

/** The 16 conditions in encoding order, then the other spellings. */
export const CONDITIONS = ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"] as const;
export type Condition = (typeof CONDITIONS)[number];
type ConditionAlias = "z" | "nz" | "c" | "nc";
const CONDITION_ALIAS: Readonly<Record<ConditionAlias, Condition>> = { z: "e", nz: "ne", c: "b", nc: "ae" };

type Conditional = `${"j" | "set" | "cmov"}${Condition | ConditionAlias}`;
const BRANCHES = ["jmp", "call", "loop", "loope", "loopne", "jrcxz"] as const;

/** String instructions have no explicit operands here; RDI, RSI, RCX and RAX as the manual says. */
export const STRING_INSTRUCTIONS = {
  movsb: [0xa4],
  movsw: [0x66, 0xa5],
  movsd: [0xa5],
  movsq: [0x48, 0xa5],
  cmpsb: [0xa6],
  cmpsw: [0x66, 0xa7],
  cmpsd: [0xa7],
  cmpsq: [0x48, 0xa7],
  stosb: [0xaa],
  stosw: [0x66, 0xab],
  stosd: [0xab],
  stosq: [0x48, 0xab],
  lodsb: [0xac],
  lodsw: [0x66, 0xad],
  lodsd: [0xad],
  lodsq: [0x48, 0xad],
  scasb: [0xae],
  scasw: [0x66, 0xaf],
  scasd: [0xaf],
  scasq: [0x48, 0xaf],
  insb: [0x6c],
  insw: [0x66, 0x6d],
  insd: [0x6d],
  outsb: [0x6e],
  outsw: [0x66, 0x6f],
  outsd: [0x6f],
  xlatb: [0xd7],
} as const satisfies Record<string, readonly number[]>;
export type StringInstruction = keyof typeof STRING_INSTRUCTIONS;

const PLAIN = [...ALU, ...SHIFTS, ...MULDIV, ...BITS, ...MOVES, ...STACK, ...FLAGS, ...FENCES, ...CACHES] as const;
const CONDITIONAL: readonly Conditional[] = (["j", "set", "cmov"] as const).flatMap((stem) => [
  ...CONDITIONS.map((c): Conditional => `${stem}${c}`),
  ...(["z", "nz", "c", "nc"] as const).map((c): Conditional => `${stem}${c}`),
]);

export type Mnemonic =
  | (typeof PLAIN)[number]
  | (typeof SYSTEM)[number]
  | (typeof VIRTUALIZATION)[number]
  | (typeof SSE)[number]
  | (typeof BRANCHES)[number]
  | Conditional;

export const MNEMONICS: readonly Mnemonic[] = [...PLAIN, ...SYSTEM, ...VIRTUALIZATION, ...SSE, ...BRANCHES, ...CONDITIONAL];

/** Mnemonics that the encoder knows under other names: several where the operand size is part of its name. */
const ENCODER_NAME: Readonly<Partial<Record<Mnemonic, readonly string[]>>> = {
  push: ["Push", "Pushq"],
  pop: ["Pop", "Popq"],
  ret: ["Retnq"],
  retf: ["Retfq"],
  enter: ["Enterq"],
  leave: ["Leaveq"],
  shl: ["Shl"],
  nop: ["Nopd", "Nop"],
  vmrun: ["Vmrunq"],
  vmload: ["Vmloadq"],
  vmsave: ["Vmsaveq"],
  invlpga: ["Invlpgaq"],
  monitor: ["Monitorq"],
};

function isConditionAlias(s: string): s is ConditionAlias {
  return s in CONDITION_ALIAS;
}

/** @returns the encoder's names for `mnemonic`, first letter in upper case. */
export function encoderNames(mnemonic: Mnemonic): readonly string[] {
  const special = ENCODER_NAME[mnemonic];
  if (special !== undefined) return special;
  const conditional = /^(j|set|cmov)(z|nz|c|nc)$/.exec(mnemonic);
  const stem = conditional?.[1];
  const alias = conditional?.[2];
  const plain = stem !== undefined && alias !== undefined && isConditionAlias(alias) ? stem + CONDITION_ALIAS[alias] : mnemonic;
  return [plain.charAt(0).toUpperCase() + plain.slice(1)];
}
