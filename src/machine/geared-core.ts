// The core with, in the detailed gear, the structures of its microarchitecture: what the machine asks of caches, predictors and
// labels. In the architectural gear there is nothing to flush, and only the labels of frames are kept.
import { type CpuModel, OWNER_GUEST, OWNER_USER, type OwnerKind, SPEC_CTRL_IBRS } from "../hardware/index.ts";
import { FRAME_OWNERS_REGION } from "./core/layout.gen.ts";
import { Core, type CoreGear } from "./core.ts";
import type { CoreFunctions } from "./core-functions.ts";
import { type DetailedExports, DetailedStructures, detailedExports } from "./detailed.ts";
import { detailedModelOf } from "./detailed-model-of.ts";

export type Gear = CoreGear;

/** Modes of the predictors: guest << 1 | user. */
const MODE_HOST_USER = 1;
const MODE_GUEST_KERNEL = 2;
const MODE_GUEST_USER = 3;
/** Byte m, bit t: mode m may use entries trained in mode t. All; and each only its own. */
const ALL_TRAINERS = 0x0f0f0f0f;
const OWN_TRAINERS = 0x08040201;

export class GearedCore {
  readonly core: Core;
  readonly gear: Gear;
  /** The structures of the detailed gear, for inspection; undefined in the architectural one. */
  readonly structures: DetailedStructures | undefined;
  private readonly detailed: DetailedExports | undefined;

  constructor(model: CpuModel, memoryBytes: number, cpus: number, gear: Gear, threadsPerCore = 1) {
    this.core = new Core({ physicalBytes: memoryBytes, cpus, gear, tlb: model.stlb, physicalBits: model.physicalBits });
    this.gear = gear;
    if (gear !== "detailed") return;
    const exports = detailedExports(this.core.functions);
    this.detailed = exports;
    const { core } = this;
    this.structures = new DetailedStructures(core.view.buffer, exports, cpus, detailedModelOf(model, threadsPerCore), (cpu) =>
      core.blockOf(cpu),
    );
    exports.selectCore(0);
  }

  get functions(): CoreFunctions {
    return this.core.functions;
  }

  get view(): DataView {
    return this.core.view;
  }

  get physical(): Uint8Array {
    return this.core.physical;
  }

  /** Makes `cpu` the active one, with the caches of its core. */
  selectCpu(cpu: number): void {
    this.core.functions.selectCpu(cpu);
    this.detailed?.selectCore(cpu);
  }

  // ---------------------------------------------------------------- operations

  touchPhysical(pa: number, bytes: number, isWrite: boolean): void {
    this.detailed?.touchPhysical(pa, bytes, isWrite ? 1 : 0);
  }

  predictorBarrier(): void {
    this.detailed?.indirectBranchPredictorBarrier();
  }

  flushL1d(): void {
    this.detailed?.flushL1d();
  }

  writeBackCaches(): void {
    this.detailed?.writeBackInvalidate();
  }

  /** IA32_SPEC_CTRL: with IBRS a mode is not steered by what another mode trained. */
  speculationControl(cpu: number, value: number): void {
    this.structures?.setTrainersAllowed(cpu, (value & SPEC_CTRL_IBRS) !== 0 ? OWN_TRAINERS : ALL_TRAINERS);
  }

  // ---------------------------------------------------------------- ground truth

  setFrameOwner(pfn: number, label: number): void {
    if (this.structures !== undefined) this.structures.setFrameOwner(pfn, label);
    else this.core.view.setUint16(FRAME_OWNERS_REGION + pfn * 2, label, true);
  }

  frameOwner(pfn: number): number {
    return this.core.view.getUint16(FRAME_OWNERS_REGION + pfn * 2, true);
  }

  /** Who executes on `cpu` from now on when it is in user mode, or in a guest; anything else is the kernel. */
  setContext(cpu: number, kind: OwnerKind, label: number): void {
    const { structures } = this;
    if (structures === undefined) return;
    if (kind === OWNER_USER) structures.setContextLabel(cpu, MODE_HOST_USER, label);
    else if (kind === OWNER_GUEST) {
      structures.setContextLabel(cpu, MODE_GUEST_KERNEL, label);
      structures.setContextLabel(cpu, MODE_GUEST_USER, label);
    } else structures.setContextLabel(cpu, 0, label);
  }
}
