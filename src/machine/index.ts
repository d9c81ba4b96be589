// The simulated multiprocessor's face: see README.md.

export { PORT_DEBUG_CONSOLE, PORT_DEBUG_EXIT } from "../platform/index.ts";
export type { EntryHook, StepHook } from "./board.ts";
export { Core, type CoreGear, type CoreOptions } from "./core.ts";
export { CoreFields } from "./core-fields.ts";
export type { CoreFunctions } from "./core-functions.ts";
export * from "./detailed.ts";
export * from "./detailed-model.ts";
export { detailedModelOf } from "./detailed-model-of.ts";
export * from "./flat.ts";
export { type Gear, GearedCore } from "./geared-core.ts";
export { Inspection, type TruthStructure } from "./inspection.ts";
export { peekTranslate } from "./peek-walk.ts";
export { SimulatedCpu } from "./simulated-cpu.ts";
export { type MachineOptions, type RunResult, SimulatedMachine } from "./simulated-machine.ts";
export type { MachineSnapshot } from "./snapshot.ts";
