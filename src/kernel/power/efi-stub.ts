// Calling the firmware's runtime services, and the firmware: a variable store and a counter, in position-independent code of the board's.
// The image brings it along, as a boot loader would; efi.ts moves it to memory of its own, which only efi_mm maps.
import { at, eax, mem, qword, r8, r9, r10d, rax, rbp, rcx, rdi, rdx, rsi, rsp } from "../../assembler/index.ts";
import { addVirt, cpu, PAGE_SIZE, type VirtAddr, virtAddr, word } from "../../hardware/index.ts";
import type { StubProgram } from "../stub-program.ts";

/** RDI: address of the service; RSI, RDX, RCX: its arguments. @returns the low half of the EFI status (kernel: `__efi_call()`). */
export const EFI_CALL = "__efi_call";
/** First byte of the firmware's code; its data begins a page behind it. */
export const EFI_FIRMWARE = "efi_firmware";
export const EFI_FIRMWARE_END = "efi_firmware.end";

/** Runtime services: their code, from the firmware's first byte on (UEFI 2.10, 8). */
export const EFI_SERVICES = {
  GET_VARIABLE: "efi_firmware.get_variable",
  SET_VARIABLE: "efi_firmware.set_variable",
  GET_NEXT_HIGH_MONO_COUNT: "efi_firmware.get_next_high_mono_count",
} as const;
export type EfiService = keyof typeof EFI_SERVICES;

// Low halves of EFI_STATUS; UEFI 2.10, appendix D.
export const EFI_SUCCESS = 0;
export const EFI_OUT_OF_RESOURCES = 9;
export const EFI_NOT_FOUND = 14;

/** Variables that the store holds: name (8 bytes, not 0) and value (8 bytes). */
const VARIABLES = 8;
const VARIABLE_BYTES = 16;
const COUNTER = VARIABLES * VARIABLE_BYTES;

/** The firmware. Microsoft's calling convention: RCX, RDX; RAX, RCX, RDX, R8 to R11 are the callee's. */
const firmware: StubProgram = {
  symbol: EFI_FIRMWARE,
  program: (a) => {
    a.label(EFI_SERVICES.GET_VARIABLE).lea(r9, at(EFI_FIRMWARE)).add(r9, PAGE_SIZE).mov(r10d, VARIABLES);
    a.label("efi_firmware.get.next").cmp(mem(r9), rcx).je("efi_firmware.get.found");
    a.add(r9, VARIABLE_BYTES).dec(r10d).jnz("efi_firmware.get.next").mov(eax, EFI_NOT_FOUND).ret();
    a.label("efi_firmware.get.found").mov(rax, mem(r9, 8)).mov(mem(rdx), rax).xor(eax, eax).ret();

    a.label(EFI_SERVICES.SET_VARIABLE).lea(r9, at(EFI_FIRMWARE)).add(r9, PAGE_SIZE).mov(r10d, VARIABLES);
    a.label("efi_firmware.set.next").cmp(mem(r9), rcx).je("efi_firmware.set.found");
    a.cmp(qword(mem(r9)), 0).je("efi_firmware.set.found");
    a.add(r9, VARIABLE_BYTES).dec(r10d).jnz("efi_firmware.set.next").mov(eax, EFI_OUT_OF_RESOURCES).ret();
    a.label("efi_firmware.set.found").mov(mem(r9), rcx).mov(mem(r9, 8), rdx).xor(eax, eax).ret();

    a.label(EFI_SERVICES.GET_NEXT_HIGH_MONO_COUNT)
      .lea(r9, at(EFI_FIRMWARE))
      .add(r9, PAGE_SIZE + COUNTER);
    a.mov(eax, mem(r9)).add(eax, 1).mov(mem(r9), eax).mov(mem(rcx), eax).xor(eax, eax).ret();
    a.label(EFI_FIRMWARE_END);
  },
  effect: () => EFI_SUCCESS,
};

/** The same in steps, on the firmware's data behind `base`. */
function runFirmware(base: VirtAddr, service: EfiService, first: number, second: number): number {
  const data = addVirt(base, PAGE_SIZE);
  if (service === "GET_NEXT_HIGH_MONO_COUNT") {
    const next = (cpu.load(addVirt(data, COUNTER), 4) + 1) >>> 0;
    cpu.store(addVirt(data, COUNTER), 4, next);
    cpu.store(virtAddr(first), 4, next);
    return EFI_SUCCESS;
  }
  for (let i = 0; i < VARIABLES; i++) {
    const slot = addVirt(data, i * VARIABLE_BYTES);
    const name = word.get(slot);
    if (service === "GET_VARIABLE" && name === first) {
      word.set(virtAddr(second), word.get(addVirt(slot, 8)));
      return EFI_SUCCESS;
    }
    if (service === "SET_VARIABLE" && (name === first || name === 0)) {
      word.set(slot, first);
      word.set(addVirt(slot, 8), second);
      return EFI_SUCCESS;
    }
  }
  return service === "GET_VARIABLE" ? EFI_NOT_FOUND : EFI_OUT_OF_RESOURCES;
}

/** Stubs; `offsetOf` tells where a service's code begins behind the firmware's first byte. */
export function efiStubs(offsetOf: (service: EfiService) => number): readonly StubProgram[] {
  const efiCall: StubProgram = {
    symbol: EFI_CALL,
    program: (a) => {
      a.push(rbp).mov(rbp, rsp).and(rsp, -16).sub(rsp, 32);
      a.mov(rax, rdi).mov(r8, rcx).mov(rcx, rsi).call(rax);
      a.mov(rsp, rbp).pop(rbp).ret();
    },
    effect: (address, first, second) => {
      for (const service of Object.keys(EFI_SERVICES) as readonly EfiService[]) {
        const base = virtAddr(address - offsetOf(service));
        // The firmware is mapped at a page.
        if (base % PAGE_SIZE === 0) return runFirmware(base, service, first, second);
      }
      return EFI_NOT_FOUND;
    },
  };
  return [firmware, efiCall];
}
