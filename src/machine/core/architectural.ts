// Entry of the core in the architectural gear: what the host can call.
export { nextPagePhysical } from "./blocks.ts";
export * from "./control.ts";
export * from "./host-access.ts";
export { run } from "./run.ts";
