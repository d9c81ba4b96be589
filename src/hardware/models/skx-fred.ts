// Hypothetical: Skylake-SP with Flexible Return and Event Delivery, which no such part has. It serves to run the kernel's FRED entries with
// the bugs and costs of a part whose numbers are known; what FRED itself costs is not modelled apart from them.
import type { CpuModel } from "./model.ts";
import { skx } from "./skx.ts";

export const skxFred = {
  ...skx,
  key: "skx-fred",
  name: "Skylake-SP with FRED (hypothetical)",
  features: [...skx.features, "FRED", "LKGS"],
} as const satisfies CpuModel;
