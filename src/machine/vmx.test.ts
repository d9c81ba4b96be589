// VMX on the machine alone: a tiny guest behind a stub, its exits with their information fields, entries that must fail, injection.
// Expected values: SDM vol. 3, 27 (causes of exits), 28 (entry checks), 29 (exits and their fields), 31.4 (VM-instruction errors).
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Assembler, assemble, assembler, cr0, dx, eax, ecx, mem, qword, rax, rbp, rbx, rdi, rsp, r12, r13, r14, r15, al } from "../assembler/index.ts";
import {
  CPU_BASED_ACTIVATE_SECONDARY_CONTROLS,
  CPU_BASED_HLT_EXITING,
  CPU_BASED_INTR_WINDOW_EXITING,
  CPU_BASED_UNCOND_IO_EXITING,
  CR4_PAE,
  CR4_VMXE,
  cpu,
  EPT_EXECUTE,
  EPT_LARGE,
  EPT_MEMORY_TYPE_WB,
  EPT_READ,
  EPT_WRITE,
  EXIT_REASON,
  findCpuModel,
  ICR_FIXED,
  ICR_NMI,
  assert as invariant,
  MSR_EFER,
  MSR_IA32_VMX_BASIC,
  MSR_IA32_VMX_TRUE_ENTRY_CTLS,
  MSR_IA32_VMX_TRUE_EXIT_CTLS,
  MSR_IA32_VMX_TRUE_PINBASED_CTLS,
  MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
  MSR_X2APIC_EOI,
  MSR_X2APIC_ICR,
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
  VECTOR_GP,
  VECTOR_UD,
  type VirtAddr,
  VM_ENTRY_IA32E_MODE,
  VM_ENTRY_LOAD_IA32_EFER,
  VM_EXIT_ACK_INTR_ON_EXIT,
  VM_EXIT_HOST_ADDR_SPACE_SIZE,
  VM_EXIT_LOAD_IA32_EFER,
  VMCS,
  VMX_FAIL_VALID,
  VMX_SUCCEED,
  VMXERR_ENTRY_INVALID_CONTROL_FIELD,
  VMXERR_ENTRY_INVALID_HOST_STATE_FIELD,
  VMXERR_UNSUPPORTED_VMCS_COMPONENT,
  VMXERR_VMLAUNCH_NONCLEAR_VMCS,
  VMXERR_VMRESUME_NONLAUNCHED_VMCS,
  VMXERR_VMWRITE_READ_ONLY_VMCS_COMPONENT,
} from "../hardware/index.ts";
import { SimulatedMachine } from "./simulated-machine.ts";
import { direct, FREE_PHYSICAL, KERNEL_CS, KERNEL_SS, type TestKernel, TSS_SELECTOR, testImage, testSymbol } from "./testing-image.ts";

const model = findCpuModel("skx");
invariant(model !== undefined, () => "no model skx");
const skx = model;

const VMXON_REGION = physAddr(FREE_PHYSICAL + 0x1000);
const VMCS_REGION = physAddr(FREE_PHYSICAL + 0x2000);
const EPT_TABLES = FREE_PHYSICAL + 0x4000;
/** 2 MiB of guest memory, aligned. */
const GUEST_PHYSICAL = 0x2400000;
const GUEST_CODE = 0x10000;
const GUEST_IDT = 0x4000;
const GUEST_GDT = 0x4800;
const GUEST_HANDLER = 0x11000;
const GUEST_STACK = 0x20000;
const VMREAD_RSP_FIELD = 0x6c14;
const ENTRY_FAILED = 0x80000000;
const IPI_VECTOR = 0xfd;
/** A word of guest memory; the stub keeps no registers for the guest. */
const RESULT = qword(mem(0x8000));
const TIMER_CYCLES = 2000;

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

function write(field: number, value: number): void {
  assert.equal(cpu.vmwrite(field, value >>> 0, Math.floor(value / 2 ** 32) >>> 0), VMX_SUCCEED, `vmwrite of 0x${field.toString(16)}`);
}

function read(field: number): number {
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
    cpu.store64(direct(GUEST_PHYSICAL + GUEST_IDT + 16 * vector), GUEST_HANDLER % 65536 | (8 << 16), (GUEST_HANDLER & 0xffff0000) | 0x8e00);
}

function setUpControls(primary: number): void {
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
  for (const field of [VMCS.GUEST_DS_AR_BYTES, VMCS.GUEST_ES_AR_BYTES, VMCS.GUEST_FS_AR_BYTES, VMCS.GUEST_GS_AR_BYTES]) write(field, 0xc093);
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

function runGuest(guest: Guest): void {
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
  const machine = new SimulatedMachine({ model: skx, memoryBytes: 64 * 2 ** 20, cpus: 1, gear: "architectural", image, commandLine: "", observer: silentObserver });
  machine.memory.bytes.set(bytes, GUEST_PHYSICAL + GUEST_CODE);
  // The handler of every guest interrupt: IRET.
  machine.memory.bytes.set([0x48, 0xcf], GUEST_PHYSICAL + GUEST_HANDLER);
  assert.deepEqual(machine.run(50_000_000), { kind: "exit", status: 0 });
}

function launch(): void {
  assert.equal(cpu.callStub("vmenter", 0), 0);
}

function resume(): void {
  assert.equal(cpu.callStub("vmenter", 1), 0);
}

/** Moves the guest past the instruction that left. */
function skip(): void {
  write(VMCS.GUEST_RIP, read(VMCS.GUEST_RIP) + read(VMCS.VM_EXIT_INSTRUCTION_LEN));
}

function exitReason(): number {
  return read(VMCS.VM_EXIT_REASON);
}

test("a guest runs, leaves for VMCALL, CPUID, OUT and HLT, and goes on behind each", () => {
  runGuest({
    code: (a) => a.mov(RESULT, 5).vmcall().add(RESULT, 2).cpuid().mov(dx, 0x3f8).mov(al, 65).out(dx, al).inc(RESULT).hlt(),
    host: () => {
      launch();
      assert.equal(exitReason(), EXIT_REASON.VMCALL);
      assert.equal(read(VMCS.VM_EXIT_INSTRUCTION_LEN), 3);
      skip();
      resume();
      assert.equal(exitReason(), EXIT_REASON.CPUID);
      skip();
      resume();
      assert.equal(exitReason(), EXIT_REASON.IO_INSTRUCTION);
      assert.equal(read(VMCS.EXIT_QUALIFICATION), 0x3f80000);
      skip();
      resume();
      assert.equal(exitReason(), EXIT_REASON.HLT);
      assert.equal(cpu.readFlags() & 0x200, 0);
      assert.equal(cpu.loadWord(direct(GUEST_PHYSICAL + 0x8000)), 8);
    },
  });
});

test("an EPT violation tells address, access and rights; when the page is mapped the guest repeats the access", () => {
  runGuest({
    code: (a) => a.mov(rax, mem(0x201238)).mov(RESULT, rax).mov(mem(0x201238), rsp).hlt(),
    host: () => {
      launch();
      assert.equal(exitReason(), EXIT_REASON.EPT_VIOLATION);
      assert.equal(read(VMCS.GUEST_PHYSICAL_ADDRESS), 0x201238);
      assert.equal(read(VMCS.GUEST_LINEAR_ADDRESS), 0x201238);
      assert.equal(read(VMCS.EXIT_QUALIFICATION), 0x181);
      const frame = FREE_PHYSICAL + 0x10000;
      cpu.storeWord(direct(frame + 0x238), 99);
      cpu.storeWord(direct(EPT_TABLES + 0x2008), EPT_TABLES + 0x3000 + (EPT_READ | EPT_WRITE | EPT_EXECUTE));
      cpu.storeWord(direct(EPT_TABLES + 0x3008), frame + (EPT_READ | EPT_MEMORY_TYPE_WB));
      resume();
      assert.equal(exitReason(), EXIT_REASON.EPT_VIOLATION);
      assert.equal(read(VMCS.EXIT_QUALIFICATION), 0x18a);
      assert.equal(cpu.loadWord(direct(GUEST_PHYSICAL + 0x8000)), 99);
      cpu.storeWord(direct(EPT_TABLES + 0x3008), frame + (EPT_READ | EPT_WRITE | EPT_MEMORY_TYPE_WB));
      cpu.invalidateGuest("ept", 0);
      resume();
      assert.equal(exitReason(), EXIT_REASON.HLT);
      assert.equal(cpu.loadWord(direct(frame + 0x238)), GUEST_STACK);
    },
  });
});

test("an EPT entry that is writable but not readable is a misconfiguration", () => {
  runGuest({
    code: (a) => a.mov(rax, mem(0x201000)).hlt(),
    host: () => {
      cpu.storeWord(direct(EPT_TABLES + 0x2008), GUEST_PHYSICAL + (EPT_WRITE | EPT_LARGE | EPT_MEMORY_TYPE_WB));
      launch();
      assert.equal(exitReason(), EXIT_REASON.EPT_MISCONFIG);
      assert.equal(read(VMCS.GUEST_PHYSICAL_ADDRESS), 0x201000);
    },
  });
});

test("VMLAUNCH needs a clear VMCS, VMRESUME a launched one; bad controls and host state fail with their numbers (31.4)", () => {
  const failsWith = (resumes: number, error: number): void => {
    assert.equal(cpu.callStub("vmenter", resumes), VMX_FAIL_VALID);
    assert.equal(read(VMCS.VM_INSTRUCTION_ERROR), error);
  };
  runGuest({
    code: (a) => a.vmcall().hlt(),
    host: () => {
      failsWith(1, VMXERR_VMRESUME_NONLAUNCHED_VMCS);
      write(VMCS.EPT_POINTER, EPT_TABLES + 0x06);
      failsWith(0, VMXERR_ENTRY_INVALID_CONTROL_FIELD);
      write(VMCS.EPT_POINTER, EPT_TABLES + 0x1e);
      write(VMCS.VIRTUAL_PROCESSOR_ID, 0);
      failsWith(0, VMXERR_ENTRY_INVALID_CONTROL_FIELD);
      write(VMCS.VIRTUAL_PROCESSOR_ID, 1);
      write(VMCS.HOST_TR_SELECTOR, 0);
      failsWith(0, VMXERR_ENTRY_INVALID_HOST_STATE_FIELD);
      write(VMCS.HOST_TR_SELECTOR, TSS_SELECTOR);
      write(VMCS.HOST_CR3, 2 ** 46);
      failsWith(0, VMXERR_ENTRY_INVALID_HOST_STATE_FIELD);
      write(VMCS.HOST_CR3, cpu.readCr3());
      launch();
      failsWith(0, VMXERR_VMLAUNCH_NONCLEAR_VMCS);
      assert.equal(cpu.vmwrite(VMCS.VM_EXIT_REASON, 0, 0), VMX_FAIL_VALID);
      assert.equal(read(VMCS.VM_INSTRUCTION_ERROR), VMXERR_VMWRITE_READ_ONLY_VMCS_COMPONENT);
      assert.equal(cpu.vmwrite(0x7ffe, 0, 0), VMX_FAIL_VALID);
      assert.equal(read(VMCS.VM_INSTRUCTION_ERROR), VMXERR_UNSUPPORTED_VMCS_COMPONENT);
    },
  });
});

test("bad guest state is a VM exit with reason 33 and the entry-failure bit; the guest state stays (28.8)", () => {
  runGuest({
    code: (a) => a.hlt(),
    host: () => {
      const fails = (qualification: number): void => {
        launch();
        assert.equal(exitReason(), ENTRY_FAILED + EXIT_REASON.INVALID_STATE);
        assert.equal(read(VMCS.EXIT_QUALIFICATION), qualification);
      };
      write(VMCS.GUEST_RFLAGS, 0);
      fails(0);
      write(VMCS.GUEST_RFLAGS, 2);
      write(VMCS.GUEST_TR_AR_BYTES, 0x10000);
      fails(0);
      write(VMCS.GUEST_TR_AR_BYTES, 0x8b);
      write(VMCS.VMCS_LINK_POINTER, 0);
      fails(4);
      write(VMCS.VMCS_LINK_POINTER, -1);
      assert.equal(read(VMCS.GUEST_RIP), GUEST_CODE);
      launch();
      assert.equal(exitReason(), EXIT_REASON.HLT);
    },
  });
});

test("an injected interrupt runs the guest's handler; an interrupt window opens when IF becomes 1", () => {
  runGuest({
    primary: CPU_BASED_INTR_WINDOW_EXITING,
    code: (a) => a.mov(RESULT, 1).sti().inc(RESULT).inc(RESULT).hlt(),
    host: () => {
      launch();
      assert.equal(exitReason(), EXIT_REASON.INTERRUPT_WINDOW);
      // STI holds interrupts back for one instruction.
      const atWindow = read(VMCS.GUEST_RIP);
      setUpControls(0);
      write(VMCS.VM_ENTRY_INTR_INFO_FIELD, 0x80000040);
      resume();
      assert.equal(exitReason(), EXIT_REASON.HLT);
      assert.equal(read(VMCS.VM_ENTRY_INTR_INFO_FIELD), 0x40);
      assert.equal(cpu.loadWord(direct(GUEST_PHYSICAL + 0x8000)), 3);
      // The frame that the delivery pushed: RIP is where the window had opened.
      assert.equal(cpu.loadWord(direct(GUEST_PHYSICAL + GUEST_STACK - 40)), atWindow);
    },
  });
});

test("exceptions in the bitmap leave with vector, type and error code; others are the guest's own", () => {
  runGuest({
    code: (a) => a.ud2().mov(rax, 0).mov(cr0, rax).hlt(),
    host: () => {
      write(VMCS.EXCEPTION_BITMAP, (1 << VECTOR_UD) | (1 << VECTOR_GP));
      launch();
      assert.equal(exitReason(), EXIT_REASON.EXCEPTION_NMI);
      assert.equal(read(VMCS.VM_EXIT_INTR_INFO), 0x80000306);
      write(VMCS.GUEST_RIP, GUEST_CODE + 2);
      resume();
      assert.equal(exitReason(), EXIT_REASON.EXCEPTION_NMI);
      assert.equal(read(VMCS.VM_EXIT_INTR_INFO), 0x80000b0d);
      assert.equal(read(VMCS.VM_EXIT_INTR_ERROR_CODE), 0);
    },
  });
});

test("an external interrupt leaves the guest acknowledged; the kernel invokes its vector; an NMI leaves and blocks NMIs", () => {
  const order: string[] = [];
  runGuest({
    code: (a) => {
      a.label("loop").jmp("loop");
    },
    host: () => {
      cpu.writeMsr(MSR_X2APIC_ICR, ICR_FIXED | IPI_VECTOR, 0);
      cpu.charge(TIMER_CYCLES);
      launch();
      assert.equal(exitReason(), EXIT_REASON.EXTERNAL_INTERRUPT);
      assert.equal(read(VMCS.VM_EXIT_INTR_INFO), 0x80000000 + IPI_VECTOR);
      cpu.invokeVector(IPI_VECTOR);
      order.push("invoked");
      cpu.writeMsr(MSR_X2APIC_ICR, ICR_NMI, 0);
      resume();
      assert.equal(exitReason(), EXIT_REASON.EXCEPTION_NMI);
      assert.equal(read(VMCS.VM_EXIT_INTR_INFO), 0x80000202);
      cpu.writeMsr(MSR_X2APIC_ICR, ICR_NMI, 0);
      for (let i = 0; i < 300; i++) cpu.load(direct(FREE_PHYSICAL) as VirtAddr, 1);
      order.push("blocked");
      cpu.invokeVector(2);
    },
    vectors: new Map([
      [
        IPI_VECTOR,
        () => {
          order.push("interrupt");
          cpu.writeMsr(MSR_X2APIC_EOI, 0, 0);
        },
      ],
      [2, () => void order.push("nmi")],
    ]),
  });
  assert.deepEqual(order, ["interrupt", "invoked", "blocked", "nmi", "nmi"]);
});
