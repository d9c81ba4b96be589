// System instructions: privilege, control registers, descriptor tables, events, fences and cache control, vector moves. All are cold;
// each is a function of the core (`core/system.ts`, `core/events.ts`). Where an instruction needs the host, the function sets EXIT_* and leaves.
import type { Expr, Op } from "../ir.ts";
import { address, imm, reg, status } from "../ir.ts";

function system(name: string, fn: string, ...args: Expr[]): Op {
  return { name, cold: true, bytes: 16, latency: "system", body: [status(fn, ...args)] };
}

function serializing(name: string, fn: string, ...args: Expr[]): Op {
  return { name, cold: true, bytes: 16, latency: "serialize", body: [status(fn, ...args)] };
}

function slow(name: string, fn: string, ...args: Expr[]): Op {
  return { name, cold: true, bytes: 16, latency: "slow", body: [status(fn, ...args)] };
}

const source = reg("src", 64);
const destination = reg("dst", 64);

export const systemOps: readonly Op[] = [
  // Flags and interrupts.
  system("cli", "clearInterruptFlag"),
  system("sti", "setInterruptFlag"),
  slow("pushf", "pushFlags", imm),
  system("popf", "popFlags", imm),
  slow("cld", "setDirection", imm),
  slow("std", "setDirection", imm),
  system("clac", "setAlignmentCheck", imm),
  system("stac", "setAlignmentCheck", imm),
  system("hlt", "halt"),
  // Events.
  system("int_n", "softwareInterrupt", imm),
  system("int3", "breakpoint"),
  system("int1", "debugTrap"),
  system("undefined", "undefinedInstruction", imm),
  system("trap", "trap"),
  system("iretq", "interruptReturn", imm),
  system("far_return", "farReturn", imm),
  system("syscall", "systemCall"),
  system("sysretq", "systemReturn"),
  system("swapgs", "swapGs"),
  // Control and debug registers: imm is the number.
  system("mov_from_cr", "readControlRegister", imm),
  system("mov_to_cr", "writeControlRegister", imm, source),
  system("mov_from_dr", "readDebugRegister", imm),
  system("mov_to_dr", "writeDebugRegister", imm, source),
  system("clts", "clearTaskSwitched"),
  system("lmsw", "loadMachineStatus", source),
  system("lmsw_m", "loadMachineStatusMemory", address),
  slow("smsw", "storeMachineStatus", imm),
  slow("smsw_m", "storeMachineStatusMemory", address),
  // Descriptor tables and segments: imm is SEG_*.
  system("lgdt", "loadDescriptorTable", imm, address),
  system("lidt", "loadDescriptorTable", imm, address),
  slow("sgdt", "storeDescriptorTable", imm, address),
  slow("sidt", "storeDescriptorTable", imm, address),
  system("ltr", "loadSystemSegment", imm, source),
  system("lldt", "loadSystemSegment", imm, source),
  system("ltr_m", "loadSystemSegmentMemory", imm, address),
  system("lldt_m", "loadSystemSegmentMemory", imm, address),
  slow("store_selector", "storeSelector", imm),
  slow("store_selector_m", "storeSelectorMemory", imm, address),
  system("load_segment", "loadSegment", imm, source),
  system("load_segment_m", "loadSegmentMemory", imm, address),
  // These two and far_return read their operand size in SCALE.
  slow("push_segment", "pushSegment", imm),
  system("pop_segment", "popSegment", imm),
  system("verw", "verifyWrite", source),
  system("verw_m", "verifyWriteMemory", address),
  system("verr", "verifyRead", source),
  system("verr_m", "verifyReadMemory", address),
  // FS and GS bases: imm is SEG_FS or SEG_GS, plus 8 for the 32-bit form.
  system("read_base", "readSegmentBase", imm),
  system("write_base", "writeSegmentBase", imm, source),
  // TLB.
  system("invlpg", "invalidatePage", address),
  system("invpcid", "invalidatePcid", destination, address),
  // Time and identity.
  serializing("rdtsc", "readTimeStamp"),
  serializing("rdtscp", "readTimeStampAndAux"),
  slow("rdpid", "readProcessorId"),
  // Performed by the host: imm is ASSIST_*.
  system("assist", "assist", imm),
  system("assist_m", "assistMemory", imm, address),
  system("in", "portIn", imm),
  system("in_dx", "portInDx", imm),
  system("out", "portOut", imm),
  system("out_dx", "portOutDx", imm),
  system("ins", "portInString", imm),
  system("outs", "portOutString", imm, source),
  // Fences, hints, cache control.
  serializing("lfence", "loadFence"),
  serializing("mfence", "memoryFence"),
  serializing("sfence", "storeFence"),
  slow("pause", "pause"),
  slow("clflush", "flushLine", address),
  slow("prefetch", "prefetchLine", address),
  // Atomic pairs.
  slow("cmpxchg8b", "compareExchangePair", imm, address),
  slow("cmpxchg16b", "compareExchangePair", imm, address),
  // Vector moves: src and dst are offsets of XMM registers; imm is the number of bytes.
  slow("vector_load", "vectorLoad", imm, address),
  slow("vector_load_aligned", "vectorLoadAligned", imm, address),
  slow("vector_store", "vectorStore", imm, address),
  slow("vector_store_aligned", "vectorStoreAligned", imm, address),
  slow("vector_move", "vectorMove", imm),
  slow("vector_xor", "vectorXor"),
  slow("vector_from_register", "vectorFromRegister", imm, source),
  slow("vector_to_register", "vectorToRegister", imm),
];
