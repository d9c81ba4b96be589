// The machine code between the kernel and a guest: VMLAUNCH or VMRESUME with the guest's general registers loaded, and the label at
// which every VM exit arrives. Two versions, with and without filling the return stack after an exit: Linux patches one into the other
// at boot (X86_FEATURE_RSB_VMEXIT); here each VMCS names its own as HOST_RIP.
import {
  type Assembler,
  eax,
  ebp,
  ebx,
  ecx,
  edi,
  edx,
  esi,
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
} from "../../../assembler/index.ts";
import { addVirt, cpu, high32, low32, STUB_FILL_RETURN_BUFFER, VMCS, VMX_SUCCEED, virtAddr, virtual } from "../../../hardware/index.ts";
import { emitFillReturnBuffer } from "../../mitigations/flush-stubs.ts";
import type { StubProgram } from "../../stub-program.ts";
import { LoadedVmcs, VCPU_REGS, VcpuVmx, VmcsHostState } from "../kvm-struct.ts";

/** Argument RDX: the VMCS was launched (kernel: VMX_RUN_VMRESUME). */
export const VMX_RUN_VMRESUME = 1;

export const VMX_VCPU_RUN = "__vmx_vcpu_run";
export const VMX_VMEXIT = "vmx_vmexit";
export const VMX_VCPU_RUN_RSB = "__vmx_vcpu_run_rsb";
export const VMX_VMEXIT_RSB = "vmx_vmexit_rsb";

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

/** Kernel: `__vmx_vcpu_run(vmx, regs, flags)`. @returns in RAX 0 after a VM exit, 1 when the entry failed. */
function program(vmexit: string, fillsReturnBuffer: boolean): (a: Assembler) => void {
  return (a) => {
    const local = (name: string): string => `${vmexit}.${name}`;
    for (const register of CALLEE_SAVED) a.push(register);
    a.push(rsi);
    // HOST_RSP: the stack as the exit will find it (kernel: vmx_update_host_rsp()).
    a.cmp(mem(rdi, HOST_RSP_CACHE), rsp).je(local("same_rsp"));
    a.mov(mem(rdi, HOST_RSP_CACHE), rsp).mov(eax, VMCS.HOST_RSP).vmwrite(rax, rsp);
    a.label(local("same_rsp"));
    // The moves below leave the flag of this test alone.
    a.test(edx, VMX_RUN_VMRESUME);
    a.mov(rax, mem(rsi, 8 * VCPU_REGS.RAX));
    for (const [register, index] of GUEST_REGISTERS) a.mov(register, mem(rsi, 8 * index));
    a.jz(local("launch"));
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
    if (fillsReturnBuffer) emitFillReturnBuffer(a, local("fill"));
    a.mov(eax, ebx);
    a.add(rsp, 8);
    for (const register of [...CALLEE_SAVED].reverse()) a.pop(register);
    a.ret();
  };
}

/** Numbers of the general registers in machine code are those of vcpu->regs; RSP (4) is in the VMCS. */
const LOADED_REGISTERS: readonly number[] = [VCPU_REGS.RAX, ...GUEST_REGISTERS.map(([, index]) => index)];

/** The same in steps. The host's registers that the program saves are nobody's here; room for them is left on the stack. */
function effect(fillsReturnBuffer: boolean): StubProgram["effect"] {
  return (vmx, regs, flags) => {
    const cache = virtAddr(vmx + HOST_RSP_CACHE);
    const entry = cpu.stackPointer();
    const stack = addVirt(entry, -8 * (CALLEE_SAVED.length + 1));
    cpu.writeRegister(VCPU_REGS.RSP, low32(stack), high32(stack));
    if (virtual.get(cache) !== stack) {
      virtual.set(cache, stack);
      cpu.vmwrite(VMCS.HOST_RSP, low32(stack), high32(stack));
    }
    for (const index of LOADED_REGISTERS) {
      const low = cpu.load64(virtAddr(regs + 8 * index));
      cpu.writeRegister(index, low, cpu.high);
    }
    const status = cpu.enterGuest((flags & VMX_RUN_VMRESUME) !== 0);
    if (status === VMX_SUCCEED) {
      for (const index of LOADED_REGISTERS) {
        const low = cpu.readRegister(index);
        cpu.store64(virtAddr(regs + 8 * index), low, cpu.high);
      }
    }
    if (fillsReturnBuffer) cpu.callStub(STUB_FILL_RETURN_BUFFER);
    cpu.writeRegister(VCPU_REGS.RSP, low32(entry), high32(entry));
    return status === VMX_SUCCEED ? 0 : 1;
  };
}

export const VMX_ENTER_STUBS: readonly StubProgram[] = [
  { symbol: VMX_VCPU_RUN, program: program(VMX_VMEXIT, false), effect: effect(false) },
  { symbol: VMX_VCPU_RUN_RSB, program: program(VMX_VMEXIT_RSB, true), effect: effect(true) },
];
