// Controls: variations that show that one defence, and nothing else, is what stops an attack. Each takes one thing away from ASI, or
// aims the attack at memory that ASI does not protect.
import { addVirt, assert, cpu, PAGE_SIZE, type PhysAddr, pageDown, type VirtAddr } from "../../hardware/index.ts";
import {
  ASI_GLOBAL_NONSENSITIVE,
  asiMapGfp,
  doL1tfFlush,
  GFP_ATOMIC,
  GFP_HIGHUSER_MOVABLE,
  GFP_KERNEL,
  getFreePages,
  type KernelHooks,
  pa,
  va,
} from "../../kernel/index.ts";

export const CONTROL_NAMES = ["none", "no-data-flush", "map-secret", "nonsensitive-page", "module-loads-secret"] as const;
export type ControlName = (typeof CONTROL_NAMES)[number];

export const CONTROL_MEANINGS: Readonly<Record<ControlName, string>> = {
  none: "ASI as it is",
  "no-data-flush": "ASI without its data flush: L1D keeps what the unrestricted kernel and other processes left",
  "map-secret": "ASI, with the one page of the secret mapped into the restricted address spaces",
  "nonsensitive-page": "ASI, and the attack aims at a page that the kernel allocated as nonsensitive",
  "module-loads-secret":
    "the published selftest: the victim runs on another core, and a module loads the secret into the attacker's L1D by its direct-map address",
};

/** What a control changes in a simulation. */
export interface Control {
  /** Runs in the kernel at the end of its boot. */
  readonly lateInitcall?: () => void;
  readonly hooks?: KernelHooks;
  /** The secret is in its page from now on: true asks for the interrupt whose hook is `hooks.irqWork`. */
  readonly wantsInterrupt: boolean;
  /** The victim has a core of its own, and the interrupt comes again and again on the attacker's. */
  readonly isOnOtherCore?: boolean;
  /** Physical address that the attack aims at instead of the victim's secret; known after boot. */
  readonly target?: () => PhysAddr;
}

/** `secretAt`: physical address of the victim's secret, where it is known already. `content`: of a target other than the secret. */
export function makeControl(name: ControlName, secretAt: PhysAddr | undefined, content: Uint8Array): Control {
  switch (name) {
    case "none":
      return { wantsInterrupt: false };
    case "no-data-flush":
      return { wantsInterrupt: false, lateInitcall: () => doL1tfFlush.set(0) };
    case "map-secret":
      return { wantsInterrupt: secretAt !== undefined, hooks: { irqWork: () => mapPageOf(secretAt) } };
    case "nonsensitive-page":
      return pageOfKernel(content, GFP_KERNEL);
    case "module-loads-secret":
      return moduleLoadsSecret(content);
  }
}

function mapPageOf(secretAt: PhysAddr | undefined): void {
  if (secretAt === undefined) return;
  const error = asiMapGfp(ASI_GLOBAL_NONSENSITIVE, pageDown(va(secretAt)), PAGE_SIZE, GFP_ATOMIC);
  assert(error === 0, () => `cannot map the secret's page: error ${error}`);
}

/** As the victim's secret: not in line 0, whose L1D set is that of every page table. */
const OFFSET_IN_PAGE = 0x9c0;

function pageOfKernel(content: Uint8Array, gfp: Parameters<typeof getFreePages>[0]): Control & { readonly address: () => VirtAddr } {
  let page: VirtAddr | undefined;
  const address = (): VirtAddr => {
    assert(page !== undefined, () => "the kernel has not booted yet");
    return page;
  };
  return {
    wantsInterrupt: false,
    address,
    lateInitcall: () => {
      const at = addVirt(getFreePages(gfp, 0), OFFSET_IN_PAGE);
      for (const [index, byte] of content.entries()) cpu.store(addVirt(at, index), 1, byte);
      page = at;
    },
    target: () => pa(address()),
  };
}

/** The selftest's module: its secret is sensitive; its kprobe, here an interrupt, loads it by the direct map. */
function moduleLoadsSecret(content: Uint8Array): Control {
  const control = pageOfKernel(content, GFP_HIGHUSER_MOVABLE);
  return { ...control, isOnOtherCore: true, hooks: { irqWork: () => cpu.load(control.address(), 4) } };
}
