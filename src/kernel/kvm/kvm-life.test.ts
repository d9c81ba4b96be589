// The life of VMs and their memory slots, called directly in a booted kernel: every error path gives back what was taken (S9).
import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { EEXIST, EINVAL, ENOMEM, type Errno, isErr, KVM_MEM_READONLY, MEMORY_REGION } from "../../abi/index.ts";
import { addVirt, cpu, NULL, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { runInKernel } from "../../residue/index.ts";
import type { Preset } from "../asi/asi-options.ts";
import { asiClassPolicy } from "../asi/asi-state.ts";
import {
  ASI_CLASS_KVM,
  ASI_TAINT_GUEST_CONTROL,
  ASI_TAINT_GUEST_DATA,
  ASI_TAINT_KERNEL_DATA,
  ASI_TAINT_OTHER_MM_CONTROL,
  ASI_TAINT_OTHER_MM_DATA,
  ASI_TAINT_USER_DATA,
  Asi,
  AsiTaintPolicy,
} from "../asi/asi-struct.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { FAIL_NEVER, failAlloc } from "../mm/fail-alloc.ts";
import { __GFP_SENSITIVE, GFP_KERNEL } from "../mm/gfp.ts";
import { mmAlloc } from "../mm/mm.ts";
import { Mm, type MmPtr } from "../mm/mm-struct.ts";
import { allocPages, asiAsyncFreeWork, freePages, nrFreePages } from "../mm/page-alloc.ts";
import type { PagePtr } from "../mm/page-struct.ts";
import { kfree, kmalloc } from "../mm/slab.ts";
import { kvmExit, kvmInit } from "./init.ts";
import { Kvm } from "./kvm-struct.ts";
import { kvmSetMemoryRegion } from "./memslots.ts";
import { kvmCreateVm, kvmPutKvm } from "./vm.ts";
import { kvmSetProtectUserData } from "./vm-domain.ts";

function inKernel<T>(body: () => T, preset: Preset = "cordon", commandLine = "asi=on"): T {
  const image = buildKernelImage({ preset, processes: [], puppets: new Map() });
  return runInKernel(image, body, { commandLine, memoryBytes: 64 * 2 ** 20 });
}

function newMm(): MmPtr {
  const mm = mmAlloc();
  ok(mm !== NULL);
  return mm;
}

function newVm(mm: MmPtr): Ptr<"kvm"> {
  const kvm = kvmCreateVm(mm);
  if (isErr(kvm)) throw new Error(`kvm_create_vm(): ${kvm}`);
  return kvm;
}

test("two VMs of one process share its KVM domain, and the last one takes it away (spec 2.12, hunk 1)", () => {
  inKernel(() => {
    const mm = newMm();
    const first = newVm(mm);
    const second = newVm(mm);
    const domain = Mm.at(mm).asi.get(ASI_CLASS_KVM);
    equal(Kvm.at(first).asi, domain.address);
    equal(Kvm.at(second).asi, domain.address);
    equal(domain.refCount, 2);
    kvmPutKvm(first);
    equal(domain.refCount, 1);
    ok(domain.pgd !== 0);
    kvmPutKvm(second);
    equal(domain.refCount, 0);
    equal(domain.pgd, 0);
  });
});

test("with domain_per_vm two VMs of one process have a domain each, and are told apart by their data", () => {
  inKernel(
    () => {
      const mm = newMm();
      const [first, second] = [Kvm.at(newVm(mm)), Kvm.at(newVm(mm))];
      ok(first.asi !== NULL && second.asi !== NULL && first.asi !== second.asi);
      equal(second.label, first.label + 1);
      equal(Mm.at(mm).asi.get(ASI_CLASS_KVM).refCount, 0);
    },
    "cordon",
    "asi=on cordon.domain_per_vm=on",
  );
});

test("the policy of the KVM class (spec 2.5)", () => {
  const policy = (): readonly number[] => {
    const view = AsiTaintPolicy.at(asiClassPolicy(ASI_CLASS_KVM));
    return [view.protectData, view.preventControl, view.set];
  };
  const data = ASI_TAINT_KERNEL_DATA | ASI_TAINT_OTHER_MM_DATA | ASI_TAINT_USER_DATA;
  deepEqual(inKernel(policy), [data, ASI_TAINT_OTHER_MM_CONTROL, ASI_TAINT_GUEST_DATA | ASI_TAINT_GUEST_CONTROL]);
  // As posted, GUEST_CONTROL replaces GUEST_DATA.
  deepEqual(inKernel(policy, "rfc-v2"), [data, ASI_TAINT_OTHER_MM_CONTROL, ASI_TAINT_GUEST_CONTROL]);
});

test("a monitor that has no secrets keeps its own data out of the policy of its domain, and of nothing else's (protect_user_data)", () => {
  inKernel(() => {
    const kvm = newVm(newMm());
    const policy = (): readonly number[] => {
      const view = AsiTaintPolicy.at(Asi.at(Kvm.at(kvm).asi).policy);
      return [view.protectData, view.preventControl, view.set];
    };
    const others = ASI_TAINT_KERNEL_DATA | ASI_TAINT_OTHER_MM_DATA;
    const rest = [ASI_TAINT_OTHER_MM_CONTROL, ASI_TAINT_GUEST_DATA | ASI_TAINT_GUEST_CONTROL];
    deepEqual(policy(), [others | ASI_TAINT_USER_DATA, ...rest]);
    equal(kvmSetProtectUserData(kvm, 0), 0);
    deepEqual(policy(), [others, ...rest]);
    equal(kvmSetProtectUserData(kvm, 1), 0);
    deepEqual(policy(), [others | ASI_TAINT_USER_DATA, ...rest]);
    kvmPutKvm(kvm);
  });
});

test("a VM is initialised once; in the posted series twice (spec 2.12, hunk 7)", () => {
  const calls = (): number => Kvm.at(newVm(newMm())).vmInitCalls;
  equal(inKernel(calls), 1);
  equal(inKernel(calls, "rfc-v2"), 2);
});

for (const commandLine of ["asi=off", "asi=off cordon.domain_per_vm=on"]) {
  test(`without ASI a VM has no domain (${commandLine})`, () => {
    inKernel(
      () => {
        const kvm = newVm(newMm());
        equal(Kvm.at(kvm).asi, NULL);
        kvmPutKvm(kvm);
      },
      "cordon",
      commandLine,
    );
  });
}

for (const [preset, commandLine, steps] of [
  // The VM, the root of its EPT, the root of the domain, vm_init; as posted vm_init twice; the record of a domain of its own.
  ["cordon", "asi=on", 4],
  ["rfc-v2", "asi=on", 5],
  ["cordon", "asi=on cordon.domain_per_vm=on", 5],
] as const) {
  test(`whichever step of making a VM fails, those before it are undone (S9; hunk 7, out_asi_destroy; ${preset}, ${commandLine})`, () => {
    inKernel(
      () => {
        const mm = newMm();
        kvmPutKvm(newVm(mm)); // slabs and shared tables that stay are there after the first
        failAlloc.arm(FAIL_NEVER);
        kvmPutKvm(newVm(mm));
        equal(failAlloc.attempts(), steps);
        const free = freeCount();
        const users = Mm.at(mm).count;
        for (let nth = 1; nth <= steps; nth++) {
          // More often than small objects go in a page, so that one that is kept costs one.
          for (let i = 0; i < 128; i++) {
            asiAsyncFreeWork(); // pages that wait to be freed would be a second chance
            failAlloc.arm(nth);
            equal(kvmCreateVm(mm), ENOMEM, `step ${nth}`);
            equal(failAlloc.failed(), 1);
          }
          equal(freeCount(), free, `step ${nth} leaks`);
          equal(Mm.at(mm).count, users);
          equal(Mm.at(mm).asi.get(ASI_CLASS_KVM).refCount, 0);
        }
        failAlloc.disarm();
        kvmPutKvm(newVm(mm));
        equal(freeCount(), free);
      },
      preset,
      commandLine,
    );
  });
}

test("the class is given back when the hypervisor is unloaded, and can be had again (hunk 3)", () => {
  inKernel(() => {
    equal(kvmInit(), EEXIST);
    kvmExit();
    equal(asiClassPolicy(ASI_CLASS_KVM), NULL);
    equal(kvmInit(), 0);
    ok(asiClassPolicy(ASI_CLASS_KVM) !== NULL);
  });
});

test("loading and unloading the hypervisor keeps no page (S9)", () => {
  inKernel(() => {
    kvmExit();
    const free = freeCount();
    equal(kvmInit(), 0);
    ok(freeCount() < free);
    kvmExit();
    equal(freeCount(), free);
    equal(kvmInit(), 0);
  });
});

test("when the hypervisor finds no memory to load, the class is given back (hunk 3, out_asi_uninit)", () => {
  inKernel(() => {
    kvmExit();
    exhaust();
    equal(kvmInit(), ENOMEM);
    equal(asiClassPolicy(ASI_CLASS_KVM), NULL);
  });
});

const LARGEST_ORDER = 10;

/** Takes all memory, block by block. */
function exhaust(): void {
  for (let order = LARGEST_ORDER; order >= 0; order--) while (take(order) !== NULL);
}

function take(order: number): PagePtr {
  return allocPages(GFP_KERNEL | __GFP_SENSITIVE, order);
}

function freeCount(): number {
  asiAsyncFreeWork();
  return nrFreePages();
}

for (const preset of ["cordon", "rfc-v2"] as const) {
  test(`memory that runs out at any point of making a VM leaves nothing behind (S9, ${preset})`, () => {
    inKernel(() => {
      const mm = newMm();
      // The caches and shared tables that stay are there after the first.
      kvmPutKvm(newVm(mm));
      freeCount();
      // Given back one by one, so that each time one page more is there. They are taken first: only then is memory in single pages.
      const spares = Array.from({ length: 8 }, () => take(0));
      exhaust();
      const failures: (0 | Errno)[] = [];
      for (const page of spares) {
        const free = freeCount();
        const users = Mm.at(mm).count;
        const kvm = kvmCreateVm(mm);
        failures.push(isErr(kvm) ? kvm : 0);
        if (!isErr(kvm)) kvmPutKvm(kvm);
        equal(Mm.at(mm).count, users);
        equal(Mm.at(mm).asi.get(ASI_CLASS_KVM).refCount, 0);
        equal(freeCount(), free, `with ${free} pages`);
        freePages(page, 0);
      }
      equal(failures[0], ENOMEM);
      equal(failures[1], ENOMEM, "room for the root of the EPT, none for the domain");
      equal(failures.at(-1), 0);
    }, preset);
  });
}

function region(slot: number, gpa: number, bytes: number, hva: number, flags = 0): (use: (at: VirtAddr) => 0 | Errno) => 0 | Errno {
  return (use) => {
    const at = kmalloc(32, GFP_KERNEL);
    cpu.store(addVirt(at, MEMORY_REGION.slot), 4, slot);
    cpu.store(addVirt(at, MEMORY_REGION.flags), 4, flags);
    cpu.storeWord(addVirt(at, MEMORY_REGION.guest_phys_addr), gpa);
    cpu.storeWord(addVirt(at, MEMORY_REGION.memory_size), bytes);
    cpu.storeWord(addVirt(at, MEMORY_REGION.userspace_addr), hva);
    const result = use(at);
    kfree(at);
    return result;
  };
}

test("KVM_SET_USER_MEMORY_REGION checks first, and changes nothing when it refuses", () => {
  inKernel(() => {
    const kvm = newVm(newMm());
    const set = (...args: Parameters<typeof region>): 0 | Errno => region(...args)((at) => kvmSetMemoryRegion(kvm, at));
    const hva = 0x7000_0000;
    equal(set(0, 0, 0x10000, hva), 0);
    equal(set(1, 0x8000, 0x1000, hva), EEXIST, "overlaps slot 0");
    equal(set(1, 0x10000, 0x1001, hva), EINVAL, "size not a multiple of a page");
    equal(set(1, 0x10001, 0x1000, hva), EINVAL, "guest-physical address not aligned");
    equal(set(1, 0x10000, 0x1000, hva + 1), EINVAL, "user address not aligned");
    equal(set(1, 0x10000, 0x1000, 2 ** 47), EINVAL, "not a user address");
    equal(set(99, 0x10000, 0x1000, hva), EINVAL, "no such slot");
    equal(set(1, 0x10000, 0x1000, hva, 1 << 5), EINVAL, "unknown flag");
    equal(set(1, 0, 0, 0), EINVAL, "deleting an empty slot");
    equal(set(0, 0, 0x20000, hva), EINVAL, "changing the size of a slot");
    equal(set(0, 0, 0x10000, hva, KVM_MEM_READONLY), EINVAL, "making a slot read-only");
    const slot = Kvm.at(kvm).memslots.get(0);
    deepEqual([slot.baseGfn, slot.npages, slot.userspaceAddr, slot.flags], [0, 16, hva, 0]);
    equal(set(0, 0x100000, 0x10000, hva), 0, "moving a slot");
    equal(slot.baseGfn, 0x100);
    equal(set(0, 0, 0, 0), 0, "deleting it");
    equal(slot.npages, 0);
    kvmPutKvm(kvm);
  });
});
