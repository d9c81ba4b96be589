// VMX on the machine alone: a tiny guest behind a stub, its exits with their information fields, entries that must fail, injection.
// Expected values: SDM vol. 3, 27 (causes of exits), 28 (entry checks), 29 (exits and their fields), 31.4 (VM-instruction errors).
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ENTRY_FAILED,
  EPT_TABLES,
  exitReason,
  GUEST_CODE,
  GUEST_PHYSICAL,
  GUEST_STACK,
  IPI_VECTOR,
  launch,
  RESULT,
  read,
  resume,
  runGuest,
  setUpControls,
  skip,
  TIMER_CYCLES,
  write,
} from "../../test/bare-guest.ts";
import { direct, FREE_PHYSICAL, TSS_SELECTOR } from "../../test/bare-kernel.ts";
import { al, cr0, cr4, dx, mem, rax, rsp } from "../assembler/index.ts";
import {
  CPU_BASED_INTR_WINDOW_EXITING,
  CR4_PAE,
  CR4_PGE,
  CR4_VMXE,
  cpu,
  EPT_EXECUTE,
  EPT_LARGE,
  EPT_MEMORY_TYPE_WB,
  EPT_READ,
  EPT_WRITE,
  EXIT_REASON,
  ICR_FIXED,
  ICR_NMI,
  MSR_X2APIC_EOI,
  MSR_X2APIC_ICR,
  VECTOR_GP,
  VECTOR_UD,
  type VirtAddr,
  VMCS,
  VMX_FAIL_VALID,
  VMXERR_ENTRY_INVALID_CONTROL_FIELD,
  VMXERR_ENTRY_INVALID_HOST_STATE_FIELD,
  VMXERR_UNSUPPORTED_VMCS_COMPONENT,
  VMXERR_VMLAUNCH_NONCLEAR_VMCS,
  VMXERR_VMRESUME_NONLAUNCHED_VMCS,
  VMXERR_VMWRITE_READ_ONLY_VMCS_COMPONENT,
} from "../hardware/index.ts";

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

test("guest/host masks: reads of CR4 show the shadow, writes that differ from it leave, others change only the guest's bits (27.3)", () => {
  runGuest({
    code: (a) => a.mov(rax, cr4).mov(RESULT, rax).or(rax, CR4_PGE).mov(cr4, rax).or(rax, CR4_VMXE).mov(cr4, rax).hlt(),
    host: () => {
      write(VMCS.CR4_GUEST_HOST_MASK, CR4_VMXE);
      write(VMCS.CR4_READ_SHADOW, 0);
      launch();
      assert.equal(exitReason(), EXIT_REASON.CR_ACCESS);
      // MOV to CR4 from RAX.
      assert.equal(read(VMCS.EXIT_QUALIFICATION), 4);
      assert.equal(read(VMCS.GUEST_CR4), CR4_PAE | CR4_VMXE | CR4_PGE);
      assert.equal(cpu.loadWord(direct(GUEST_PHYSICAL + 0x8000)), CR4_PAE);
    },
  });
});
