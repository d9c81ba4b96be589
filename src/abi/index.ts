export * from "./errno.ts";
export * from "./kvm.ts";
export * from "./kvm-structs.ts";
export * from "./syscall.ts";
