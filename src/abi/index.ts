export * from "./errno.ts";
export * from "./kvm.ts";
export * from "./kvm-structs.ts";
export * from "./process.ts";
export * from "./signal.ts";
export * from "./syscall.ts";
