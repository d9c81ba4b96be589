// What an instruction is applied to: registers, memory, immediates and labels, as plain values. A memory operand takes its size
// from the register beside it; where there is none (inc, mov with an immediate), byte(), word(), dword() or qword() states it.
import { Register } from "iced-x86";

export type RegisterClass = "gpr" | "segment" | "control" | "debug" | "xmm";

export interface Reg {
  readonly kind: "reg";
  readonly name: string;
  readonly class: RegisterClass;
  readonly bits: number;
  /** The encoder's own number. */
  readonly register: Register;
}

export interface Mem {
  readonly kind: "mem";
  /** 0: not stated, taken from the other operand. */
  readonly bits: number;
  readonly base: Reg | null;
  readonly index: Reg | null;
  readonly scale: 1 | 2 | 4 | 8;
  readonly displacement: number;
  readonly segment: Reg | null;
  /** RIP-relative to this label, plus `displacement`; base and index are null. */
  readonly label: string | null;
}

/** A string is a label: a branch target, or an address as a 64-bit immediate. */
export type Operand = Reg | Mem | number | bigint | string;

function reg(name: string, cls: RegisterClass, bits: number, register: Register): Reg {
  return { kind: "reg", name, class: cls, bits, register };
}

const gpr = (name: string, bits: number, register: Register): Reg => reg(name, "gpr", bits, register);

export const rax = gpr("rax", 64, Register.RAX);
export const rcx = gpr("rcx", 64, Register.RCX);
export const rdx = gpr("rdx", 64, Register.RDX);
export const rbx = gpr("rbx", 64, Register.RBX);
export const rsp = gpr("rsp", 64, Register.RSP);
export const rbp = gpr("rbp", 64, Register.RBP);
export const rsi = gpr("rsi", 64, Register.RSI);
export const rdi = gpr("rdi", 64, Register.RDI);
export const r8 = gpr("r8", 64, Register.R8);
export const r9 = gpr("r9", 64, Register.R9);
export const r10 = gpr("r10", 64, Register.R10);
export const r11 = gpr("r11", 64, Register.R11);
export const r12 = gpr("r12", 64, Register.R12);
export const r13 = gpr("r13", 64, Register.R13);
export const r14 = gpr("r14", 64, Register.R14);
export const r15 = gpr("r15", 64, Register.R15);

export const eax = gpr("eax", 32, Register.EAX);
export const ecx = gpr("ecx", 32, Register.ECX);
export const edx = gpr("edx", 32, Register.EDX);
export const ebx = gpr("ebx", 32, Register.EBX);
export const esp = gpr("esp", 32, Register.ESP);
export const ebp = gpr("ebp", 32, Register.EBP);
export const esi = gpr("esi", 32, Register.ESI);
export const edi = gpr("edi", 32, Register.EDI);
export const r8d = gpr("r8d", 32, Register.R8D);
export const r9d = gpr("r9d", 32, Register.R9D);
export const r10d = gpr("r10d", 32, Register.R10D);
export const r11d = gpr("r11d", 32, Register.R11D);
export const r12d = gpr("r12d", 32, Register.R12D);
export const r13d = gpr("r13d", 32, Register.R13D);
export const r14d = gpr("r14d", 32, Register.R14D);
export const r15d = gpr("r15d", 32, Register.R15D);

export const ax = gpr("ax", 16, Register.AX);
export const cx = gpr("cx", 16, Register.CX);
export const dx = gpr("dx", 16, Register.DX);
export const bx = gpr("bx", 16, Register.BX);
export const sp = gpr("sp", 16, Register.SP);
export const bp = gpr("bp", 16, Register.BP);
export const si = gpr("si", 16, Register.SI);
export const di = gpr("di", 16, Register.DI);
export const r8w = gpr("r8w", 16, Register.R8W);
export const r9w = gpr("r9w", 16, Register.R9W);
export const r10w = gpr("r10w", 16, Register.R10W);
export const r11w = gpr("r11w", 16, Register.R11W);
export const r12w = gpr("r12w", 16, Register.R12W);
export const r13w = gpr("r13w", 16, Register.R13W);
export const r14w = gpr("r14w", 16, Register.R14W);
export const r15w = gpr("r15w", 16, Register.R15W);

export const al = gpr("al", 8, Register.AL);
export const cl = gpr("cl", 8, Register.CL);
export const dl = gpr("dl", 8, Register.DL);
export const bl = gpr("bl", 8, Register.BL);
export const ah = gpr("ah", 8, Register.AH);
export const ch = gpr("ch", 8, Register.CH);
export const dh = gpr("dh", 8, Register.DH);
export const bh = gpr("bh", 8, Register.BH);
export const spl = gpr("spl", 8, Register.SPL);
export const bpl = gpr("bpl", 8, Register.BPL);
export const sil = gpr("sil", 8, Register.SIL);
export const dil = gpr("dil", 8, Register.DIL);
export const r8b = gpr("r8b", 8, Register.R8L);
export const r9b = gpr("r9b", 8, Register.R9L);
export const r10b = gpr("r10b", 8, Register.R10L);
export const r11b = gpr("r11b", 8, Register.R11L);
export const r12b = gpr("r12b", 8, Register.R12L);
export const r13b = gpr("r13b", 8, Register.R13L);
export const r14b = gpr("r14b", 8, Register.R14L);
export const r15b = gpr("r15b", 8, Register.R15L);

export const es = reg("es", "segment", 16, Register.ES);
export const cs = reg("cs", "segment", 16, Register.CS);
export const ss = reg("ss", "segment", 16, Register.SS);
export const ds = reg("ds", "segment", 16, Register.DS);
/** The register; as a prefix of a memory operand: `gs(offset)`. */
export const fsReg = reg("fs", "segment", 16, Register.FS);
export const gsReg = reg("gs", "segment", 16, Register.GS);

export const cr0 = reg("cr0", "control", 64, Register.CR0);
export const cr2 = reg("cr2", "control", 64, Register.CR2);
export const cr3 = reg("cr3", "control", 64, Register.CR3);
export const cr4 = reg("cr4", "control", 64, Register.CR4);
export const cr8 = reg("cr8", "control", 64, Register.CR8);
export const dr0 = reg("dr0", "debug", 64, Register.DR0);
export const dr1 = reg("dr1", "debug", 64, Register.DR1);
export const dr2 = reg("dr2", "debug", 64, Register.DR2);
export const dr3 = reg("dr3", "debug", 64, Register.DR3);
export const dr6 = reg("dr6", "debug", 64, Register.DR6);
export const dr7 = reg("dr7", "debug", 64, Register.DR7);

export const xmm0 = reg("xmm0", "xmm", 128, Register.XMM0);
export const xmm1 = reg("xmm1", "xmm", 128, Register.XMM1);
export const xmm2 = reg("xmm2", "xmm", 128, Register.XMM2);
export const xmm3 = reg("xmm3", "xmm", 128, Register.XMM3);

/** The 16 general registers of each width, in encoding order (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 ...). */
export const GPR64: readonly Reg[] = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
export const GPR32: readonly Reg[] = [eax, ecx, edx, ebx, esp, ebp, esi, edi, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d];
export const GPR16: readonly Reg[] = [ax, cx, dx, bx, sp, bp, si, di, r8w, r9w, r10w, r11w, r12w, r13w, r14w, r15w];
export const GPR8: readonly Reg[] = [al, cl, dl, bl, spl, bpl, sil, dil, r8b, r9b, r10b, r11b, r12b, r13b, r14b, r15b];
/** The four high-byte registers, which need an instruction without a REX prefix. */
export const GPR8_HIGH: readonly Reg[] = [ah, ch, dh, bh];

const NO_MEMORY: Mem = { kind: "mem", bits: 0, base: null, index: null, scale: 1, displacement: 0, segment: null, label: null };

/** Memory at `base + displacement`, or at an absolute address that fits sign-extended 32 bits. */
export function mem(base: Reg | number, displacement = 0): Mem {
  if (typeof base === "number") return { ...NO_MEMORY, displacement: base };
  return { ...NO_MEMORY, base, displacement };
}

/** Memory at `base + index * scale + displacement`; `base` may be null. */
export function memIndexed(base: Reg | null, index: Reg, scale: 1 | 2 | 4 | 8 = 1, displacement = 0): Mem {
  return { ...NO_MEMORY, base, index, scale, displacement };
}

/** Memory at a label, RIP-relative. */
export function at(label: string, displacement = 0): Mem {
  return { ...NO_MEMORY, label, displacement };
}

/** Memory at `offset` (a number or another memory operand) in the GS segment: per-CPU data in the kernel. */
export function gs(offset: number | Mem): Mem {
  return { ...(typeof offset === "number" ? mem(offset) : offset), segment: gsReg };
}

/** As `gs`, for FS: thread-local data of user programs. */
export function fs(offset: number | Mem): Mem {
  return { ...(typeof offset === "number" ? mem(offset) : offset), segment: fsReg };
}

export const byte = (m: Mem): Mem => ({ ...m, bits: 8 });
export const word = (m: Mem): Mem => ({ ...m, bits: 16 });
export const dword = (m: Mem): Mem => ({ ...m, bits: 32 });
export const qword = (m: Mem): Mem => ({ ...m, bits: 64 });
