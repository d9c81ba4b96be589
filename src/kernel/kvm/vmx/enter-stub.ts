// The machine code between the kernel and a guest: VMLAUNCH or VMRESUME with the guest's general registers loaded, and the label at
// which every VM exit arrives. One version for each way of dealing with what the guest left in the predictors: Linux patches one into the
// other at boot (X86_FEATURE_RSB_VMEXIT and its kin); here each VMCS names its own as HOST_RIP.
import {
  type Assembler,
  at,
  eax,
  ebp,
  ebx,
  ecx,
  edi,
  edx,
  esi,
  gs,
  mem,
  type Reg,
  r8,
  r8d,
  r9,
  r9d,
  r10,
  r10d,
  r11,
  r11d,
  r12,
  r12d,
  r13,
  r13d,
  r14,
  r14d,
  r15,
  r15d,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
  word,
} from "../../../assembler/index.ts";
import {
  addVirt,
  cpu,
  fail,
  high32,
  low32,
  MSR_IA32_SPEC_CTRL,
  STUB_CLEAR_CPU_BUFFERS,
  STUB_FILL_RETURN_BUFFER,
  VMCS,
  VMX_SUCCEED,
  virtAddr,
  virtual,
} from "../../../hardware/index.ts";
import { clearBhbVmexit, rsbVmexitLite } from "../../mitigations/feature-keys.ts";
import {
  emitClearBranchHistory,
  emitFillReturnBuffer,
  emitRetireOneCall,
  STUB_CLEAR_BRANCH_HISTORY,
  VERW_SELECTOR,
} from "../../mitigations/flush-stubs.ts";
import { x86SpecCtrlCurrent } from "../../mitigations/spec-ctrl.ts";
import type { StubProgram } from "../../stub-program.ts";
import { GUEST_MSR, KvmVcpu, LoadedVmcs, rsbVmexit, VCPU_REGS, VcpuVmx, VmcsHostState } from "../kvm-struct.ts";

// Bits of argument RDX (kernel: VMX_RUN_*).
/** The VMCS was launched. */
export const VMX_RUN_VMRESUME = 1 << 0;
const VMX_RUN_VMRESUME_SHIFT = 0;
/** VERW is the last act before the guest (kernel: the alternative CLEAR_CPU_BUFFERS). */
export const VMX_RUN_CLEAR_CPU_BUFFERS = 1 << 1;
/** IA32_SPEC_CTRL of guest and host differ, or the host's must be written at every exit (kernel: VMX_RUN_SAVE_SPEC_CTRL). */
export const VMX_RUN_SPEC_CTRL = 1 << 2;

/** What comes first after a VM exit, against what the guest left in the predictors. */
interface ExitVariant {
  readonly suffix: string;
  readonly returns: "none" | "one call" | "filled";
  readonly clearsHistory: boolean;
}
const EXIT_VARIANTS: readonly ExitVariant[] = [
  { suffix: "", returns: "none", clearsHistory: false },
  { suffix: "_rsb", returns: "filled", clearsHistory: false },
  { suffix: "_lite", returns: "one call", clearsHistory: false },
  { suffix: "_bhb", returns: "none", clearsHistory: true },
  { suffix: "_rsb_bhb", returns: "filled", clearsHistory: true },
  { suffix: "_lite_bhb", returns: "one call", clearsHistory: true },
];

export interface EnterStubSymbols {
  readonly run: string;
  readonly vmexit: string;
}

function symbolsOf({ suffix }: ExitVariant): EnterStubSymbols {
  return { run: `__vmx_vcpu_run${suffix}`, vmexit: `vmx_vmexit${suffix}` };
}

/** The version that this kernel's selection asks for. Patched at boot. */
export function enterStubSymbols(): EnterStubSymbols {
  const returns = rsbVmexit.isEnabled() ? "filled" : rsbVmexitLite.isEnabled() ? "one call" : "none";
  const found = EXIT_VARIANTS.find((v) => v.returns === returns && v.clearsHistory === clearBhbVmexit.isEnabled());
  return symbolsOf(found ?? fail("no version of the entry stub for this selection"));
}

/** Offset in struct vcpu_vmx of the RSP that HOST_RSP holds. */
const HOST_RSP_CACHE = VcpuVmx.offset.vmcs01 + LoadedVmcs.offset.hostState + VmcsHostState.offset.rsp;

/** Registers that the stub loads from and stores to vcpu->regs, RAX and RSP apart; RSI, which points there, is loaded last. */
const GUEST_REGISTERS: readonly (readonly [Reg, number])[] = [
  [rcx, VCPU_REGS.RCX],
  [rdx, VCPU_REGS.RDX],
  [rbx, VCPU_REGS.RBX],
  [rbp, VCPU_REGS.RBP],
  [rdi, VCPU_REGS.RDI],
  [r8, VCPU_REGS.R8],
  [r9, VCPU_REGS.R9],
  [r10, VCPU_REGS.R10],
  [r11, VCPU_REGS.R11],
  [r12, VCPU_REGS.R12],
  [r13, VCPU_REGS.R13],
  [r14, VCPU_REGS.R14],
  [r15, VCPU_REGS.R15],
  [rsi, VCPU_REGS.RSI],
];
const CALLEE_SAVED: readonly Reg[] = [rbp, rbx, r12, r13, r14, r15];
/** A guest's values must not feed speculation in the kernel: all but RAX (the result) and RBX (which holds it) are zeroed. */
const ZEROED: readonly Reg[] = [eax, ecx, edx, ebp, esi, edi, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d];

/** The guest's IA32_SPEC_CTRL, from RDI on. */
const GUEST_SPEC_CTRL = VcpuVmx.offset.vcpu + KvmVcpu.offset.msrs + GUEST_MSR.SPEC_CTRL;

/** Kernel: `__vmx_vcpu_run(vmx, regs, flags)`. @returns in RAX 0 after a VM exit, 1 when the entry failed. */
function program(variant: ExitVariant): (a: Assembler) => void {
  const { vmexit } = symbolsOf(variant);
  return (a) => {
    const local = (name: string): string => `${vmexit}.${name}`;
    for (const register of CALLEE_SAVED) a.push(register);
    a.push(rdx).push(rsi);
    // HOST_RSP: the stack as the exit will find it (kernel: vmx_update_host_rsp()).
    a.cmp(mem(rdi, HOST_RSP_CACHE), rsp).je(local("same_rsp"));
    a.mov(mem(rdi, HOST_RSP_CACHE), rsp).mov(eax, VMCS.HOST_RSP).vmwrite(rax, rsp);
    a.label(local("same_rsp"));
    // From here to the entry no RET and no indirect branch: they would be predicted under the guest's SPEC_CTRL.
    a.test(edx, VMX_RUN_SPEC_CTRL).jz(local("spec_ctrl_done"));
    a.mov(r8d, edx).mov(eax, mem(rdi, GUEST_SPEC_CTRL)).cmp(eax, gs(x86SpecCtrlCurrent.offset)).je(local("spec_ctrl_same"));
    a.mov(ecx, MSR_IA32_SPEC_CTRL).xor(edx, edx).wrmsr();
    a.label(local("spec_ctrl_same")).mov(edx, r8d);
    a.label(local("spec_ctrl_done"));
    // The moves below leave the flags alone: ZF for VERW, which changes it, CF for the resume, which it leaves alone.
    a.test(edx, VMX_RUN_CLEAR_CPU_BUFFERS).bt(edx, VMX_RUN_VMRESUME_SHIFT);
    a.mov(rax, mem(rsi, 8 * VCPU_REGS.RAX));
    for (const [register, index] of GUEST_REGISTERS) a.mov(register, mem(rsi, 8 * index));
    // The last access to memory before the guest.
    a.jz(local("buffers_done")).verw(word(at(VERW_SELECTOR)));
    a.label(local("buffers_done")).jnc(local("launch"));
    a.vmresume().jmp(local("fail"));
    a.label(local("launch")).vmlaunch();
    a.label(local("fail"));
    a.mov(ebx, 1).jmp(local("clear"));

    a.align(16).label(vmexit);
    a.push(rax).mov(rax, mem(rsp, 8));
    for (const [register, index] of GUEST_REGISTERS) a.mov(mem(rax, 8 * index), register);
    a.pop(rcx).mov(mem(rax, 8 * VCPU_REGS.RAX), rcx);
    a.xor(ebx, ebx);
    a.label(local("clear"));
    for (const register of ZEROED) a.xor(register, register);
    // Before the first RET: the guest must not have predicted it.
    if (variant.returns === "filled") emitFillReturnBuffer(a, local("fill"));
    if (variant.returns === "one call") emitRetireOneCall(a, local("lite"));
    a.add(rsp, 8).pop(rdx);
    a.test(edx, VMX_RUN_SPEC_CTRL).jz(local("spec_ctrl_restored"));
    a.mov(ecx, MSR_IA32_SPEC_CTRL).mov(eax, gs(x86SpecCtrlCurrent.offset)).xor(edx, edx).wrmsr();
    // Also where the branch above was mispredicted nothing goes on under the guest's value.
    a.label(local("spec_ctrl_restored")).lfence();
    if (variant.clearsHistory) emitClearBranchHistory(a, local("bhb"));
    a.mov(eax, ebx);
    for (const register of [...CALLEE_SAVED].reverse()) a.pop(register);
    a.ret();
  };
}

/** Numbers of the general registers in machine code are those of vcpu->regs; RSP (4) is in the VMCS. */
const LOADED_REGISTERS: readonly number[] = [VCPU_REGS.RAX, ...GUEST_REGISTERS.map(([, index]) => index)];

/** The same in steps. The host's registers that the program saves are nobody's here; room for them is left on the stack. */
function effect(variant: ExitVariant): StubProgram["effect"] {
  return (vmx, regs, flags) => {
    const cache = virtAddr(vmx + HOST_RSP_CACHE);
    const entry = cpu.stackPointer();
    const stack = addVirt(entry, -8 * (CALLEE_SAVED.length + 2));
    cpu.writeRegister(VCPU_REGS.RSP, low32(stack), high32(stack));
    if (virtual.get(cache) !== stack) {
      virtual.set(cache, stack);
      cpu.vmwrite(VMCS.HOST_RSP, low32(stack), high32(stack));
    }
    const hasSpecCtrl = (flags & VMX_RUN_SPEC_CTRL) !== 0;
    if (hasSpecCtrl) {
      const guest = cpu.load(virtAddr(vmx + GUEST_SPEC_CTRL), 4);
      if (guest !== x86SpecCtrlCurrent.get()) cpu.writeMsr(MSR_IA32_SPEC_CTRL, guest, 0);
    }
    for (const index of LOADED_REGISTERS) {
      const low = cpu.load64(virtAddr(regs + 8 * index));
      cpu.writeRegister(index, low, cpu.high);
    }
    if ((flags & VMX_RUN_CLEAR_CPU_BUFFERS) !== 0) cpu.callStub(STUB_CLEAR_CPU_BUFFERS);
    const status = cpu.enterGuest((flags & VMX_RUN_VMRESUME) !== 0);
    if (status === VMX_SUCCEED) {
      for (const index of LOADED_REGISTERS) {
        const low = cpu.readRegister(index);
        cpu.store64(virtAddr(regs + 8 * index), low, cpu.high);
      }
    }
    if (variant.returns === "filled") cpu.callStub(STUB_FILL_RETURN_BUFFER);
    if (hasSpecCtrl) cpu.writeMsr(MSR_IA32_SPEC_CTRL, x86SpecCtrlCurrent.get(), 0);
    if (variant.clearsHistory) cpu.callStub(STUB_CLEAR_BRANCH_HISTORY);
    cpu.writeRegister(VCPU_REGS.RSP, low32(entry), high32(entry));
    return status === VMX_SUCCEED ? 0 : 1;
  };
}

export const VMX_ENTER_STUBS: readonly StubProgram[] = EXIT_VARIANTS.map((variant) => ({
  symbol: symbolsOf(variant).run,
  program: program(variant),
  effect: effect(variant),
}));
