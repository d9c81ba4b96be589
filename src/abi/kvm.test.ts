// The request numbers as strace(1) prints them on a Linux host: the encoding is built from parts here, so its result is pinned.
import { equal } from "node:assert/strict";
import { test } from "node:test";
import * as kvm from "./kvm.ts";
import { KVM_REGS_BYTES, KVM_REGS_ORDER, KVM_SEGMENT_BYTES, SREGS } from "./kvm-structs.ts";

test("KVM requests have Linux's numbers (uapi linux/kvm.h)", () => {
  equal(kvm.KVM_GET_API_VERSION, 0xae00);
  equal(kvm.KVM_CREATE_VM, 0xae01);
  equal(kvm.KVM_CHECK_EXTENSION, 0xae03);
  equal(kvm.KVM_GET_VCPU_MMAP_SIZE, 0xae04);
  equal(kvm.KVM_GET_SUPPORTED_CPUID, 0xc008ae05);
  equal(kvm.KVM_CREATE_VCPU, 0xae41);
  equal(kvm.KVM_SET_USER_MEMORY_REGION, 0x4020ae46);
  equal(kvm.KVM_RUN, 0xae80);
  equal(kvm.KVM_GET_REGS, 0x8090ae81);
  equal(kvm.KVM_SET_REGS, 0x4090ae82);
  equal(kvm.KVM_GET_SREGS, 0x8138ae83);
  equal(kvm.KVM_SET_SREGS, 0x4138ae84);
  equal(kvm.KVM_SET_CPUID2, 0x4008ae90);
});

test("struct kvm_regs has 18 registers of 8 bytes (uapi asm/kvm.h)", () => {
  equal(KVM_REGS_ORDER.length * 8, KVM_REGS_BYTES);
});

test("the eight segments of struct kvm_sregs end where gdt begins (uapi asm/kvm.h)", () => {
  equal(8 * KVM_SEGMENT_BYTES, SREGS.gdt);
});
