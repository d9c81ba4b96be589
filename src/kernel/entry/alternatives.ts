// Code of the entries that only some configurations need (kernel: ALTERNATIVE in arch/x86/kernel/alternative.c). The text is the same
// bytes for every configuration: such code is assembled in its place, kept aside, and its place filled with no-ops; at boot, before user
// code and other CPUs run, what is selected is written back.
import type { Assembler } from "../../assembler/index.ts";
import { addVirt, cpu, type VirtAddr } from "../../hardware/index.ts";
import {
  clearBhbLoop,
  clearCpuBuf,
  fenceSwapgsKernel,
  fenceSwapgsUser,
  fredFeature,
  kernelIbrs,
  ptiFeature,
  rsbCtxsw,
} from "../mitigations/feature-keys.ts";
import { hasPcid } from "../mm/cr3.ts";
import { pa, va } from "../mm/layout.ts";

/** What code may depend on. */
export type AlternativeFeature =
  | "pti"
  | "pti_pcid"
  | "verw"
  | "ibrs"
  | "bhb"
  | "rsb_ctxsw"
  | "fence_swapgs_user"
  | "fence_swapgs_kernel"
  | "fred";

function isSelected(feature: AlternativeFeature): boolean {
  switch (feature) {
    case "pti":
      return ptiFeature.isEnabled();
    case "pti_pcid":
      return ptiFeature.isEnabled() && hasPcid();
    case "verw":
      return clearCpuBuf.isEnabled();
    case "ibrs":
      return kernelIbrs.isEnabled();
    case "bhb":
      return clearBhbLoop.isEnabled();
    case "fred":
      return fredFeature.isEnabled();
    case "rsb_ctxsw":
      return rsbCtxsw.isEnabled();
    case "fence_swapgs_user":
      return fenceSwapgsUser.isEnabled();
    case "fence_swapgs_kernel":
      return fenceSwapgsKernel.isEnabled();
  }
}

const PREFIX = "alternative";

/** Emits code that is there only where `feature` is selected. `site`: names the place, unique for the feature. */
export function alternative(a: Assembler, feature: AlternativeFeature, site: string, emit: (a: Assembler) => void): void {
  a.label(`${PREFIX}:${feature}:${site}:begin`);
  emit(a);
  a.label(`${PREFIX}:${feature}:${site}:end`);
}

/** One place in the text, and the code that goes there. */
export interface AlternativeSite {
  readonly feature: AlternativeFeature;
  readonly address: VirtAddr;
  readonly code: Uint8Array;
}

/** The no-ops of each length that the manuals recommend. SDM vol. 2, NOP. */
const NOPS: readonly (readonly number[])[] = [
  [],
  [0x90],
  [0x66, 0x90],
  [0x0f, 0x1f, 0x00],
  [0x0f, 0x1f, 0x40, 0x00],
  [0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
  [0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];
const LONGEST_NOP = 8;
/** Longer fillings begin with a jump over the rest. */
const JUMP_FROM_BYTES = 20;
const JMP_REL8 = 0xeb;
const JMP_REL32 = 0xe9;
const INT3 = 0xcc;

/** `count` bytes that do nothing. */
export function filling(count: number): Uint8Array {
  const bytes = new Uint8Array(count).fill(INT3);
  if (count >= JUMP_FROM_BYTES) {
    const isNear = count - 2 <= 127;
    const view = new DataView(bytes.buffer);
    view.setUint8(0, isNear ? JMP_REL8 : JMP_REL32);
    if (isNear) view.setInt8(1, count - 2);
    else view.setInt32(1, count - 5, true);
    return bytes;
  }
  for (let at = 0; at < count; ) {
    const length = Math.min(LONGEST_NOP, count - at);
    bytes.set(NOPS[length] ?? [], at);
    at += length;
  }
  return bytes;
}

/** Takes the code of all sites out of assembled text at `base`: what is left is filled with no-ops. */
export function takeOutAlternatives(text: Uint8Array, base: VirtAddr, symbols: ReadonlyMap<string, number>): readonly AlternativeSite[] {
  const sites: AlternativeSite[] = [];
  for (const [name, address] of symbols) {
    const [prefix, feature, site, edge] = name.split(":");
    if (prefix !== PREFIX || edge !== "begin") continue;
    const end = symbols.get(`${PREFIX}:${feature}:${site}:end`) ?? address;
    const from = address - base;
    const code = text.slice(from, from + end - address);
    sites.push({ feature: feature as AlternativeFeature, address: address as VirtAddr, code }); // what alternative() wrote
    text.set(filling(code.length), from);
  }
  return sites;
}

/**
 * Writes the selected code into the text, through the direct map (kernel: `alternative_instructions()`). Boot CPU, after what selects
 * mitigations, before other CPUs and user code; interrupts off.
 */
export function applyAlternatives(sites: readonly AlternativeSite[]): void {
  for (const { feature, address, code } of sites) {
    if (!isSelected(feature)) continue;
    const at = va(pa(address));
    for (let i = 0; i < code.length; i++) cpu.store(addVirt(at, i), 1, code[i] ?? 0);
  }
}

/** After SWAPGS at an entry from user mode: a wrong guess that it was skipped ends here (kernel: FENCE_SWAPGS_USER_ENTRY). */
export function emitFenceSwapgsUser(a: Assembler, site: string): void {
  alternative(a, "fence_swapgs_user", site, () => a.lfence());
}

/** Where an entry from kernel mode skips SWAPGS: the same for the opposite guess (kernel: FENCE_SWAPGS_KERNEL_ENTRY). */
export function emitFenceSwapgsKernel(a: Assembler, site: string): void {
  alternative(a, "fence_swapgs_kernel", site, () => a.lfence());
}
