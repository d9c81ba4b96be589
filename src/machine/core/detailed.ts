// Entry of the core in the detailed gear: what the host can call.
export { nextPagePhysical } from "./blocks.ts";
export * from "./control.ts";
export * from "./detailed/operations.ts";
export { selectCore } from "./detailed/select.ts";
export * from "./host-access.ts";
export { run } from "./run.ts";
