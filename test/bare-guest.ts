// A tiny guest for tests of VMX alone: stub, VMCS, EPT and guest tables, set up with steps of the seam by a test image's first function.
import assert from "node:assert/strict";
import {
  type Assembler,
  assemble,
  assembler,
  eax,
  ecx,
  mem,
  qword,
  r12,
  r13,
  r14,
  r15,
  rax,
  rbp,
  rbx,
  rdi,
  rsp,
} from "../src/assembler/index.ts";
import {
  CPU_BASED_ACTIVATE_SECONDARY_CONTROLS,
  CPU_BASED_HLT_EXITING,
  CPU_BASED_UNCOND_IO_EXITING,
  CR4_PAE,
  CR4_VMXE,
  cpu,
  EPT_EXECUTE,
  EPT_LARGE,
  EPT_MEMORY_TYPE_WB,
  EPT_READ,
  EPT_WRITE,
  findCpuModel,
  assert as invariant,
  MSR_EFER,
  MSR_IA32_VMX_BASIC,
  MSR_IA32_VMX_TRUE_ENTRY_CTLS,
  MSR_IA32_VMX_TRUE_EXIT_CTLS,
  MSR_IA32_VMX_TRUE_PINBASED_CTLS,
  MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
  MSR_X2APIC_SIVR,
  PIN_BASED_EXT_INTR_MASK,
  PIN_BASED_NMI_EXITING,
  PTE_LARGE,
  PTE_PRESENT,
  PTE_WRITE,
  physAddr,
  SECONDARY_EXEC_ENABLE_EPT,
  SECONDARY_EXEC_ENABLE_VPID,
  silentObserver,
  VM_ENTRY_IA32E_MODE,
  VM_ENTRY_LOAD_IA32_EFER,
  VM_EXIT_ACK_INTR_ON_EXIT,
  VM_EXIT_HOST_ADDR_SPACE_SIZE,
  VM_EXIT_LOAD_IA32_EFER,
  VMCS,
  VMX_SUCCEED,
} from "../src/hardware/index.ts";
import { SimulatedMachine } from "../src/machine/index.ts";
import { direct, FREE_PHYSICAL, KERNEL_CS, KERNEL_SS, type TestKernel, TSS_SELECTOR, testImage, testSymbol } from "./bare-kernel.ts";

const model = findCpuModel("skx");
invariant(model !== undefined, () => "no model skx");
const skx = model;

const VMXON_REGION = physAddr(FREE_PHYSICAL + 0x1000);
const VMCS_REGION = physAddr(FREE_PHYSICAL + 0x2000);
export const EPT_TABLES = FREE_PHYSICAL + 0x4000;
/** 2 MiB of guest memory, aligned. */
export const GUEST_PHYSICAL = 0x2400000;
export const GUEST_CODE = 0x10000;
const GUEST_IDT = 0x4000;
const GUEST_GDT = 0x4800;
const GUEST_HANDLER = 0x11000;
export const GUEST_STACK = 0x20000;
const VMREAD_RSP_FIELD = 0x6c14;
export const ENTRY_FAILED = 0x80000000;
export const IPI_VECTOR = 0xfd;
/** A word of guest memory; the stub keeps no registers for the guest. */
export const RESULT = qword(mem(0x8000));
export const TIMER_CYCLES = 2000;

/** RDI 0: VMLAUNCH, else VMRESUME. Returns 0 after a VM exit, 1 or 2 when the instruction failed. */
function stubs(a: Assembler): void {
  a.label("vmenter");
  for (const register of [rbp, rbx, r12, r13, r14, r15]) a.push(register);
  a.mov(rax, VMREAD_RSP_FIELD).vmwrite(rax, rsp).test(rdi, rdi).jne("resume").vmlaunch().jmp("failed");
  a.label("resume").vmresume();
  a.label("failed").mov(eax, 1).mov(ecx, 2).cmovz(eax, ecx).jmp("out");
  a.label("vmexit").mov(eax, 0);
  a.label("out");
  for (const register of [r15, r14, r13, r12, rbx, rbp]) a.pop(register);
  a.ret();
}

export function write(field: number, value: number): void {
  assert.equal(cpu.vmwrite(field, value >>> 0, Math.floor(value / 2 ** 32) >>> 0), VMX_SUCCEED, `vmwrite of 0x${field.toString(16)}`);
}

export function read(field: number): number {
  return cpu.vmread(field);
}

/** A control word: what must be 1 by the capability MSR, and `wanted`. */
function control(msr: number, wanted: number): number {
  return (cpu.readMsr(msr) | wanted) >>> 0;
}

function setUpMemory(): void {
  const all = EPT_READ | EPT_WRITE | EPT_EXECUTE;
  cpu.storeWord(direct(EPT_TABLES), EPT_TABLES + 0x1000 + all);
  cpu.storeWord(direct(EPT_TABLES + 0x1000), EPT_TABLES + 0x2000 + all);
  cpu.storeWord(direct(EPT_TABLES + 0x2000), GUEST_PHYSICAL + (all | EPT_LARGE | EPT_MEMORY_TYPE_WB));
  const present = PTE_PRESENT | PTE_WRITE;
  cpu.storeWord(direct(GUEST_PHYSICAL + 0x1000), 0x2000 + present);
  cpu.storeWord(direct(GUEST_PHYSICAL + 0x2000), 0x3000 + present);
  cpu.storeWord(direct(GUEST_PHYSICAL + 0x3000), present | PTE_LARGE);
  cpu.storeWord(direct(GUEST_PHYSICAL + 0x3008), 0x200000 + (present | PTE_LARGE));
  // GDT: null, 64-bit code, data. IDT: every gate the same handler.
  cpu.store64(direct(GUEST_PHYSICAL + GUEST_GDT + 8), 0x0000ffff, 0x00af9b00);
  cpu.store64(direct(GUEST_PHYSICAL + GUEST_GDT + 16), 0x0000ffff, 0x00cf9300);
  for (let vector = 0; vector < 128; vector++)
    cpu.store64(
      direct(GUEST_PHYSICAL + GUEST_IDT + 16 * vector),
      (GUEST_HANDLER % 65536) | (8 << 16),
      (GUEST_HANDLER & 0xffff0000) | 0x8e00,
    );
}

export function setUpControls(primary: number): void {
  const pin = PIN_BASED_EXT_INTR_MASK | PIN_BASED_NMI_EXITING;
  write(VMCS.PIN_BASED_VM_EXEC_CONTROL, control(MSR_IA32_VMX_TRUE_PINBASED_CTLS, pin));
  const wanted = (CPU_BASED_HLT_EXITING | CPU_BASED_UNCOND_IO_EXITING | CPU_BASED_ACTIVATE_SECONDARY_CONTROLS | primary) >>> 0;
  write(VMCS.CPU_BASED_VM_EXEC_CONTROL, control(MSR_IA32_VMX_TRUE_PROCBASED_CTLS, wanted));
  write(VMCS.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_ENABLE_VPID);
  write(VMCS.VIRTUAL_PROCESSOR_ID, 1);
  write(VMCS.EPT_POINTER, EPT_TABLES + 0x1e);
  const exit = VM_EXIT_HOST_ADDR_SPACE_SIZE | VM_EXIT_LOAD_IA32_EFER | VM_EXIT_ACK_INTR_ON_EXIT;
  write(VMCS.VM_EXIT_CONTROLS, control(MSR_IA32_VMX_TRUE_EXIT_CTLS, exit));
  write(VMCS.VM_ENTRY_CONTROLS, control(MSR_IA32_VMX_TRUE_ENTRY_CTLS, VM_ENTRY_IA32E_MODE | VM_ENTRY_LOAD_IA32_EFER));
}

function setUpHost(): void {
  write(VMCS.HOST_CR0, cpu.readCr0() >>> 0);
  write(VMCS.HOST_CR3, cpu.readCr3());
  write(VMCS.HOST_CR4, cpu.readCr4());
  write(VMCS.HOST_CS_SELECTOR, KERNEL_CS);
  write(VMCS.HOST_SS_SELECTOR, KERNEL_SS);
  write(VMCS.HOST_TR_SELECTOR, TSS_SELECTOR);
  write(VMCS.HOST_TR_BASE, direct(0x2002000));
  write(VMCS.HOST_GDTR_BASE, direct(0x2000000));
  write(VMCS.HOST_IDTR_BASE, direct(0x2001000));
  write(VMCS.HOST_IA32_EFER, cpu.readMsr(MSR_EFER));
  write(VMCS.HOST_RIP, testSymbol("vmexit"));
}

function setUpGuest(): void {
  write(VMCS.GUEST_CR0, cpu.readCr0() >>> 0);
  write(VMCS.GUEST_CR3, 0x1000);
  write(VMCS.GUEST_CR4, CR4_PAE | CR4_VMXE);
  write(VMCS.GUEST_IA32_EFER, cpu.readMsr(MSR_EFER));
  write(VMCS.GUEST_CS_SELECTOR, 8);
  write(VMCS.GUEST_CS_AR_BYTES, 0xa09b);
  write(VMCS.GUEST_SS_SELECTOR, 16);
  write(VMCS.GUEST_SS_AR_BYTES, 0xc093);
  for (const field of [VMCS.GUEST_DS_AR_BYTES, VMCS.GUEST_ES_AR_BYTES, VMCS.GUEST_FS_AR_BYTES, VMCS.GUEST_GS_AR_BYTES])
    write(field, 0xc093);
  write(VMCS.GUEST_TR_AR_BYTES, 0x8b);
  write(VMCS.GUEST_TR_LIMIT, 0x67);
  write(VMCS.GUEST_LDTR_AR_BYTES, 0x10000);
  write(VMCS.GUEST_GDTR_BASE, GUEST_GDT);
  write(VMCS.GUEST_GDTR_LIMIT, 23);
  write(VMCS.GUEST_IDTR_BASE, GUEST_IDT);
  write(VMCS.GUEST_IDTR_LIMIT, 2047);
  write(VMCS.GUEST_RIP, GUEST_CODE);
  write(VMCS.GUEST_RSP, GUEST_STACK);
  write(VMCS.GUEST_RFLAGS, 2);
  write(VMCS.VMCS_LINK_POINTER, -1);
}

interface Guest {
  /** The guest's code. */
  readonly code: (a: Assembler) => void;
  /** What the host does with it, after all is set up. */
  readonly host: () => void;
  readonly primary?: number;
  readonly vectors?: ReadonlyMap<number, () => void>;
}

export function runGuest(guest: Guest): void {
  const program = assembler();
  program.label("code");
  guest.code(program);
  const { bytes } = assemble(program.program(), { origin: GUEST_CODE });
  const kernel: TestKernel = {
    start: () => {
      cpu.writeMsr(MSR_X2APIC_SIVR, 0x1ff, 0);
      setUpMemory();
      cpu.writeCr4(cpu.readCr4() | CR4_VMXE);
      const revision = cpu.readMsr(MSR_IA32_VMX_BASIC);
      cpu.store(direct(VMXON_REGION), 4, revision);
      cpu.store(direct(VMCS_REGION), 4, revision);
      assert.equal(cpu.vmx("vmxon", VMXON_REGION), VMX_SUCCEED);
      assert.equal(cpu.vmx("vmclear", VMCS_REGION), VMX_SUCCEED);
      assert.equal(cpu.vmx("vmptrld", VMCS_REGION), VMX_SUCCEED);
      setUpControls(guest.primary ?? 0);
      setUpHost();
      setUpGuest();
      guest.host();
      cpu.portOut(0xf4, 1, 0);
    },
    code: stubs,
    vectors: guest.vectors ?? new Map(),
  };
  const image = testImage(kernel);
  const machine = new SimulatedMachine({
    model: skx,
    memoryBytes: 64 * 2 ** 20,
    cpus: 1,
    gear: "architectural",
    image,
    commandLine: "",
    observer: silentObserver,
  });
  machine.memory.bytes.set(bytes, GUEST_PHYSICAL + GUEST_CODE);
  // The handler of every guest interrupt: IRET.
  machine.memory.bytes.set([0x48, 0xcf], GUEST_PHYSICAL + GUEST_HANDLER);
  assert.deepEqual(machine.run(50_000_000), { kind: "exit", status: 0 });
}

export function launch(): void {
  assert.equal(cpu.callStub("vmenter", 0), 0);
}

export function resume(): void {
  assert.equal(cpu.callStub("vmenter", 1), 0);
}

/** Moves the guest past the instruction that left. */
export function skip(): void {
  write(VMCS.GUEST_RIP, read(VMCS.GUEST_RIP) + read(VMCS.VM_EXIT_INSTRUCTION_LEN));
}

export function exitReason(): number {
  return read(VMCS.VM_EXIT_REASON);
}
