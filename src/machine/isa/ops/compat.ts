// Compatibility mode (SDM vol. 3, 2.2 and 3.4): near transfers and stack moves of 32 bits in flat segments, which are frequent, are ops like
// those of 64-bit mode; everything else there (16-bit sizes, segments that are not flat, instructions that 64-bit mode does not have) is a
// function of the core. SCALE holds the operand size in bytes where the function needs it. Far transfers belong to both modes.
import type { Op, Stmt } from "../ir.ts";
import {
  add,
  address,
  and,
  compare,
  disp,
  fixed,
  fixedUnsigned,
  flagBits,
  imm,
  let_,
  load,
  loadForWrite,
  num,
  or,
  PAGE_BASE,
  RBP,
  RSP,
  reg,
  regUnsigned,
  select,
  setFixed,
  setReg,
  status,
  store,
  storeBack,
  sub,
  temp,
  zext,
} from "../ir.ts";

function hot(name: string, body: Stmt[]): Op {
  return { name, cold: false, bytes: 32, latency: "branch", body };
}

function cold(name: string, body: Stmt[]): Op {
  return { name, cold: true, bytes: 16, latency: "alu", body };
}

function slow(name: string, body: Stmt[]): Op {
  return { name, cold: true, bytes: 16, latency: "slow", body };
}

function system(name: string, body: Stmt[]): Op {
  return { name, cold: true, bytes: 16, latency: "system", body };
}

const source = reg("src", 64);
const destination = reg("dst", 64);
/** ESP, and ESP after a push of 32 bits, as addresses. */
const top = fixedUnsigned(RSP, 32);
const pushed = zext(32, sub(fixed(RSP, 64), num(4)));
const popped = setFixed(RSP, 32, add(fixed(RSP, 64), num(4)));

/** CALL in a flat code segment: the return address relative to the page is `disp`, as in 64-bit mode. */
function callTail(): Stmt[] {
  return [
    let_("w", zext(32, add(fixed(PAGE_BASE, 64), disp))),
    store(32, pushed, temp("w")),
    setFixed(RSP, 32, sub(fixed(RSP, 64), num(4))),
    { s: "pushReturn", address: temp("w") },
  ];
}

const nearTransfers: readonly Op[] = [
  hot("call32", [...callTail(), { s: "jump" }]),
  hot("call32_r", [let_("v", regUnsigned("dst", 32)), ...callTail(), { s: "indirect", target: temp("v"), via: "call" }]),
  hot("ret32", [load("v", 32, top, true), popped, { s: "indirect", target: temp("v"), via: "return" }]),
  hot("ret32_imm", [
    load("v", 32, top, true),
    setFixed(RSP, 32, add(fixed(RSP, 64), add(imm, num(4)))),
    { s: "indirect", target: temp("v"), via: "return" },
  ]),
  hot("jmp32_r", [let_("v", regUnsigned("dst", 32)), { s: "indirect", target: temp("v"), via: "jump" }]),
  system("near_jump", [status("nearJump", source)]),
  system("near_jump_relative", [status("nearJumpRelative", imm)]),
  system("near_call", [status("nearCall", source)]),
  system("near_call_relative", [status("nearCallRelative", imm)]),
  system("near_return", [status("nearReturn", imm)]),
  // The condition is in src, 0 or 1.
  system("near_branch", [status("nearBranch", imm, regUnsigned("src", 8))]),
  // DISP says which loop it is and how wide its counter.
  system("near_loop", [status("nearLoop", imm, disp)]),
];

const stack: readonly Op[] = [
  cold("push32_r", [let_("v", reg("src", 32)), store(32, pushed, temp("v")), setFixed(RSP, 32, sub(fixed(RSP, 64), num(4)))]),
  cold("push32_i", [let_("v", imm), store(32, pushed, temp("v")), setFixed(RSP, 32, sub(fixed(RSP, 64), num(4)))]),
  cold("pop32_r", [load("v", 32, top), popped, setReg("dst", 32, temp("v"))]),
  cold("leave32", [load("v", 32, fixedUnsigned(RBP, 32)), setFixed(RSP, 32, add(fixed(RBP, 64), num(4))), setFixed(RBP, 32, temp("v"))]),
  slow("stack_push", [status("stackPush", source)]),
  slow("stack_push_i", [status("stackPush", imm)]),
  slow("stack_pop", [status("stackPop")]),
  slow("stack_peek", [status("stackPeek")]),
  slow("stack_drop", [status("stackDrop")]),
  slow("push_all", [status("pushAll")]),
  slow("pop_all", [status("popAll")]),
  slow("enter_frame", [status("enterFrame", imm, disp)]),
  slow("leave_frame", [status("leaveFrame")]),
];

const segments: readonly Op[] = [
  // The sum of a 16-bit address.
  cold("lea16_zero", [setReg("dst", 64, and(address, num(0xffff)))]),
  slow("segment_address", [status("segmentAddress", imm, address)]),
  system("check_fetch", [status("checkFetch", imm)]),
  system("jump_far", [status("jumpFar", source, destination)]),
  system("call_far", [status("callFar", source, destination)]),
  // LES LDS LSS LFS LGS: offset and selector have been loaded; imm is SEG_*.
  system("load_far_pointer", [status("loadFarPointer", imm, source)]),
  slow("lar", [status("loadAccessRights", source)]),
  slow("lsl", [status("loadSegmentLimit", source)]),
];

/** ARPL: the requested privilege of `a` is raised to that of the source. */
const raised = select(compare("ltu", and(temp("a"), num(3)), and(temp("b"), num(3))), num(1), num(0));
const arplTail: Stmt[] = [
  let_("c", raised),
  let_("r", select(compare("ne", temp("c"), num(0)), or(and(temp("a"), num(~3)), and(temp("b"), num(3))), temp("a"))),
];
const arplFlags: Stmt = {
  s: "flags",
  kind: "raw",
  a: or(and(flagBits, num(~0x40)), select(compare("ne", temp("c"), num(0)), num(0x40), num(0))),
};

/** Instructions that 64-bit mode does not have. */
const legacy: readonly Op[] = [
  slow("aaa", [status("asciiAdjustAddition")]),
  slow("aas", [status("asciiAdjustSubtraction")]),
  slow("daa", [status("decimalAdjustAddition")]),
  slow("das", [status("decimalAdjustSubtraction")]),
  slow("aam", [status("asciiAdjustMultiplication", imm)]),
  slow("aad", [status("asciiAdjustDivision", imm)]),
  slow("salc", [status("setAlFromCarry")]),
  system("into", [status("overflowTrap")]),
  slow("bound", [status("checkBound", source)]),
  cold("arpl_r", [let_("a", reg("dst", 16)), let_("b", reg("src", 16)), ...arplTail, setReg("dst", 16, temp("r")), arplFlags]),
  cold("arpl_m", [loadForWrite("a", 16, address), let_("b", reg("src", 16)), ...arplTail, storeBack(16, temp("r")), arplFlags]),
  system("sysenter", [status("systemEnter")]),
  system("sysexit", [status("systemExit")]),
  system("sysretd", [status("systemReturnCompat")]),
  system("eretu", [status("eventReturnUser")]),
  system("erets", [status("eventReturnSupervisor")]),
  system("lkgs", [status("loadKernelGs", source)]),
  system("lkgs_m", [status("loadKernelGsMemory", address)]),
];

export const compatOps: readonly Op[] = [...nearTransfers, ...stack, ...segments, ...legacy];
