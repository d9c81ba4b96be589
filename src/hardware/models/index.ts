// All CPU models by key.
import { clx } from "./clx.ts";
import type { Bug, CpuModel, Feature } from "./model.ts";
import { skx } from "./skx.ts";
import { skxFred } from "./skx-fred.ts";

export const CPU_MODELS: readonly CpuModel[] = [skx, clx, skxFred];

/** What a run simulates unless told otherwise: the affected part. */
export const DEFAULT_CPU_MODEL: CpuModel = skx;

export function findCpuModel(key: string): CpuModel | undefined {
  return CPU_MODELS.find((model) => model.key === key);
}

export function hasBug(model: CpuModel, bug: Bug): boolean {
  return model.bugs.includes(bug);
}

export function hasFeature(model: CpuModel, feature: Feature): boolean {
  return model.features.includes(feature);
}
