// From a CPU model (src/hardware/models) to what the detailed gear needs: geometry and bugs as they are, and the few figures that no
// manual gives.
import { type CpuModel, hasBug, hasFeature } from "../hardware/index.ts";
import type { DetailedModel } from "./detailed-model.ts";

// Assumed: no published figures, of the right order for Intel's cores since Skylake.
const FORWARD_LATENCY = 5;
const FAULT_WINDOW = 60;
const SECOND_TLB_LATENCY = 7;
/** Branch address bits that the indirect predictor sees (reverse engineered on Skylake: it aliases above). */
const TARGET_SOURCE_BITS = 30;
const MAX_HISTORY = 32;
const SWAPGS_COST = 25;

export function detailedModelOf(model: CpuModel, threadsPerCore = 1): DetailedModel {
  return {
    l1d: { sets: model.l1d.sets, ways: model.l1d.ways, latency: model.l1d.latency.value },
    l1i: { sets: model.l1i.sets, ways: model.l1i.ways, latency: model.l1i.latency.value },
    l2: { sets: model.l2.sets, ways: model.l2.ways, latency: model.l2.latency.value },
    l3: { sets: model.l3.sets, ways: model.l3.ways, latency: model.l3.latency.value, inclusive: model.l3.isInclusive },
    memoryLatency: model.memoryLatency.value,
    lineFillBuffers: model.lineFillBuffers,
    reorderBuffer: model.reorderBuffer,
    storeBuffer: model.storeBuffer,
    forwardLatency: FORWARD_LATENCY,
    mispredictPenalty: model.mispredictPenalty.value,
    faultWindow: FAULT_WINDOW,
    dataTlb: model.dtlb,
    secondTlbLatency: SECOND_TLB_LATENCY,
    targetEntries: model.branchTargets.value,
    targetSourceBits: TARGET_SOURCE_BITS,
    returnStackDepth: model.returnStack,
    returnUnderflow: model.returnUnderflowUsesBtb ? "indirect" : "stale",
    historyLength: Math.min(model.branchHistory.value, MAX_HISTORY),
    isolation: "none",
    bugs: { meltdown: hasBug(model, "CPU_MELTDOWN"), l1tf: hasBug(model, "L1TF"), mds: hasBug(model, "MDS") },
    ibpbClearsReturns: model.ibpbClearsReturnStack,
    mdClear: hasFeature(model, "MD_CLEAR"),
    threadsPerCore,
    costs: {
      syscall: model.cost.syscall.value,
      sysret: model.cost.sysret.value,
      iret: model.cost.iret.value,
      swapgs: SWAPGS_COST,
      controlWrite: model.cost.cr3WriteNoflush.value,
      invlpg: model.cost.invlpg.value,
      invpcid: model.cost.invpcid.value,
      verw: model.cost.verw.value,
      lfence: model.cost.lfence.value,
      interrupt: model.cost.interruptDelivery.value,
      pageFault: model.cost.pageFault.value,
    },
  };
}
